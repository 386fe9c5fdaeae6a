"""The figures of a cell, and the headline of a defense."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from besiege.checks.finding import NOTE, Finding
from besiege.core.stats import (
    Interval,
    Scores,
    Shares,
    attack_scores,
    share_interval,
    worst_case,
)
from besiege.core.store import FOUND_BY
from besiege.report.cells import Aimed, answered, is_control, named
from besiege.report.curve import Curve
from besiege.report.effort import Effort
from besiege.report.verdict import BROKEN, Evidence, Verdict, verdict_of


@dataclass(frozen=True)
class Search:
    """One of the searches of a union: the examples whose best point is its own."""

    name: str
    points: int
    broken: int  # of them, those whose goal is met on more than half of the judge's draws
    passes: float  # forwards and backwards an example, of the searches before it too


@dataclass(frozen=True)
class Line(Aimed):
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
    scores: Scores  # attack success by other rules
    searches: tuple[Search, ...] = ()  # of a union, those that found a point, in its order

    @property
    def gap(self) -> float | None:
        """Claim minus verdict: what the attacker believed beyond what is true."""
        return None if self.claim is None else self.claim - self.success.estimate


@dataclass(frozen=True)
class Worst(Aimed):
    """The headline of a defense under one threat: the worst recipe for each example."""

    defense: str
    threat: str
    targeted: bool
    n: int
    accuracy: Interval
    clean: Interval | None
    broken_by: str  # the recipe with the lowest accuracy; of a targeted threat with most success
    passes: float  # forwards and backwards an example, all recipes together
    success: Interval  # of the goal
    verdict: Verdict
    grave: tuple[str, ...] = ()  # checks that warn of its figures
    by: str = ""  # of a union, the search that found most points
    asked: tuple[int, int] | None = None  # checks that could be asked of the run, of so many

    def __str__(self) -> str:
        clean = f" (clean {self.clean})" if self.clean else ""
        hit = f"targets hit on {self.success}, " if self.targeted else ""
        who = "broken by" if self.verdict.word == BROKEN else "strongest:"
        most = f" (most by {self.by})" if self.by else ""
        claim = ""
        if self.verdict.gap is not None and self.verdict.claim is not None:
            claimed = 100 * self.verdict.claim
            claim = f"; claim {claimed:g} %, minus verdict {100 * self.verdict.gap:+.1f} points"
        spent = f"after {self.passes:,.0f} passes an image"
        return (
            f"{self.defense}: {self.verdict}: {hit}robust accuracy at most {self.accuracy}{clean} "
            f"at {self.threat} {self.goal}, n = {self.n}, {spent}; "
            f"{who} {self.broken_by}{most}{claim}; checks: {self._checks()}"
        )

    def _checks(self) -> str:
        """Those that warn, and how many were asked, which old folders do not say."""
        if self.asked is None:
            return "not asked"
        some, of = self.asked
        return (", ".join(self.grave) or "no warning") + (f" ({some} of {of} asked)" if of else "")


@dataclass(frozen=True)
class PlanNotes:
    """What an adaptive attacker measured on its way to its searches."""

    defense: str
    threat: str
    goal: str
    recipe: str
    notes: tuple[str, ...]
    passes: int  # of each pilot image

    @property
    def title(self) -> str:
        """Whose plan it is."""
        return f"how {self.recipe} came to attack {self.defense}, {self.threat} {self.goal}"


@dataclass(frozen=True)
class Context:
    """What a headline needs beside rows.

    records: by cell. claims: robust accuracy claimed for a defense, by its name. certified: proved
    share and radius by (defense, threat). asked: as of `Worst`.
    """

    records: Mapping[str, Mapping[str, Any]]
    findings: Sequence[Finding] = ()
    claims: Mapping[str, float] = field(default_factory=dict)
    certified: Mapping[tuple[str, str], tuple[Interval, str]] = field(default_factory=dict)
    asked: tuple[int, int] | None = None


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
    def efforts(self) -> tuple[Effort, ...]:
        """Accuracy against passes, for each cell whose attacker is a union."""
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
    def plans(self) -> tuple[PlanNotes, ...]:
        """Of adaptive attackers."""
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
    right = answered(rows, "label").mean(1)
    won = answered(rows, "target").mean(1) if record["targeted"] else 1 - right
    flags: dict[str, int] = {}
    for row in rows:
        for flag in (f for f in row["flags"] if not f.startswith(FOUND_BY)):
            flags[flag] = flags.get(flag, 0) + 1
    control = is_control(record)

    def mean(column: str) -> float:
        return float(np.mean([r[column] for r in rows]))

    return Line(
        **named(record),
        n=len(rows),
        expected=expected,
        accuracy=share_interval(right),
        success=share_interval(won),
        claim=None if control else _mean_claim(rows),
        control=control,
        forwards=mean("forwards"),
        backwards=mean("backwards"),
        size=mean("size"),
        seconds=mean("seconds"),
        flags=flags,
        scores=attack_scores(
            [r["predicted"] for r in rows],
            [r["label"] for r in rows],
            [r["target"] for r in rows] if record["targeted"] else None,
            None if control or _mean_claim(rows) is None else [r["lucky"] for r in rows],
        ),
        searches=_searches(record, rows, won),
    )


def _searches(
    record: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], won: Shares
) -> tuple[Search, ...]:
    """Who found what, in the order of the union."""
    found: dict[str, list[int]] = {}
    for i, row in enumerate(rows):
        for flag in row["flags"]:
            if flag.startswith(FOUND_BY):
                found.setdefault(flag.removeprefix(FOUND_BY), []).append(i)
    spent = [row["forwards"] + row["backwards"] for row in rows]
    order = [one["name"] for one in record["recipe_settings"].get("union", ())]
    return tuple(
        Search(name, len(at), int(np.sum(won[at] > 0.5)), float(np.mean([spent[i] for i in at])))
        for name in dict.fromkeys([*order, *found])
        if (at := found.get(name, []))
    )


def _mean_claim(rows: Sequence[Mapping[str, Any]]) -> float | None:
    """None where nobody claims anything, as of points that somebody else made."""
    claims = [r["claim"] for r in rows if r["claim"] is not None]
    return float(np.mean(claims)) if claims else None


def worsts_of(
    lines: Sequence[Line], by_cell: Mapping[str, list[dict[str, Any]]], context: Context
) -> list[Worst]:
    """One headline for each defense and threat, over the ids that all of its cells have."""
    groups: dict[tuple[str, str, bool], list[Line]] = {}
    for line in lines:
        groups.setdefault((line.defense, line.threat, line.targeted), []).append(line)
    found = []
    for group in groups.values():
        tables = [{r["id"]: r for r in by_cell[line.cell]} for line in group]
        ids = sorted(set.intersection(*(set(t) for t in tables)))
        if ids:
            found.append(_worst(group, [[t[i] for i in ids] for t in tables], context))
    return found


def _worst(
    group: Sequence[Line], tables: Sequence[Sequence[Mapping[str, Any]]], context: Context
) -> Worst:
    """Of the cells of one defense and threat, with rows of the same ids."""
    first, n = group[0], len(tables[0])
    stand = worst_case([answered(rows, "label") for rows in tables])
    accuracy, missed = share_interval(stand), None
    if first.targeted:
        stand = worst_case([~answered(rows, "target") for rows in tables])
        missed = share_interval(stand)
    kept = missed or accuracy
    attacks = [line for line in group if not line.control]
    clean = next((line.accuracy for line in group if line.control), None)
    passes = sum(line.forwards + line.backwards for line in attacks)
    best = max(attacks or group, key=lambda line: line.success.estimate)
    grave = [f for f in touching(context.findings, group) if f.level != NOTE]
    told = tuple(dict.fromkeys(f"{f.level} {f.number} {f.name}" for f in grave))
    certified, radius = context.certified.get((first.defense, first.threat), (None, ""))
    classes = context.records[first.cell].get("classes", ())
    evidence = Evidence(
        accuracy,
        n,
        clean,
        missed,
        chance=1 / len(classes) if classes else 0.0,
        claim=context.claims.get(first.defense),
        certified=certified,
        radius=radius,
        attacked=bool(attacks),
        fitted=any(line.searches for line in attacks),
        passes=_effort(
            [t for t, line in zip(tables, group, strict=True) if not line.control], stand
        ),
        grave=told,
    )
    return Worst(
        defense=first.defense,
        threat=first.threat,
        targeted=first.targeted,
        n=n,
        accuracy=accuracy,
        clean=clean,
        broken_by=best.recipe,
        passes=passes,
        success=Interval(1 - kept.estimate, 1 - kept.high, 1 - kept.low),
        verdict=verdict_of(evidence),
        grave=told,
        by=max(best.searches, key=lambda one: one.broken).name if best.searches else "",
        asked=context.asked,
    )


def _effort(tables: Sequence[Sequence[Mapping[str, Any]]], stand: Shares) -> float:
    """Passes that all attackers together made on an image that stands; on any, if none does.

    Those that are broken at once cost little, and that is no lack of effort.
    """
    spent = [[row["forwards"] + row["backwards"] for row in rows] for rows in tables]
    each = np.sum(spent, axis=0) if spent else np.zeros(len(stand))
    return float(np.mean(each[stand > 0.5] if (stand > 0.5).any() else each))
