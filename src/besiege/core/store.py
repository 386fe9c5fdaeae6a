"""Run folders: rows in Parquet shards that appear whole or not at all.

DIR/experiment.toml   as given                 DIR/cells/CELL-*.parquet    a row per example
DIR/resolved.json     settings, cells, ids     DIR/traces/CELL-*.parquet   figures per step
DIR/environment.json  versions                 DIR/images/CELL-ID.npz      a few examples
DIR/planned.toml      adaptive attackers' plans
DIR/findings.json     what checks say of it    DIR/locks/*                 who works on it
DIR/certificates.json radii that were proved   DIR/checks.json             which could be asked
"""

from __future__ import annotations

import io
import json
import os
import socket
import threading
import zipfile
import zlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import duckdb
import numpy as np

from besiege.core.columns import LATER, ROW_COLUMNS, TRACE_COLUMNS, as_column, shard_name
from besiege.core.errors import BadRun
from besiege.core.lock import hold

LOCKS = "locks"
GIVEN, PLANNED = "experiment.toml", "planned.toml"  # as asked for, and as worked out
PLANS = "plans"  # what attackers worked out, before the run is begun
ALWAYS = "predicted"  # a column that every row has
FOUND_BY = "found by: "  # how the flag of a row begins that says who of a union found its point


