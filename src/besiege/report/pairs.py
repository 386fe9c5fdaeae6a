"""Who differs from whom: the attackers and the defenses of one run, or of two, pair by pair."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from besiege.checks.finding import Finding, from_record
from besiege.core.comparisons import Comparison, compare, holm
from besiege.core.errors import BadRun
from besiege.core.power import images_to_tell
from besiege.core.stats import Shares, worst_case
from besiege.core.store import RunFolder
from besiege.report.cells import answered, goal_of, is_control
from besiege.report.lines import touching_cells
from besiege.report.terminal import findings_under

LEVEL = 0.05  # of all tests together
TOLD = 0.05  # the difference that a number of images is given for
PLAIN_WIDTH = 150


@dataclass(frozen=True)
class Pair:
    """Two on the same images. `corrected` is the p that accounts for all pairs of the table."""

    threat: str
    what: str
    first: str
    second: str
    found: Comparison
    corrected: float
    needed: int  # images that would tell a difference of 5 points
    only: tuple[int, int]  # images that more than half of the draws count for the one alone
    cells: frozenset[str] = frozenset()  # of both, whose rows it is from

    @property
    def told(self) -> bool:
        """Whether they are told apart."""
        return self.corrected <= LEVEL


class _Side(NamedTuple):
    """What is compared: its name, the share of each id, and the draws that a share is of."""

    title: str
    shares: Mapping[int, float]
    draws: int
    cells: frozenset[str]


class _Cell(NamedTuple):
    record: Mapping[str, Any]
    rows: Mapping[int, Mapping[str, Any]]  # by id

    @property
    def group(self) -> str:
        return f"{self.record['threat']}, {goal_of(self.record['targeted'])}"

    @property
    def control(self) -> bool:
        return is_control(self.record)


def pairs(run: Path, other: Path | None = None) -> tuple[Pair, ...]:
    """Every comparison that a run folder allows, or two of them, on the ids that both sides have.

    One run: the attackers of each defense, by accuracy (by success if targeted); the defenses
    without attack, and each under the attacker that is worst for it. Two runs: attackers of the
    same names on defenses of the same names, and the defenses of the one with those of the other,
    likewise. All p are corrected together (Holm). Raises BadRun for folders that hold no run, whose
    images differ, or in which nothing can be paired.
    """
    cells = _cells(run)
    if other is None:
        found = [*_attackers(cells), *_defenses(cells)]
    else:
        others = _cells(other)
        _same_images(run, cells, other, others)
        found = list(_across(cells, others))
    if not found:
        raise BadRun(f"{run} has nothing to compare: two attackers or defenses on the same images.")
    compared = [_compared(*sides) for _, _, *sides in found]
    corrected = holm([c.p for c, _, _ in compared])
    return tuple(
        Pair(threat, what, one.title, two.title, c, float(p), n, only, one.cells | two.cells)
        for (threat, what, one, two), (c, n, only), p in zip(
            found, compared, corrected, strict=True
        )
    )


def findings_of(run: Path, other: Path | None = None) -> tuple[Finding, ...]:
    """What checks say of the run folders that are compared, each finding once."""
    folders = [RunFolder(Path(path)) for path in (run, other) if path is not None]
    found = [from_record(one) for folder in folders for one in folder.findings()]
    return tuple({str(one): one for one in found}.values())


def show(found: Sequence[Pair], stream: TextIO, findings: Sequence[Finding] = ()) -> None:
    """Print a table for each threat and kind of pair, and below it the findings that touch it.

    Plain where `stream` is no terminal.
    """
    live = stream.isatty()
    console = Console(
        file=stream, width=None if live else PLAIN_WIDTH, no_color=not live, highlight=False
    )
    for title in dict.fromkeys((p.threat, p.what) for p in found):
        own = [p for p in found if (p.threat, p.what) == title]
        console.print(_table(title, own, live))
        cells = frozenset[str]().union(*(p.cells for p in own))
        findings_under(console, touching_cells(findings, cells), live)
    plural = "s" if len(found) > 1 else ""
    console.print(
        f"{len(found)} comparison{plural}; p is corrected for all (Holm); they differ where p <= "
        f"{LEVEL:g}.\nTo tell {100 * TOLD:g} points: so many images find such a difference 4 times "
        "of 5, in one comparison.\nOnly: images that more than half of the draws count for the "
        "first alone, and for the second alone."
    )


def _table(title: tuple[str, str], rows: Sequence[Pair], live: bool) -> Table:
    form = box.SIMPLE_HEAD if live else box.ASCII2
    table = Table(title=", ".join(title), box=form, title_justify="left")
    for name in ("first", "second"):
        table.add_column(name, overflow="fold")
    for name in ("first %", "second %", "difference [95 %]", "p", "n", "only", "to tell 5 points"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("so")
    for row in rows:
        gap = row.found.difference
        table.add_row(
            row.first,
            row.second,
            f"{100 * row.found.first:.1f}",
            f"{100 * row.found.second:.1f}",
            f"{100 * gap.estimate:+.1f} [{100 * gap.low:+.1f}, {100 * gap.high:+.1f}]",
            f"{row.corrected:.2g}",
            str(row.found.n),
            "{} / {}".format(*row.only),
            f"{row.needed:,}",
            "differ" if row.told else "not told apart",
        )
    return table


def _compared(first: _Side, second: _Side) -> tuple[Comparison, int, tuple[int, int]]:
    ids = sorted(set(first.shares) & set(second.shares))
    one, two = (np.array([side.shares[i] for i in ids], dtype=float) for side in (first, second))
    only = int(((one > 0.5) & (two <= 0.5)).sum()), int(((two > 0.5) & (one <= 0.5)).sum())
    return compare(one, two, (first.draws, second.draws)), images_to_tell(TOLD, one, two), only


_Found = tuple[str, str, _Side, _Side]


def _attackers(cells: Sequence[_Cell]) -> Iterator[_Found]:
    """All pairs of attackers of each defense."""
    groups: dict[tuple[str, str], list[_Cell]] = {}
    for cell in cells:
        if not cell.control:
            groups.setdefault((cell.group, cell.record["defense"]), []).append(cell)
    for (group, defense), own in groups.items():
        measure = "success" if own[0].record["targeted"] else "accuracy"
        what = f"attackers on {defense} ({measure})"
        sides = [_side(cell, cell.record["recipe"]) for cell in own]
        yield from ((group, what, a, b) for a, b in combinations(sides, 2) if _meet(a, b))


def _defenses(cells: Sequence[_Cell]) -> Iterator[_Found]:
    """All pairs of defenses: without attack, and at their worst."""
    for group in dict.fromkeys(cell.group for cell in cells):
        own = [cell for cell in cells if cell.group == group]
        clean = [_side(c, c.record["defense"], "label") for c in own if c.control]
        for what, sides in (("no attack", clean), ("at their worst", list(_worsts(own)))):
            title = f"defenses, {what} (accuracy)"
            yield from ((group, title, a, b) for a, b in combinations(sides, 2) if _meet(a, b))


def _across(cells: Sequence[_Cell], others: Sequence[_Cell]) -> Iterator[_Found]:
    """Cells of the same names, and the defenses of one run with those of the other."""
    for group in dict.fromkeys(cell.group for cell in cells):
        own, theirs = ([c for c in side if c.group == group] for side in (cells, others))
        clean = [
            [_side(c, c.record["defense"], "label") for c in s if c.control] for s in (own, theirs)
        ]
        worst = [list(_worsts(side)) for side in (own, theirs)]
        like = [
            (_side(a, _title(a)), _side(b, _title(b)))
            for a, b in product(own, theirs)
            if _like(a, b)
        ]
        measure = "success" if own[0].record["targeted"] else "accuracy"
        for what, both in (
            (f"attackers of the same names ({measure})", like),
            ("defenses, no attack (accuracy)", product(*clean)),
            ("defenses, at their worst (accuracy)", product(*worst)),
        ):
            for a, b in both:
                if _meet(a, b):
                    yield group, what, _of_run(a, 1), _of_run(b, 2)


def _title(cell: _Cell) -> str:
    return f"{cell.record['defense']}, {cell.record['recipe']}"


def _like(one: _Cell, two: _Cell) -> bool:
    """Whether they are the same attacker on a defense of the same name."""
    return _title(one) == _title(two) and not one.control


def _of_run(side: _Side, number: int) -> _Side:
    return side._replace(title=f"{side.title} ({number})")


def _side(cell: _Cell, title: str, wanted: str = "") -> _Side:
    """The shares of a cell: of the label, or where targeted and not said else, of the target."""
    wanted = wanted or ("target" if cell.record["targeted"] else "label")
    shares: Shares = answered([*cell.rows.values()], wanted).mean(1)
    by_id = dict(zip(cell.rows, shares.tolist(), strict=True))
    return _Side(title, by_id, _draws([cell]), frozenset([cell.record["cell"]]))


def _worsts(cells: Sequence[_Cell]) -> Iterator[_Side]:
    """Each defense under the attacker that is worst for each example, as in the run's headline."""
    by_defense: dict[str, list[_Cell]] = {}
    for cell in cells:
        by_defense.setdefault(cell.record["defense"], []).append(cell)
    for defense, own in by_defense.items():
        ids = sorted(set.intersection(*(set(cell.rows) for cell in own)))
        if ids and not all(cell.control for cell in own):
            worst: Shares = worst_case([answered([c.rows[i] for i in ids], "label") for c in own])
            names = frozenset(str(cell.record["cell"]) for cell in own)
            by_id = dict(zip(ids, worst.tolist(), strict=True))
            yield _Side(defense, by_id, _draws(own), names)


