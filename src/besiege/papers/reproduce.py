"""Run both columns of a published table, and put their figures and verdicts beside the paper's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from besiege.checks.finding import Finding, from_record
from besiege.core.key import Key
from besiege.core.stats import Interval
from besiege.core.store import RunFolder
from besiege.papers.load import Paper
from besiege.papers.measures import MEASURES, Evidence, Values
from besiege.papers.schema import AT_LEAST, COLUMNS, PERCENT, Claim, Quantity, Row
from besiege.papers.verdicts import Ruling, Verdict, gap_of, interval_of, ruling
from besiege.study.experiment.experiment import Experiment
from besiege.study.prepared import Prepared, prepare
from besiege.study.progress import Event
from besiege.study.run import OnEvent, run_experiment

FOLDERS = {which: which.replace("_", "-") for which in COLUMNS}


@dataclass(frozen=True)
class Figure:
    """One entry of the table, in the unit of its quantity."""

    row: str
    quantity: Quantity
    published: float | None
    here: Mapping[str, Interval]  # by column


@dataclass(frozen=True)
class Judged:
    """A claim, and what each column says of it."""

    claim: Claim
    quantity: Quantity
    rulings: Mapping[str, Ruling]  # by column


@dataclass(frozen=True)
class Reproduction:
    """A published table beside what was measured here. `papers.show` prints it."""

    paper: Paper
    out: Path
    model: str
    images: str
    n: int
    figures: tuple[Figure, ...]
    claims: tuple[Judged, ...]
    passes: Mapping[str, Mapping[str, float]]  # column -> row -> passes an image
    plans: Mapping[str, int]  # column -> passes a pilot image that its plans took, the most
    pilots: Mapping[str, int]  # column -> how many such images, the most; 0 where not known
    findings: Mapping[str, tuple[Finding, ...]]  # column -> what checks say of its run


@dataclass(frozen=True)
class _Cells:
    """What one column's run folder holds."""

    paper: Paper
    which: str
    experiment: Experiment
    folder: Path

    @cached_property
    def prepared(self) -> Prepared:
        """Model and images, loaded once."""
        return prepare(self.experiment)

    @cached_property
    def ids(self) -> list[int]:
        """Those asked for."""
        return [int(i) for i in RunFolder(self.folder).resolved()["ids"]]

    @cached_property
    def cells(self) -> dict[tuple[str, str], tuple[dict[str, Any], list[dict[str, Any]]]]:
        """(defense, recipe) -> the record of the cell and its rows, by id."""
        run = RunFolder(self.folder)
        wanted, rows = set(self.ids), run.rows()
        found = {}
        for record in run.resolved()["cells"]:
            own = [r for r in rows if r["cell"] == record["cell"] and r["id"] in wanted]
            own.sort(key=lambda r: int(r["id"]))
            found[record["defense"], record["recipe"]] = (record, own)
        return found

    def planning(self, what: str) -> int:
        """Passes a pilot image of the dearest plan, or pilots; 0 where nothing was planned."""
        plans = RunFolder(self.folder).resolved().get("plans", {})
        return max((int(plan.get(what, 0)) for plan in plans.values()), default=0)

    def findings(self) -> tuple[Finding, ...]:
        """What checks say of the run."""
        return tuple(map(from_record, RunFolder(self.folder).findings()))

    def evidence(self, row: Row) -> Evidence:
        """Of the cell that answers a row."""
        record, rows = self.cells[row.guarded, self.paper.file.answer(self.which, row)]
        return Evidence(rows, record["targeted"], lambda: self._pairs(row.guarded))

    def _pairs(self, defense: str) -> Iterator[tuple[Tensor, Tensor]]:
        """Clean images and what the defense makes of them under the judge's first draw."""
        prepared = self.prepared
        cell = next(c for c, (name, _) in prepared.places.items() if name == defense)
        guarded, size = prepared.sieges[cell].defense, self.experiment.engine.batch
        for start in range(0, len(self.ids), size):
            ids = tuple(sorted(self.ids)[start : start + size])
            x = prepared.images.take(list(ids)).x.to(self.experiment.engine.device)
            key = Key.root(self.experiment.seed, list(ids), x.device)
            with torch.no_grad():
                yield x, guarded.seen(x, key.fold("judge").spread("draw", 1))


