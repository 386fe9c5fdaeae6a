"""What a run folder says, in figures: a line for each cell, and the worst case of each defense."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from besiege.core.errors import BadRun
from besiege.core.stats import Interval, right_shares, share_interval, worst_case
from besiege.core.store import RunFolder

CONTROL = "none"  # the attack whose cells give the clean figure


@dataclass(frozen=True)
class Line:
    """The figures of one cell."""

    cell: str
    defense: str
    threat: str
    targeted: bool
    recipe: str
    n: int  # examples judged
    expected: int  # examples asked for
    accuracy: Interval  # mean share of the judge's draws with the right label
    success: Interval  # of the goal: the target, or any other label
    claim: float | None  # the attacker's own mean share of success; None for the control
    forwards: float  # passes an example
    backwards: float
    size: float  # mean distance in the threat's norm
    seconds: float  # an example
    flags: Mapping[str, int]  # sentence -> rows

    @property
    def gap(self) -> float | None:
        """Claim minus verdict: what the attacker believed beyond what is true."""
        return None if self.claim is None else self.claim - self.success.estimate

    @property
    def goal(self) -> str:
        """targeted or untargeted."""
        return "targeted" if self.targeted else "untargeted"


@dataclass(frozen=True)
class Worst:
    """The headline of a defense under one threat: the worst recipe for each example."""

    defense: str
    threat: str
    targeted: bool
    n: int
    accuracy: Interval
    clean: Interval | None
    broken_by: str  # the recipe with the lowest accuracy
    passes: float  # forwards and backwards an example, all recipes together

    def __str__(self) -> str:
        goal = "targeted" if self.targeted else "untargeted"
        clean = f" (clean {self.clean})" if self.clean else ""
        return (
            f"{self.defense}: robust accuracy at most {self.accuracy} at {self.threat} {goal}, "
            f"n = {self.n}, after {self.passes:,.0f} passes an image; "
            f"strongest: {self.broken_by}{clean}"
        )


@dataclass(frozen=True)
class Summary:
    """A run in figures. Prints as a table; in a notebook it is one."""

    name: str
    lines: tuple[Line, ...]
    worst: tuple[Worst, ...]
    unfinished: tuple[str, ...]  # cells with fewer rows than asked for

    def __str__(self) -> str:
        from besiege.report.terminal import as_text

        return as_text(self)

    def _repr_html_(self) -> str:
        from besiege.report.notebook import as_html

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
        _line(record, by_cell[record["cell"]], expected)
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
    return Summary(name, lines, tuple(_worsts(lines, by_cell)), waiting)


def _line(record: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], expected: int) -> Line:
    predicted = [r["predicted"] for r in rows]
    right = right_shares(predicted, [r["label"] for r in rows])
    won = right_shares(predicted, [r["target"] for r in rows]) if record["targeted"] else 1 - right
    flags: dict[str, int] = {}
    for row in rows:
        for flag in row["flags"]:
            flags[flag] = flags.get(flag, 0) + 1
    control = record["recipe_settings"]["attack"] == CONTROL
    mean = {k: float(np.mean([r[k] for r in rows])) for k in ("forwards", "backwards", "seconds")}
    return Line(
        cell=record["cell"],
        defense=record["defense"],
        threat=record["threat"],
        targeted=record["targeted"],
        recipe=record["recipe"],
        n=len(rows),
        expected=expected,
        accuracy=share_interval(right),
        success=share_interval(won),
        claim=None if control else float(np.mean([r["claim"] for r in rows])),
        size=float(np.mean([r[record["ball"]] for r in rows])),
        flags=flags,
        **mean,
    )


def _worsts(lines: Sequence[Line], by_cell: Mapping[str, list[dict[str, Any]]]) -> list[Worst]:
    """One headline for each defense and threat, over the ids that all of its cells have."""
    groups: dict[tuple[str, str, bool], list[Line]] = {}
    for line in lines:
        groups.setdefault((line.defense, line.threat, line.targeted), []).append(line)
    found = []
    for (defense, threat, targeted), group in groups.items():
        tables = [{r["id"]: r for r in by_cell[line.cell]} for line in group]
        ids = sorted(set.intersection(*(set(t) for t in tables)))
        if not ids:
            continue
        right = [
            np.array([np.asarray(t[i]["predicted"]) == t[i]["label"] for i in ids]) for t in tables
        ]
        attacks = [line for line in group if line.claim is not None]
        clean = [line.accuracy for line in group if line.claim is None]
        found.append(
            Worst(
                defense=defense,
                threat=threat,
                targeted=targeted,
                n=len(ids),
                accuracy=share_interval(worst_case(right)),
                clean=clean[0] if clean else None,
                broken_by=min(group, key=lambda line: line.accuracy.estimate).recipe,
                passes=sum(line.forwards + line.backwards for line in attacks),
            )
        )
    return found
