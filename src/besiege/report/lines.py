"""The figures of a cell, and the headline of a defense."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from besiege.checks.finding import Finding
from besiege.core.stats import Interval, right_shares, share_interval, worst_case
from besiege.report.curve import Curve


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
    claim: float | None  # the attacker's own mean share of success, where one was made
    control: bool  # no attack
    forwards: float  # passes an example
    backwards: float
    size: float  # mean distance in the threat's ball
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


class Figures(Protocol):
    """What a run comes to; see `tables.Summary`."""

    @property
    def lines(self) -> tuple[Line, ...]:
        """A line for each cell."""
        ...

    @property
    def worst(self) -> tuple[Worst, ...]:
        """A headline for each defense and threat."""
        ...

    @property
    def curves(self) -> tuple[Curve, ...]:
        """A curve for each cell whose attack looks for the nearest point."""
        ...

    @property
    def unfinished(self) -> tuple[str, ...]:
        """Cells with fewer rows than asked for."""
        ...

    @property
    def notes(self) -> tuple[str, ...]:
        """What else is in the folder."""
        ...

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What checks say of the run, gravest first."""
        ...


def touching(findings: Sequence[Finding], lines: Sequence[Line]) -> list[Finding]:
    """Findings about the cells of a table; those about the whole run touch every table."""
    cells = {line.cell for line in lines}
    return [f for f in findings if not f.cells or cells & set(f.cells)]


def line_of(record: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], expected: int) -> Line:
    """The figures of the cell that `record` describes, from its rows."""
    predicted = [r["predicted"] for r in rows]
    right = right_shares(predicted, [r["label"] for r in rows])
    won = right_shares(predicted, [r["target"] for r in rows]) if record["targeted"] else 1 - right
    flags: dict[str, int] = {}
    for row in rows:
        for flag in row["flags"]:
            flags[flag] = flags.get(flag, 0) + 1
    control = record["recipe_settings"]["attack"] == "none"
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
        claim=None if control else _mean_claim(rows),
        control=control,
        size=float(np.mean([r["size"] for r in rows])),
        flags=flags,
        **mean,
    )


def _mean_claim(rows: Sequence[Mapping[str, Any]]) -> float | None:
    """None where nobody claims anything, as of points that somebody else made."""
    claims = [r["claim"] for r in rows if r["claim"] is not None]
    return float(np.mean(claims)) if claims else None


def worsts_of(lines: Sequence[Line], by_cell: Mapping[str, list[dict[str, Any]]]) -> list[Worst]:
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
        attacks = [line for line in group if not line.control]
        clean = [line.accuracy for line in group if line.control]
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
