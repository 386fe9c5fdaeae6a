"""What a run folder says, in figures: a line for each cell, and the worst case of each defense."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from besiege.checks.finding import Finding, from_record
from besiege.core.errors import BadRun
from besiege.core.store import RunFolder
from besiege.report.curve import Curve, curves_of
from besiege.report.lines import Line, Worst, line_of, worsts_of
from besiege.report.notebook import as_html
from besiege.report.terminal import as_text


@dataclass(frozen=True)
class Summary:
    """A run in figures. Prints as a table; in a notebook it is one."""

    name: str
    lines: tuple[Line, ...]
    worst: tuple[Worst, ...]
    curves: tuple[Curve, ...]  # accuracy at every radius, of attacks for the nearest point
    unfinished: tuple[str, ...]  # cells with fewer rows than asked for
    notes: tuple[str, ...]  # what else is in the folder
    findings: tuple[Finding, ...] = ()  # of checks, gravest first

    def __str__(self) -> str:
        return as_text(self)

    def _repr_html_(self) -> str:
        return as_html(self)


def summarise(path: Path) -> Summary:
    """The summary of the run folder at `path`.

    Raises BadRun if it holds no run.
    """
    folder = RunFolder(Path(path))
    resolved = folder.resolved()
    if not resolved:
        raise BadRun(f"{path} holds no run: no resolved.json is in it.")
    ids = frozenset(resolved["ids"])
    by_cell: dict[str, list[dict[str, Any]]] = {r["cell"]: [] for r in resolved["cells"]}
    rows = folder.rows()
    for row in rows:
        if row["cell"] in by_cell and row["id"] in ids:
            by_cell[row["cell"]].append(row)
    others = len(rows) - sum(map(len, by_cell.values()))
    expected = len(ids)
    lines = tuple(
        line_of(record, by_cell[record["cell"]], expected)
        for record in resolved["cells"]
        if by_cell[record["cell"]]
    )
    waiting = tuple(
        f"{r['defense']} · {r['recipe']} · {r['threat']}: {len(by_cell[r['cell']])} of {expected}"
        for r in resolved["cells"]
        if len(by_cell[r["cell"]]) < expected
    )
    name = str(resolved.get("experiment", {}).get("name", Path(path).name))
    notes = tuple(_notes(folder, others))
    curves = tuple(curves_of(resolved["cells"], by_cell))
    findings = tuple(map(from_record, folder.findings()))
    worst = tuple(worsts_of(lines, by_cell))
    return Summary(name, lines, worst, curves, waiting, notes, findings)


def _notes(folder: RunFolder, others: int) -> Iterator[str]:
    if others:
        yield f"{others} rows of other settings or ids are kept in the folder and not counted here"
    for shard in folder.damaged():
        yield f"{shard} could not be read and was set aside; a run makes its rows anew"
