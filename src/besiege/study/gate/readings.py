"""The figures that requirements ask for, and what a reader has to know of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from besiege.checks.finding import LEVELS, STOP, WARN
from besiege.core.comparisons import paired
from besiege.core.stats import Interval, Median, share_interval, worst_case
from besiege.study.evidence.evidence import Cell, common
from besiege.study.gate.corruptions import CORRUPTIONS
from besiege.study.gate.gauges import Gauges
from besiege.study.gate.held import Held, threat_of
from besiege.study.gate.requirements import Measured, Requirement

NOTHING = Measured(math.nan, math.nan, math.nan, 0)
ADAPT = (
    "No adaptive attacker and no union was among them, so that a better one may leave less: add "
    '[[recipe]] kind = "adaptive"'
)


class Reading(NamedTuple):
    """about: threat, corruption, batch or level, in words. cells: those that the figure is from.

    missing: why there is no figure.
    """

    about: str
    measured: Measured
    cells: Sequence[Cell] = ()
    missing: str = ""


@dataclass(frozen=True)
class Bench:
    """One defense of a run: what the folder holds of it, and gauges for the rest."""

    held: Held
    gauges: Gauges
    name: str

    def light(self, images: int, draws: int, calls: int) -> Bench:
        """One that measures on so much at most."""
        return replace(self, gauges=self.gauges.light(images, draws, calls))

    def read(self, requirement: Requirement) -> Iterator[Reading]:
        """The figures that it is about: one a threat and goal, or one. Made as they are taken."""
        yield from READERS[requirement.quantity](self, requirement)

    def robust(self, requirement: Requirement) -> Iterator[Reading]:
        """Accuracy under the worst attacker of each image."""
        for group in self.held.attacked(self.name, requirement):
            same = common(group)
            found = share_interval(worst_case([cell.hits for cell in same]))
            yield Reading(threat_of(group[0]), _of(found, len(same[0].rows)), group)
        yield from self._unattacked(requirement)

    def gap(self, requirement: Requirement) -> Iterator[Reading]:
        """Claim minus verdict of the attacker that leaves the least."""
        for group in self.held.attacked(self.name, requirement):
            cell = _strongest(group)
            about = f"{threat_of(cell)}, {cell.recipe}"
            claim = cell.column("claim").astype(float)
            made = np.isfinite(claim)
            if made.any():
                found = paired(claim[made], cell.won[made])
                yield Reading(about, Measured(*found, n=int(made.sum())), [cell])
            else:
                yield Reading(about, NOTHING, missing=f"{cell.recipe} makes no claims")
        yield from self._unattacked(requirement)

    def _unattacked(self, requirement: Requirement) -> Iterator[Reading]:
        if not self.held.attacked(self.name, requirement):
            about = ":".join(filter(None, (requirement.where, requirement.goal))) or "any threat"
            yield Reading(about, NOTHING, missing="the run has no attacker of this defense there")

    def clean(self, requirement: Requirement) -> Iterator[Reading]:
        """Accuracy without attack."""
        cell = self.held.control(self.name)
        if cell is None:
            missing = 'the run has no clean figure: add [[recipe]] kind = "none"'
            yield Reading("no attack", NOTHING, missing=missing)
        else:
            yield Reading("no attack", _of(share_interval(cell.right), len(cell.rows)), [cell])

    def corrupted(self, requirement: Requirement) -> Iterator[Reading]:
        """Accuracy under one corruption, or the mean over all."""
        kinds = _kinds(requirement)
        shares = np.mean([self.gauges.right_under(self.name, kind) for kind in kinds], axis=0)
        about = requirement.where or f"{len(kinds)} corruptions"
        yield Reading(f"{about}, {self._severity()}", _of(share_interval(shares), len(shares)))

    def latency(self, requirement: Requirement) -> Iterator[Reading]:
        """Seconds an image."""
        yield self._timed(requirement, lambda found: found.defended)

    def overhead(self, requirement: Requirement) -> Iterator[Reading]:
        """The time of the bare classifier that it takes."""
        yield self._timed(requirement, lambda found: found.overhead)

    def _timed(self, requirement: Requirement, of: Callable[[Any], Median]) -> Reading:
        batch = int(requirement.where or 1)
        found = self.gauges.latency(self.name, batch)
        return Reading(f"batch {batch}", Measured(*of(found), n=found.calls))

    def findings(self, requirement: Requirement) -> Iterator[Reading]:
        """How many of a level or graver touch the defense."""
        ranks = list(LEVELS)
        grave = ranks[: ranks.index(requirement.where or WARN) + 1]
        known = self.held.touching(self._own())
        count = sum(finding.level in grave for finding in known)
        yield Reading(" or ".join(grave), Measured(count, count, count, len(known)))

    def context(self, asked: Sequence[Requirement], batches: Sequence[int]) -> Iterator[str]:
        """Who attacked, and how hard; what checks say; what a figure is to be held against.

        batches: whose latency is told besides.
        """
        aimed = [r for r in asked if r.kind.aimed]
        groups = {threat_of(g[0]): g for r in aimed for g in self.held.attacked(self.name, r)}
        for about, group in groups.items():
            yield self._attackers(about, group)
        if groups and self.held.chosen:
            yield "only images that the bare classifier gets right were attacked"
        cells = [cell for group in groups.values() for cell in group]
        if any(r.quantity in FOUND for r in asked):
            cells = self._own()
        for finding in self.held.touching(cells):
            if finding.level in (STOP, WARN):
                yield str(finding)
        under = [kind for r in asked if r.quantity in UNDER for kind in _kinds(r)]
        if under:
            each = (f"{kind} {self._beside(kind)}" for kind in dict.fromkeys(under))
            yield f"accuracy % (bare classifier's) at {self._severity()}: {', '.join(each)}"
        timed = [int(r.where or 1) for r in asked if r.quantity in TIMED]
        for batch in dict.fromkeys([*timed, *batches]):
            yield str(self.gauges.latency(self.name, batch))

    def _own(self) -> list[Cell]:
        return [cell for cell in self.held.cells if cell.record["defense"] == self.name]

    def _severity(self) -> str:
        return f"severity {', '.join(map(str, self.gauges.severities))}"

    def _beside(self, kind: str) -> str:
        own, bare = (self.gauges.right_under(name, kind).mean() for name in (self.name, None))
        return f"{100 * own:.1f} ({100 * bare:.1f})"

    def _planning(self, attackers: Sequence[Cell]) -> str:
        """What their plans took; "" where nobody planned."""
        plans = [plan for cell in attackers if (plan := self.held.plan(cell))]
        spent = (f"{plan['passes']:,} on each of {plan.get('pilots', '?')}" for plan in plans)
        return f", and planning {' and '.join(spent)}" if plans else ""

    def _attackers(self, about: str, group: Sequence[Cell]) -> str:
        attackers = [cell for cell in group if not cell.control]
        passes = sum(np.mean(c.column("forwards") + c.column("backwards")) for c in attackers)
        told = (
            f"{about}: an upper bound, found by {', '.join(cell.recipe for cell in attackers)} in "
            f"{passes:,.0f} passes an image{self._planning(attackers)}; strongest: "
            f"{_strongest(group).recipe}"
        )
        return told if any(map(self.held.strong, attackers)) else f"{told}. {ADAPT}"


READERS: Mapping[str, Callable[[Bench, Requirement], Iterator[Reading]]] = {
    "robust": Bench.robust,
    "clean": Bench.clean,
    "corrupted": Bench.corrupted,
    "gap": Bench.gap,
    "latency": Bench.latency,
    "overhead": Bench.overhead,
    "findings": Bench.findings,
}
UNDER, TIMED, FOUND = ("corrupted",), ("latency", "overhead"), ("findings",)


def _kinds(requirement: Requirement) -> list[str]:
    return [requirement.where] if requirement.where else list(CORRUPTIONS)


def _strongest(group: Sequence[Cell]) -> Cell:
    """The attacker that leaves the least."""
    return min((c for c in group if not c.control), key=lambda cell: float(cell.right.mean()))


def _of(found: Interval, n: int) -> Measured:
    return Measured(*found, n=n)
