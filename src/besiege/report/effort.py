"""Accuracy against the passes that an image may cost its attacker, from the rows of one run."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from besiege.core.stats import Interval, share_interval, wilson
from besiege.report.cells import Aimed, Row, beside_control, named, with_clean

Figures = NDArray[np.float64]
MILESTONES: Mapping[str, float] = {"half": 0.5, "nine tenths": 0.9, "all": 1.0}
COLUMNS = ("cell", "defense", "recipe", "threat", "goal", "passes", "standing", "low", "high")
JUDGED = ("judged", "judged_low", "judged_high")


@dataclass(frozen=True, eq=False)
class Effort(Aimed):
    """What stands of a defense when a union of searches may spend so many passes an image.

    Of each image the point counts that was the best one after the last search that it could pay
    for, by the attacker's own fresh draws; before its first search has ended, the image as it is.
    So every figure is an upper bound for attackers of that many passes, found by this one. The
    last step is what the attacker claims in the end, and `judged` what the judge made of it.
    """

    cell: str
    defense: str
    recipe: str
    threat: str
    targeted: bool
    passes: Figures  # (k,) forwards and backwards an image from 0, ascending: where it steps
    standing: Figures  # (k,) share from there on: label kept, or target missed
    n: int
    judged: Interval  # the same of the points handed over, on the judge's draws
    kept: bool  # whether passes after each search were; else an image counts at its last

    @property
    def most(self) -> int:
        """Passes of the image that cost most."""
        return int(self.passes[-1])

    @property
    def left(self) -> Interval:
        """What stands in the end by the attacker's own draws: 1 - its claim."""
        return self.at(self.most)

    def at(self, passes: float) -> Interval:
        """The share that stands after so many passes an image, with Wilson's interval."""
        last = int(np.searchsorted(self.passes, passes, side="right")) - 1
        return wilson(float(self.standing[max(last, 0)]) * self.n, self.n)

    def after(self, broken: float) -> int | None:
        """Passes an image from which on at least the share `broken` stands no more, or None."""
        above = np.flatnonzero(self.standing > 1 - broken + 1e-9)
        first = int(above[-1]) + 1 if len(above) else 0
        return int(self.passes[first]) if first < len(self.passes) else None

    @property
    def milestones(self) -> dict[str, int | None]:
        """`after` for half, nine tenths, and all of the images."""
        return {name: self.after(share) for name, share in MILESTONES.items()}

    def __str__(self) -> str:
        reached = [f"{name} after {p:,}" for name, p in self.milestones.items() if p is not None]
        told = ", ".join(reached) or f"less than half in {self.most:,}"
        rough = "" if self.kept else " (not kept by search: an image counts at its last)"
        return (
            f"{self.defense} · {self.recipe} · {self.threat} {self.goal}: broken by passes an "
            f"image: {told}{rough}; {100 * self.left.estimate:.1f} % claimed to be left after "
            f"{self.most:,}, judged {self.judged}"
        )


def effort_of(
    record: Mapping[str, Any],
    rows: Sequence[Row],
    traces: Iterable[Mapping[str, Any]] = (),
    clean: Sequence[Row] = (),
) -> Effort:
    """The curve of the cell that `record` describes, from its judged rows.

    traces: of its unions, with the passes and the share of draws won after each search. A row
    without one counts once, with what it claims after all its passes. clean: rows of the control of
    the same defense and threat. Only ids that both have count; with none, an image stands until its
    first search ends.
    """
    own, kept, before = with_clean(rows, clean, record["targeted"])
    searched = {t["id"]: t for t in traces if t["passes"]}
    turns = max((len(t["passes"]) for t in searched.values()), default=0)
    passes = np.array([[row["forwards"] + row["backwards"]] * (turns + 1) for row in own])
    stands = np.array([[1 - row["claim"]] * (turns + 1) for row in own], dtype=float)
    for i, row in enumerate(own):
        if found := searched.get(row["id"]):
            passes[i, :-1] = found["passes"]
            stands[i, :-1] = 1 - np.asarray(found["won"], dtype=float)
    change = np.diff(np.column_stack([before.mean(1), stands]), axis=1).ravel()
    order = np.argsort(passes, axis=None, kind="stable")
    steps = np.unique(np.append(passes, 0))
    total = before.mean(1).sum() + np.concatenate([[0.0], np.cumsum(change[order])])
    left = total[np.searchsorted(passes.ravel()[order], steps, side="right")] / len(own)
    # The first, the last, and where something falls or rises; sums are no nearer than this.
    telling = np.abs(np.diff(left, prepend=np.inf)) > 1e-9
    telling[-1] = True
    return Effort(
        **named(record),
        passes=steps[telling].astype(float),
        standing=left[telling].clip(0, 1),
        n=len(own),
        judged=share_interval(kept.mean(1)),
        kept=len(searched) > 0 and all(row["id"] in searched for row in own),
    )


def united(records: Iterable[Mapping[str, Any]]) -> list[str]:
    """The cells whose attacker is a union of searches."""
    return [r["cell"] for r in records if r["recipe_settings"].get("union")]


def efforts_of(
    records: Sequence[Mapping[str, Any]],
    by_cell: Mapping[str, Sequence[Row]],
    traces: Iterable[Mapping[str, Any]],
) -> list[Effort]:
    """Curves of all cells whose attacker is a union; traces: of those cells."""
    shown = set(united(records))
    own: dict[str, list[Mapping[str, Any]]] = {cell: [] for cell in shown}
    for trace in traces:
        own[trace["cell"]].append(trace)
    return [
        effort_of(record, rows, own[record["cell"]], clean)
        for record, rows, clean in beside_control(records, by_cell)
        if record["cell"] in shown
    ]


def as_csv(efforts: Iterable[Effort]) -> str:
    """A row for each step of each curve: its share and 95 % limits; the judge's in the last row."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow([*COLUMNS, *JUDGED])
    for one in efforts:
        names = [one.cell, one.defense, one.recipe, one.threat, one.goal]
        for passes in one.passes:
            judged = [*one.judged] if passes == one.most else [""] * len(JUDGED)
            table.writerow([*names, int(passes), *one.at(passes), *judged])
    return text.getvalue()