def reproduce(paper: Paper, out: Path, on_event: OnEvent | None = None) -> Reproduction:
    """Attack and judge what both columns need in `out`, and compare; running again resumes.

    Raises BadSetting where images or a model are missing, and what `run_experiment` raises.
    Cost: that of two experiments; reading the figures of change and similarity, one forward of each
    defense an image more.
    """
    experiments = {which: paper.experiment(which) for which in COLUMNS}
    cells = {}
    for which, experiment in experiments.items():
        told = partial(_told, on_event, paper.file.column(which).heading)
        folder = run_experiment(experiment, out / FOLDERS[which], told)
        cells[which] = _Cells(paper, which, experiment, folder)
    values = _values(paper, cells)
    prepared = cells[COLUMNS[0]].prepared
    return Reproduction(
        paper,
        out,
        model=prepared.classifier.name,
        images=prepared.images.name,
        n=len(cells[COLUMNS[0]].ids),
        figures=tuple(_figures(paper, values)),
        claims=tuple(_claims(paper, values, prepared.images.shape[1:])),
        passes={w: {row.name: _passes(own, row) for row in paper.rows} for w, own in cells.items()},
        plans={which: own.planning("passes") for which, own in cells.items()},
        pilots={which: own.planning("pilots") for which, own in cells.items()},
        findings={which: own.findings() for which, own in cells.items()},
    )


def _told(on_event: OnEvent | None, heading: str, event: Event) -> None:
    if on_event:
        on_event(event._replace(title=f"{heading} · {event.title}"))


def _passes(cells: _Cells, row: Row) -> float:
    rows = cells.evidence(row).rows
    return float(np.mean([r["forwards"] + r["backwards"] for r in rows]))


_Table = Mapping[tuple[str, str, str], Values]  # (column, row, quantity) -> value of each image


def _values(paper: Paper, cells: Mapping[str, _Cells]) -> _Table:
    """Everything measured, in the unit of its quantity but for per cent."""
    found = {}
    for which, own in cells.items():
        for row in paper.rows:
            evidence = own.evidence(row)
            for quantity in paper.file.quantity:
                measure = MEASURES[getattr(quantity, which)]
                found[which, row.name, quantity.name] = measure(evidence)
    return found


def _scaled(interval: Interval, quantity: Quantity) -> Interval:
    return Interval(*(quantity.scale * limit for limit in interval))


def _figures(paper: Paper, values: _Table) -> Iterator[Figure]:
    for row in paper.rows:
        for quantity in paper.file.quantity:
            shares = quantity.unit == PERCENT
            here = {
                which: _scaled(
                    interval_of(values[which, row.name, quantity.name], shares), quantity
                )
                for which in COLUMNS
            }
            yield Figure(row.name, quantity, row.published.get(quantity.name), here)


def _claims(paper: Paper, values: _Table, sides: tuple[int, ...]) -> Iterator[Judged]:
    quantities = {q.name: q for q in paper.file.quantity}
    for claim in paper.claims:
        quantity = quantities[claim.quantity]
        why = _untestable(claim, paper, sides)
        rulings = {
            which: Ruling(Verdict.UNTESTABLE, None, why)
            if why
            else _ruled(claim, quantity, values, which)
            for which in COLUMNS
        }
        yield Judged(claim, quantity, rulings)


def _untestable(claim: Claim, paper: Paper, sides: tuple[int, ...]) -> str:
    """Why the images at hand cannot test a claim; empty if they can."""
    if claim.untestable:
        return claim.untestable
    if paper.quick:
        return "--quick is on digits, not on images like the paper's"
    if claim.side is not None and set(sides) != {claim.side}:
        size = " x ".join(map(str, sides))
        return f"it is about images of {claim.side} x {claim.side} pixels; these have {size}"
    return ""


def _ruled(claim: Claim, quantity: Quantity, values: _Table, which: str) -> Ruling:
    own, shares = values[which, claim.row, quantity.name], quantity.unit == PERCENT
    alone = claim.than is None
    other = values[which, claim.than or claim.row, quantity.name]
    interval = interval_of(own, shares) if alone else gap_of(own, other, shares)
    value, at_least = claim.value / quantity.scale, claim.sense == AT_LEAST
    found = ruling(interval, value, at_least, len(own), shares and alone)
    return found._replace(interval=_scaled(interval, quantity))