def _draws(cells: Sequence[_Cell]) -> int:
    """The most answers that an image of the cells was asked for."""
    return max(len(row["predicted"]) for cell in cells for row in cell.rows.values())


def _meet(one: _Side, two: _Side) -> bool:
    return bool(set(one.shares) & set(two.shares))


def _cells(path: Path) -> list[_Cell]:
    """The cells of a run that have rows, with the ids that the run asks for."""
    folder = RunFolder(Path(path))
    resolved = folder.described()
    ids, rows = frozenset(resolved["ids"]), folder.rows()
    cells = [
        _Cell(r, {row["id"]: row for row in rows if row["cell"] == r["cell"] and row["id"] in ids})
        for r in resolved["cells"]
    ]
    return [cell for cell in cells if cell.rows]


def _same_images(run: Path, cells: Sequence[_Cell], other: Path, others: Sequence[_Cell]) -> None:
    """Raise BadRun unless equal ids are images of equal labels."""
    one, two = ({i: r["label"] for c in s for i, r in c.rows.items()} for s in (cells, others))
    common = set(one) & set(two)
    wrong = sorted(i for i in common if one[i] != two[i])
    if not common or wrong:
        why = f"image {wrong[0]} has other labels" if wrong else "no image is in both"
        raise BadRun(
            f"{run} and {other} are not of the same images: {why}. Pairs need the same data, "
            "selection and seed in both."
        )
