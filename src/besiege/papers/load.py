"""Finding and reading the files of published tables and figures."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli_w
from pydantic import ValidationError

from besiege.core.errors import BadSetting, one_of, unknown
from besiege.core.files import existing
from besiege.papers.measures import MEASURES
from besiege.papers.schema import COLUMNS, Claim, PaperFile, Row
from besiege.study.experiment.complaints import explained
from besiege.study.experiment.experiment import Experiment, experiment_from
from besiege.study.experiment.overrides import override

HOME = Path(__file__).parent
ENDING = ".toml"
# What everybody has: stands in where a file leaves images and model to the user.
DIGITS = {"data": "digits", "model": "digits-cnn"}
NAMED = ("data.source", "model.source", "data.n")  # the sentence above a table has them


@dataclass(frozen=True)
class Paper:
    """A file, read and checked, and which of its rows are wanted."""

    name: str
    file: PaperFile
    home: Path | None  # where its paths count from; None for here
    rows: tuple[Row, ...]
    quick: bool = False
    changes: tuple[str, ...] = ()  # of settings that no sentence of the table names

    @property
    def claims(self) -> tuple[Claim, ...]:
        """Those about the rows wanted."""
        there = {row.name for row in self.rows}
        return tuple(c for c in self.file.claim if {c.row, c.than or c.row} <= there)

    def experiment(self, which: str) -> Experiment:
        """The experiment of a column. Raises BadSetting where images or model are missing."""
        lacking = [o for o, t in _wanted(self.file).items() if not t]
        if lacking:
            raise BadSetting(
                f"{self.name} needs {' and '.join(lacking)}: {self.file.needs or 'yours'} "
                f'For instance --images FOLDER --model "file:WEIGHTS.safetensors" (`besiege list '
                "data` and `besiege list models` have more); or --quick, on digits, to see it work."
            )
        return self._experiment(which, self.file.settings(which, self.name, self.rows))

    def check(self) -> None:
        """Build every link, recipe and measure; nothing is loaded."""
        _check(self.file, self.name)
        for which in COLUMNS:
            for row in self.file.row:
                self.file.answer(which, row)
            settings = dict(self.file.settings(which, self.name, self.file.row))
            for table, source in DIGITS.items():
                settings[table] = {"source": source, **settings[table]}
            self._experiment(which, settings)

    def _experiment(self, which: str, settings: Mapping[str, Any]) -> Experiment:
        text = tomli_w.dumps(dict(settings))
        where = f"{self.name}, {which}"
        return experiment_from(settings, home=self.home, where=where, text=text)


def _wanted(file: PaperFile) -> dict[str, str]:
    return {"--images": file.data.source, "--model": file.model.source}


def shipped() -> dict[str, Path]:
    """The files that come with besiege, by name."""
    return {path.stem: path for path in sorted(HOME.glob(f"*{ENDING}"))}


def load_paper(
    name: str, changes: Sequence[str] = (), only: Sequence[str] = (), quick: bool = False
) -> Paper:
    """A file by its name, or a stranger's by its path, with settings changed.

    changes: as for `--set`, "data.n=8" or "correct.threat.passes=300". only: names of the rows
    wanted; none for all. quick: on digits, with what the file says of that.
    Raises BadSetting or UnknownName, with the key, what was expected, and the nearest name.
    """
    path, home = _found(name)
    try:
        settings = tomllib.loads(path.read_text("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadSetting(f"{path} is not TOML: {error}.") from error
    file = _validated(settings, path)
    if quick:
        base = [f'{table}.source="{source}"' for table, source in DIGITS.items()]
        changes = [*base, *file.quick.set, *changes]
    file = _validated(override(settings, changes), path)
    names = [row.name for row in file.row]
    for row in only:
        one_of("row", row, names, path.stem)
    wanted = set(only or (file.quick.rows if quick else ()) or names)
    rows = tuple(row for row in file.row if row.name in wanted)
    told = tuple(c for c in changes if c.partition("=")[0].strip() not in NAMED)
    paper = Paper(path.stem, file, home, rows, quick, told)
    paper.check()
    return paper


def _validated(settings: Mapping[str, Any], path: Path) -> PaperFile:
    try:
        return PaperFile.model_validate(settings)
    except ValidationError as error:
        raise explained(error, PaperFile, str(path)) from error


def _found(name: str) -> tuple[Path, Path | None]:
    known = shipped()
    if name in known:
        return known[name], None
    if not name.endswith(ENDING):
        raise unknown("table or figure", name, known, "besiege reproduce")
    path = existing(name, "file of a table or figure", BadSetting)
    return path, path.resolve().parent


def _check(file: PaperFile, name: str) -> None:
    """Names lead somewhere, and none is used twice."""
    rows = _unique("row", (row.name for row in file.row), name)
    quantities = _unique("quantity", (q.name for q in file.quantity), name)
    for q in file.quantity:
        for which in COLUMNS:
            one_of("measure", getattr(q, which), MEASURES, f'{name}, quantity "{q.name}", {which}')
    for row in file.row:
        for which in COLUMNS:
            known = [d.name for d in file.defenses(which)]
            one_of("defense", row.guarded, known, f'{name}, row "{row.name}", {which}')
        for quantity in row.published:
            one_of("quantity", quantity, quantities, f'{name}, row "{row.name}"')
    for claim in file.claim:
        where = f'{name}, claim "{claim.says}"'
        one_of("quantity", claim.quantity, quantities, where)
        for row_name in filter(None, (claim.row, claim.than)):
            one_of("row", row_name, rows, where)
    for row_name in file.quick.rows:
        one_of("row", row_name, rows, f"{name}, quick")


def _unique(kind: str, names: Iterable[str], where: str) -> list[str]:
    found = list(names)
    if twice := sorted({name for name in found if found.count(name) > 1}):
        raise BadSetting(f'{where}: the {kind} "{twice[0]}" is there twice.')
    return found