@dataclass(frozen=True)
class RunFolder:
    """One run on disk. Reading needs no more than the path; `open` is for writing.

    Every file is written beside its place, forced to disk and renamed, so that a kill at any time
    leaves whole files only.
    """

    path: Path
    held: ExitStack = field(default_factory=ExitStack, repr=False, compare=False)

    @classmethod
    def open(cls, path: Path, part: str = "") -> RunFolder:
        """The folder at `path`, made if need be and locked until the `with` block ends.

        part: the name of one of several parts of a run, which may be open side by side: each keeps
        out its own like, and a run of the whole folder.
        Raises BadRun if it cannot be written, holds something else, or another run works on it.
        """
        try:
            path.mkdir(parents=True, exist_ok=True)
            names = {p.name for p in path.iterdir() if not p.name.startswith(".resolved.json")}
            foreign = names - {LOCKS, PLANS} and not (path / "resolved.json").exists()
        except OSError as error:
            raise BadRun(
                f"{path} cannot be a run folder ({error.strerror}): name another with --out."
            ) from error
        if foreign:
            raise BadRun(
                f"{path} is not empty and holds no run (no resolved.json in it): name a new "
                "folder, or that of a run to resume."
            )
        folder = cls(path)
        with ExitStack() as locks:
            locks.enter_context(hold(path / LOCKS / "whole", shared=bool(part)))
            if part:
                locks.enter_context(hold(path / LOCKS / part))
            folder.held.push(locks.pop_all())
        return folder

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, *_: object) -> None:
        self.held.close()

    # Writing

    def write_experiment(
        self, given: str, resolved: Mapping[str, Any], environment: Mapping[str, Any]
    ) -> None:
        """The settings as given and as resolved, and the versions.

        Cells of other settings that the folder was run with before are listed under "earlier".
        """
        before = self.resolved()
        earlier = {c["cell"]: c for c in (*before.get("earlier", ()), *before.get("cells", ()))}
        for cell in resolved["cells"]:
            earlier.pop(cell["cell"], None)
        whole = {**resolved, "earlier": list(earlier.values())}
        self._put("resolved.json", json.dumps(whole, indent=1).encode())
        self._put("environment.json", json.dumps(environment, indent=1).encode())
        self._put(GIVEN, given.encode())

    def write_shard(
        self,
        rows: Mapping[str, Any],
        traces: Mapping[str, Any] | None,
        images: Mapping[int, Mapping[str, Any]],
    ) -> Path:
        """One batch of a cell; the rows come last, since they say that it is finished."""
        name = shard_name(rows)
        cell = rows["cell"][0]
        for image_id, parts in images.items():
            buffer = io.BytesIO()
            arrays: dict[str, Any] = {k: np.asarray(v) for k, v in parts.items()}
            np.savez_compressed(buffer, **arrays)
            self._put(f"images/{cell}-{image_id}.npz", buffer.getvalue())
        if traces is not None:
            self._put_table(f"traces/{name}", traces, TRACE_COLUMNS)
        return self._put_table(f"cells/{name}", rows, ROW_COLUMNS)

    def write_planned(self, text: str) -> None:
        """The experiment with its adaptive attackers worked out, to be run elsewhere."""
        self._put(PLANNED, text.encode())

    def write_findings(
        self, findings: Sequence[Mapping[str, Any]], answers: Sequence[Mapping[str, Any]] = ()
    ) -> None:
        """What checks say of the run, and what became of each of them."""
        self._put("checks.json", json.dumps(answers, indent=1).encode())
        self._put("findings.json", json.dumps(findings, indent=1).encode())

    def forget_findings(self) -> None:
        """What checks said is no more of these rows."""
        for name in ("findings.json", "checks.json"):
            (self.path / name).unlink(missing_ok=True)

    def write_certificates(self, certificates: Sequence[Mapping[str, Any]]) -> None:
        """What was proved of its defenses; see `study.certified`."""
        self._put("certificates.json", json.dumps(certificates, indent=1).encode())

    def write_report(self, page: str) -> Path:
        """The page of the run."""
        self._put("report.html", page.encode())
        return self.path / "report.html"

    def _put(self, name: str, content: bytes) -> None:
        with self._whole_file(name) as beside:
            beside.write_bytes(content)

    def _put_table(self, name: str, columns: Mapping[str, Any], types: Mapping[str, str]) -> Path:
        select = ", ".join(f"CAST({c} AS {t}) AS {c}" for c, t in types.items())
        with self._whole_file(name) as beside, _writer().cursor() as db, _stoppable():
            none = [None] * len(columns["id"])
            given = {c: columns.get(c, none) if c in LATER else columns[c] for c in types}
            db.register("given", {c: as_column(values) for c, values in given.items()})
            db.execute(
                f"COPY (SELECT {select} FROM given ORDER BY id) TO '{_quoted(beside)}' "
                "(FORMAT parquet, COMPRESSION zstd)"
            )
        return self.path / name

    @contextmanager
    def _whole_file(self, name: str) -> Iterator[Path]:
        """Where to write what becomes the file `name` once it is whole and on the disk."""
        place = self.path / name
        # Writers on other machines, or in other containers, may have this process's number.
        writer = f"{socket.gethostname()}.{os.getpid()}.{threading.get_ident()}"
        beside = place.with_name(f".{place.name}.{writer}")
        try:
            place.parent.mkdir(exist_ok=True)
            yield beside
            with open(beside, "rb") as file:
                os.fsync(file.fileno())
            beside.replace(place)
        except (OSError, duckdb.IOException, duckdb.OutOfMemoryException) as error:
            reason = getattr(error, "strerror", None) or error
            raise BadRun(
                f"{place} could not be written ({reason}). All that was written before stays: mend "
                "the cause (room on the disk, say) and run the same command again: it resumes."
            ) from error
        finally:
            beside.unlink(missing_ok=True)

    # Reading

    def damaged(self) -> list[str]:
        """Shards that could not be read and were set aside."""
        return sorted(str(p.relative_to(self.path)) for p in self.path.glob("*/*.damaged"))

    def resolved(self) -> dict[str, Any]:
        """What resolved.json says; empty where there is none."""
        found: dict[str, Any] = self._said("resolved.json") or {}
        return found

    def described(self) -> dict[str, Any]:
        """`resolved`, of a folder that holds a run. Raises BadRun of others."""
        if found := self.resolved():
            return found
        raise BadRun(f"{self.path} holds no run: no resolved.json is in it.")

    def environment(self) -> dict[str, Any]:
        """What environment.json says; empty where there is none."""
        found: dict[str, Any] = self._said("environment.json") or {}
        return found

    def examined(self) -> bool:
        """Whether checks were asked of the run."""
        return (self.path / "findings.json").exists()

    def findings(self) -> list[dict[str, Any]]:
        """What checks said of the run when they were last asked; empty where they were not."""
        return self._said("findings.json") or []

    def answers(self) -> list[dict[str, Any]]:
        """What became of each check; empty where they were not asked, or nobody wrote it down."""
        found: list[dict[str, Any]] = self._said("checks.json") or []
        return found

    def certificates(self) -> list[dict[str, Any]]:
        """What was proved of its defenses; empty where nothing was."""
        found: list[dict[str, Any]] = self._said("certificates.json") or []
        return found

    def standing(self) -> list[dict[str, Any]]:
        """Certificates of its images, weights and seed as they are: one of their cells is there."""
        now, known = self.resolved(), self.certificates()
        cells = {record["cell"] for record in now["cells"]}
        return [c for c in known if c["ids"] == now["ids"] and cells & set(c["cells"])]

    def finished(self, cells: Iterable[str]) -> Iterator[tuple[str, set[int]]]:
        """Each cell with its ids that have a row; damaged shards are set aside, and so redone.

        Cost: one look at the folder, and one query a cell that has shards.
        """
        shards: dict[str, list[Path]] = defaultdict(list)
        for place in self._shards("cells"):
            shards[place.name.partition("-")[0]].append(place)
        with _database() as db:
            for cell in cells:
                found = _select(db, "SELECT DISTINCT id FROM {}", shards.get(cell, []))
                yield cell, {row[0] for row in found}

    def lacking(self) -> int:
        """How many of the rows that resolved.json asks for are not there."""
        resolved = self.resolved()
        cells = [c["cell"] for c in resolved["cells"]]
        with _database() as db:
            db.register("wanted", {"id": np.asarray(resolved["ids"], dtype=np.int64)})
            db.register("asked", {"cell": as_column(cells)})
            query = (
                "SELECT count(*) FROM (SELECT DISTINCT cell, id FROM {} "
                "SEMI JOIN wanted USING (id) SEMI JOIN asked USING (cell))"
            )
            found = _select(db, query, self._shards("cells"))
        return len(cells) * len(resolved["ids"]) - (found[0][0] if found else 0)

    def rows(self) -> list[dict[str, Any]]:
        """All rows by cell and id, one per (cell, id)."""
        return self._read("cells", list(ROW_COLUMNS))

    def traces(self, cells: Iterable[str] | None = None) -> list[dict[str, Any]]:
        """All traces by cell and id, one per (cell, id); of some cells only, if they are named.

        "passes" is None where a version of besiege wrote them that did not keep it.
        """
        return self._read("traces", list(TRACE_COLUMNS), cells)

    def kept(self) -> list[tuple[str, int]]:
        """(cell, id) of the examples whose images were kept."""
        names = (p.stem.partition("-") for p in sorted((self.path / "images").glob("*.npz")))
        return [(cell, int(image_id)) for cell, _, image_id in names]

    def image_file(self, cell: str, image_id: int) -> Path:
        """Where the images of one example of a cell are kept."""
        return self.path / "images" / f"{cell}-{image_id}.npz"

    def image(self, cell: str, image_id: int) -> dict[str, Any]:
        """The kept arrays of one example of a cell. Raises BadRun for a damaged or missing file."""
        place = self.image_file(cell, image_id)
        try:
            with open(place, "rb") as file, np.load(file) as arrays:
                return {k: arrays[k] for k in arrays.files}
        except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise BadRun(f"{place} cannot be read ({error}).") from error

    def images(self) -> Iterator[tuple[str, int, dict[str, Any]]]:
        """(cell, id, arrays) of the examples whose images were kept."""
        for cell, image_id in self.kept():
            yield cell, image_id, self.image(cell, image_id)

    def _said(self, name: str) -> Any:
        """What a file says in JSON; None where it is not there."""
        place = self.path / name
        return json.loads(place.read_text()) if place.exists() else None

    def _shards(self, section: str) -> list[Path]:
        return sorted((self.path / section).glob("*.parquet"))

    def _read(
        self, section: str, columns: Sequence[str], cells: Iterable[str] | None = None
    ) -> list[dict[str, Any]]:
        later = ", ".join(f"NULL::{t} AS {c}" for c, t in LATER.items() if c in columns)
        table = f"(FROM {{}} UNION ALL BY NAME SELECT {later} WHERE false)" if later else "{}"
        query = (
            f"SELECT DISTINCT ON (cell, id) {', '.join(columns)} FROM {table} "
            "ORDER BY cell, id, filename"
        )
        shards = self._shards(section)
        if cells is not None:
            wanted = set(cells)
            shards = [p for p in shards if p.name.partition("-")[0] in wanted]
        with _database() as db:
            found = _select(db, query, shards, mixed=bool(later))
            if ALWAYS in columns and any(row[columns.index(ALWAYS)] is None for row in found):
                old = ", ".join(c for c in columns if c not in LATER)
                _select(db, f"SELECT {old} FROM {{}}", shards)  # names the shard that lacks some
        return [dict(zip(columns, row, strict=True)) for row in found]


