"""What a run folder says, in figures: a line for each cell, and the worst case of each defense."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from besiege.core.errors import BadRun
from besiege.core.store import RunFolder
from besiege.report.lines import Line, Worst, line_of, worsts_of
from besiege.report.notebook import as_html
from besiege.report.terminal import as_text


@dataclass(frozen=True)
class Summary:
    """A run in figures. Prints as a table; in a notebook it is one."""

    name: str
    lines: tuple[Line, ...]
    worst: tuple[Worst, ...]
    unfinished: tuple[str, ...]  # cells with fewer rows than asked for

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
    by_cell: dict[str, list[dict[str, Any]]] = {}
    for row in folder.rows():
        by_cell.setdefault(row["cell"], []).append(row)
    expected = len(resolved["ids"])
    lines = tuple(
        line_of(record, by_cell[record["cell"]], expected)
        for record in resolved["cells"]
        if record["cell"] in by_cell
    )
    waiting = tuple(
        f"{r['defense']} · {r['recipe']} · {r['threat']}: "
        f"{len(by_cell.get(r['cell'], []))} of {expected}"
        for r in resolved["cells"]
        if len(by_cell.get(r["cell"], [])) < expected
    )
    name = str(resolved.get("experiment", {}).get("name", Path(path).name))
    return Summary(name, lines, tuple(worsts_of(lines, by_cell)), waiting)
