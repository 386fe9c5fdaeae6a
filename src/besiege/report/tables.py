"""What a run folder says, in figures: a line for each cell, and the worst case of each defense."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np

from besiege.checks.finding import Finding, from_answer, from_record, number_asked
from besiege.core.store import RunFolder
from besiege.report.cells import goal_of
from besiege.report.curve import Curve, curves_of
from besiege.report.effort import Effort, efforts_of, united
from besiege.report.lines import Context, Line, PlanNotes, Worst, line_of, worsts_of
from besiege.report.notebook import as_html
from besiege.report.proofs import Proof, proofs_of, proved
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
    plans: tuple[PlanNotes, ...] = ()  # how adaptive attackers came to theirs
    efforts: tuple[Effort, ...] = ()  # accuracy against passes, of attackers of several searches
    proofs: tuple[Proof, ...] = ()  # radii that were certified

    def __str__(self) -> str:
        return as_text(self)

    def record(self) -> dict[str, Any]:
        """All of it as JSON can hold it: intervals as tables, what is not finite as None."""
        found: dict[str, Any] = _plain(self)
        return found

    def _repr_html_(self) -> str:
        return as_html(self)


def summarise(path: Path) -> Summary:
    """The summary of the run folder at `path`.

    Raises BadRun if it holds no run.
    """
    folder = RunFolder(Path(path))
    resolved = folder.described()
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
    notes = (*(b["note"] for b in resolved.get("budgets", ())), *_notes(folder, others))
    curves = tuple(curves_of(resolved["cells"], by_cell))
    findings = tuple(map(from_record, folder.findings()))
    records = {r["cell"]: r for r in resolved["cells"]}
    proofs = tuple(proofs_of(folder.standing()))
    told = proved(proofs, resolved["cells"])
    context = Context(records, findings, _claims(resolved), told, _asked(folder))
    worst = tuple(worsts_of(lines, by_cell, context))
    plans = tuple(_plans(resolved))
    traces = folder.traces(united(resolved["cells"]))
    efforts = tuple(efforts_of(resolved["cells"], by_cell, traces))
    return Summary(name, lines, worst, curves, waiting, notes, findings, plans, efforts, proofs)


def _asked(folder: RunFolder) -> tuple[int, int] | None:
    """How many checks could be asked of the run, of how many; None where none was."""
    answers = [from_answer(record) for record in folder.answers()]
    return (number_asked(answers), len(answers)) if folder.examined() else None


def _claims(resolved: Mapping[str, Any]) -> dict[str, float]:
    """Robust accuracy that the experiment says is claimed, by defense."""
    tables = resolved.get("experiment", {}).get("defense", ())
    return {t["name"]: t["claim"] for t in tables if t.get("claim") is not None}


def _plans(resolved: Mapping[str, Any]) -> Iterator[PlanNotes]:
    for plan in resolved.get("plans", {}).values():
        if "defense" in plan:  # as it is not in folders of older versions
            goal = goal_of(plan["targeted"])
            notes = tuple(plan["notes"])
            name = plan["recipe"]["name"]
            yield PlanNotes(plan["defense"], plan["threat"], goal, name, notes, plan["passes"])


def _plain(value: Any) -> Any:
    """`value` of dataclasses, named tuples, mappings and sequences as JSON's own types."""
    if is_dataclass(value):
        return {f.name: _plain(getattr(value, f.name)) for f in fields(value)}
    if hasattr(value, "_asdict"):
        value = value._asdict()
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _notes(folder: RunFolder, others: int) -> Iterator[str]:
    if others:
        yield f"{others} rows of other settings or ids are kept in the folder and not counted here"
    for shard in folder.damaged():
        yield f"{shard} could not be read and was set aside; a run makes its rows anew"
