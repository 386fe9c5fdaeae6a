"""Accuracy at every radius, from the nearest points that one attacker found in one pass."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from besiege.core.stats import Interval, Median, median, wilson, worst_case
from besiege.report.cells import Aimed, Row, beside_control, named, with_clean

Figures = NDArray[np.float64]
LEVELS = ("linf", "box")  # balls whose radii are said in grey levels


@dataclass(frozen=True, eq=False)
class Curve(Aimed):
    """What stands of a defense against one attacker of every radius up to `eps`.

    An attacker of radius r hands over the point it found if that is within r, and else the clean
    image; `share` is the mean share of the judge's draws on which its goal is not met then. So
    every value is an upper bound, found by this attacker, as the accuracy in a ball is: of an
    untargeted threat it is the robust accuracy, of a targeted one 1 - attack success.
    """

    cell: str
    defense: str
    recipe: str
    threat: str
    targeted: bool
    ball: str  # whose unit distances are in
    eps: float  # where the search ended
    radii: Figures  # (k,) from 0, ascending: where the curve steps
    share: Figures  # (k,) from there on; never rises
    distances: Figures  # (n,) of each example, ascending: 0 if broken as it is, inf if not found

    @property
    def n(self) -> int:
        """Examples."""
        return len(self.distances)

    @property
    def median(self) -> Median:
        """Of the distances, with its 95 % limits; infinite where nothing was found within eps."""
        found = median(self.distances)
        return found._replace(low=max(found.low, 0.0))

    def at(self, radius: float) -> Interval:
        """The share within `radius`, in the ball's unit, with Wilson's interval.

        Beyond eps it is that at eps, still an upper bound.
        """
        last = int(np.searchsorted(self.radii, _edge(radius), side="right")) - 1
        return wilson(float(self.share[max(last, 0)]) * self.n, self.n)

    def __str__(self) -> str:
        return f"{self.defense} · {self.recipe} · {self.threat}: median {self.spelt_median}"

    @property
    def spelt_median(self) -> str:
        """The median distance and its limits, in grey levels for linf."""
        unit, suffix = (255, " /255") if self.ball in LEVELS else (1, "")

        def spell(distance: float) -> str:
            if math.isinf(distance):
                return f"> {unit * self.eps:.3g}"
            return f"{unit * distance:.3g}"

        middle, low, high = map(spell, self.median)
        return f"{middle} [{low}, {high}]{suffix}"


def _edge(radius: float) -> float:
    """The size that counts as within a radius, as for a threat: float32 pixels are rounded."""
    return radius * (1 + 1e-6) + 6e-8


def curve_of(record: Mapping[str, Any], rows: Sequence[Row], clean: Sequence[Row] = ()) -> Curve:
    """The curve of the cell that `record` describes, from its judged rows.

    clean: rows of the control of the same defense and threat. Only ids that both have count; with
    none, an example counts as right until a point is found. Whether a found point or the clean
    image does more harm to a random defense is chosen on one half of the judge's draws and scored
    on the other (`worst_case`); as an attacker may stay below its radius, the curve never rises.
    """
    own, kept, before = with_clean(rows, clean, record["targeted"])
    size = np.array([row["size"] for row in own], dtype=float)
    order = np.argsort(size, kind="stable")
    gained = (worst_case([before, kept]) - before.mean(1))[order]
    total = before.mean(1).sum() + np.concatenate([[0.0], np.cumsum(gained)])
    radii = np.unique(np.concatenate([[0.0], size]))
    share = total[np.searchsorted(size[order], radii, side="right")] / len(own)
    lowest = np.minimum.accumulate(np.concatenate([total[:1] / len(own), share]))[1:]
    lost, broken = kept.mean(1) < 0.5, before.mean(1) < 0.5
    return Curve(
        **named(record),
        ball=record["ball"].split()[0],
        eps=record["eps"],
        radii=radii,
        share=lowest.clip(0, 1),
        distances=np.sort(np.where(broken, 0.0, np.where(lost, size, np.inf))),
    )


def curves_of(
    records: Sequence[Mapping[str, Any]], by_cell: Mapping[str, Sequence[Row]]
) -> list[Curve]:
    """Curves of all cells whose attack looks for the nearest point."""
    return [
        curve_of(record, rows, clean)
        for record, rows, clean in beside_control(records, by_cell)
        if record.get("nearest")
    ]


def telling(curves: Sequence[Curve], most: int = 4) -> list[float]:
    """A few round radii, in the unit of the curves, among which they fall.

    Powers of two in grey levels for linf; 1, 2 and 5 times powers of ten elsewhere.
    """
    if curves[0].ball in LEVELS:
        ladder = [2.0**k / 255 for k in range(-4, 9)]
    else:
        ladder = [m * 10.0**k for k in range(-4, 5) for m in (1, 2, 5)]
    ladder = [r for r in ladder if r <= _edge(curves[0].eps)]
    found = np.concatenate([c.distances[np.isfinite(c.distances)] for c in curves])
    found = found[found > 0]
    if not len(found) or not ladder:
        return ladder[-1:]
    low, high = np.quantile(found, [0.05, 0.95])
    among = [r for r in ladder if low <= r <= high] or [min(ladder, key=lambda r: abs(r - high))]
    places = np.linspace(0, len(among) - 1, min(most, len(among))).round().astype(int)
    return [among[i] for i in places]


def reach(curves: Sequence[Curve]) -> float:
    """The radius up to which to draw curves together.

    Where nearly all of their points lie; but of one attacker far from the others no more than
    their fourfold, so that theirs can still be read.
    """
    ends = []
    for curve in curves:
        found = curve.distances[np.isfinite(curve.distances) & (curve.distances > 0)]
        if len(found):
            ends.append(float(np.quantile(found, 0.98)))
    if not ends:
        return curves[0].eps or 1.0
    return min(1.05 * min(max(ends), 4 * float(np.median(ends))), curves[0].eps)


def spelt_radius(curve: Curve, radius: float) -> str:
    """A radius of the curve's ball, as a column is headed.

    Grey levels for linf.
    """
    return f"{255 * radius:g}/255" if curve.ball in LEVELS else f"{radius:g}"