@cache
def _writer() -> duckdb.DuckDBPyConnection:
    """Made once a process, since it takes longer than a shard; a shard has a cursor of its own."""
    return _database()


def _database() -> duckdb.DuckDBPyConnection:
    return duckdb.connect(config={"threads": 1})


@contextmanager
def _stoppable() -> Iterator[None]:
    """Ctrl-C as everywhere else, where DuckDB meets it and says it in words of its own."""
    try:
        yield
    except (RuntimeError, duckdb.InterruptException) as error:
        if "interrupt" in str(error).lower():
            raise KeyboardInterrupt from error
        raise


def _select(
    db: duckdb.DuckDBPyConnection, query: str, shards: list[Path], mixed: bool = False
) -> list[Any]:
    """The rows of `query` over the shards, which stand for its {}.

    All are read at once. Only if that fails is each read alone; those that are no whole Parquet are
    renamed to *.damaged, so that they are made again. Raises BadRun for whole shards: those with
    other columns are of another version, and memory or disk may be at fault. mixed: some may lack
    columns that others have, which are NULL there.
    """
    table = f"read_parquet($1, filename = true, union_by_name = {str(mixed).lower()})"

    def read(places: list[Path]) -> list[Any]:
        names = [[str(p) for p in places]]
        try:
            with _stoppable():
                return list(db.execute(query.format(table), names).fetchall()) if places else []
        except (duckdb.OutOfMemoryException, MemoryError) as error:
            why = str(error).partition("\n")[0]
            raise BadRun(f"memory ran out while shards were read ({why}). They stay.") from error

    try:
        return read(shards)
    except duckdb.Error:
        whole = []
        for place in shards:
            try:
                read([place])
            except duckdb.BinderException as error:
                raise BadRun(
                    f"{place} was written by another version of besiege, with other columns: "
                    "report it with that version, or run into a new folder."
                ) from error
            except duckdb.Error:
                _set_aside(place)
            else:
                whole.append(place)
        if len(whole) == len(shards):
            raise
        return read(whole)


def _set_aside(place: Path) -> None:
    """Rename a shard that is no Parquet; BadRun if it is the disk that cannot be read."""
    try:
        place.read_bytes()
        place.replace(place.with_suffix(".damaged"))
    except FileNotFoundError:  # another process has set it aside
        return
    except OSError as error:
        raise BadRun(f"{place} cannot be read ({error.strerror}). It stays as it is.") from error


def _quoted(path: Path) -> str:
    return str(path).replace("'", "''")
