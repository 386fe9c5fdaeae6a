"""Run an experiment: what its folder lacks is attacked, judged and written, shard by shard."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from besiege.core.errors import BadRun, BadSetting, BesiegeError, several
from besiege.core.store import RunFolder
from besiege.study.adaptive.planned import adapts, planned
from besiege.study.adaptive.planner import PUPILS
from besiege.study.budget import timed
from besiege.study.engines.engine import Engine, Outcome, Task
from besiege.study.engines.local import local
from besiege.study.engines.ray import Ray
from besiege.study.evidence.aside import FIRST
from besiege.study.evidence.examine import examine_run
from besiege.study.experiment.experiment import Experiment
from besiege.study.experiment.tables import EngineTable
from besiege.study.part import Part
from besiege.study.prepared import Prepared, prepare
from besiege.study.progress import Event
from besiege.study.record import environment

OnEvent: TypeAlias = Callable[[Event], None]

# A changed image may be any other image, and a changed file of code any other defense.
AGAIN = (
    "The same command again makes what is missing; but where images, weights or own files were "
    "changed, every row is made anew."
)


def run_experiment(
    experiment: Experiment,
    out: Path,
    on_event: OnEvent | None = None,
    engine: Engine | None = None,
    part: Part | None = None,
) -> Path:
    """Attack and judge every cell of `experiment`; returns `out`, a run folder.

    Running again resumes: rows that are there stay as they are, those that are missing are made.
    An experiment that was changed adds its new cells; a cell is named by a hash of everything that
    can change a row, so that none is ever mixed with another.
    part: only that part of the rows; the others' processes may work on `out` at the same time.

    The checks are asked at the end, and of what there is where it ends early.
    Raises BadRun if some images cannot be scored or some batches failed, after all others have been
    written; and the errors of the experiment's parts before anything is attacked.
    Cost: that of its recipes, plus the judge's draws, an example and cell.
    """
    part = part or Part()
    prepared = prepare(experiment)
    ids = prepared.select()
    prepared.check(ids)
    experiment, prepared, more = _worked_out(experiment, prepared, ids, out, on_event, part)
    wanted = experiment.keep.images
    keep = tuple(ids if wanted == "all" else ids[:wanted]), tuple(ids[:FIRST])
    with RunFolder.open(out, part.name) as folder:
        folder.write_experiment(
            experiment.text,
            {
                "experiment": experiment.resolved(),
                "cells": prepared.records,
                "ids": ids,
                **more,
            },
            environment(experiment.engine.device),
        )
        if more:
            folder.write_planned(experiment.written())
        work = _missing(folder, prepared, ids, part)
        build = partial(_build, experiment, keep, tuple(prepared.sieges))
        chosen = engine or engine_of(experiment.engine)
        if work.rows:
            folder.forget_findings()
        try:
            with closing(chosen.run(build, work.tasks())) as outcomes:
                _commit(folder, prepared, work, outcomes, on_event)
        except BaseException:
            with suppress(BesiegeError):  # what stopped the run is told, and not what follows
                examine_run(out)
            raise
        examine_run(out)
    return out


def _worked_out(
    experiment: Experiment,
    prepared: Prepared,
    wanted: list[int],
    out: Path,
    on_event: OnEvent | None,
    part: Part,
) -> tuple[Experiment, Prepared, dict[str, Any]]:
    """The experiment with minutes as passes and adaptive attackers as recipes, and what says so.

    What an earlier run of the folder found is taken as it is.
    """
    known, more = RunFolder(out).resolved(), dict[str, Any]()
    in_minutes = any(threat.minutes is not None for threat in experiment.threat)
    if in_minutes or adapts(experiment, prepared):
        some = wanted[: 2 * PUPILS]
        bad = prepared.faulty(some)  # is named later on, and its batch alone fails
        ids = [i for i in some if i not in bad]
    if in_minutes:
        if part.parts > 1:
            raise BadSetting(
                "minutes become passes by timing this machine, and parts of a run must agree: give "
                "passes in the threat."
            )
        before = known.get("budgets", ())
        experiment, budgets = timed(experiment, prepared, ids, before, len(wanted))
        prepared, more = prepare(experiment), {"budgets": budgets}
    if adapts(experiment, prepared):
        told = partial(_planning, on_event, time.perf_counter())
        adapted, plans = planned(experiment, prepared, ids, out, told)
        records = {record["cell"]: record for record in prepared.records}
        where = ("defense", "threat", "targeted")
        for cell, plan in plans.items():
            plans[cell] = {**plan, **{k: records[cell][k] for k in where}}
        experiment, more = adapted, {**more, "plans": plans}
        prepared = prepare(experiment)
    return experiment, prepared, more


def engine_of(settings: EngineTable) -> Engine:
    """The engine that an experiment asks for."""
    if settings.kind == "ray":
        gpus = 1.0 if settings.device.startswith("cuda") else 0.0
        return Ray(settings.workers, settings.threads, settings.address, gpus)
    return local(settings.workers, settings.threads)


def _build(
    experiment: Experiment,
    keep: tuple[tuple[int, ...], tuple[int, ...]],
    cells: tuple[str, ...],
) -> Prepared:
    """What each worker makes for itself, elsewhere perhaps: it must hold what the caller holds.

    keep: ids whose images are kept, and those on which attackers are asked more.
    """
    prepared = replace(prepare(experiment), keep=keep[0], first=keep[1])
    if tuple(prepared.sieges) != cells:
        raise BadRun(
            "it reads other weights, plugins or a version of besiege other than the run's: every "
            "machine must see the same files under the same paths."
        )
    return prepared


@dataclass(frozen=True)
class _Work:
    """The rows to make: ids by cell."""

    ids: dict[str, np.ndarray]  # int64: a tenth of the memory of a list
    size: int  # of a batch
    asked: int  # rows, those included that are there
    bad: dict[int, str]  # ids that have no row, and why their images cannot be scored

    @property
    def rows(self) -> int:
        return sum(map(len, self.ids.values()))

    @property
    def batches(self) -> int:
        return sum(1 for _ in self.tasks())

    def tasks(self) -> Iterator[Task]:
        """One batch after another, made when asked for."""
        for cell, ids in self.ids.items():
            for start in range(0, len(ids), self.size):
                yield Task(cell, tuple(ids[start : start + self.size].tolist()))


def _missing(folder: RunFolder, prepared: Prepared, ids: list[int], part: Part) -> _Work:
    """Those of the part's rows that the folder lacks, by cell in the experiment's order."""
    size = prepared.experiment.engine.batch
    # Cells are named by hashes: sorted, they are shuffled, and no part gets all the cheap recipes.
    rank = {cell: i for i, cell in enumerate(sorted(prepared.sieges))}
    there, work = 0, {}
    for cell, done in folder.finished(prepared.sieges):
        share = part.share(ids, size, rank[cell])
        work[cell] = np.array([i for i in share if i not in done], dtype=np.int64)
        there += len(share) - len(work[cell])
    lacking = sorted(set().union(*(ids.tolist() for ids in work.values())))
    bad = prepared.faulty(lacking)
    work = {cell: ids[~np.isin(ids, list(bad))] for cell, ids in work.items()}
    return _Work(work, size, there + sum(map(len, work.values())), bad)


def _commit(
    folder: RunFolder,
    prepared: Prepared,
    work: _Work,
    outcomes: Iterable[Outcome],
    on_event: OnEvent | None,
) -> None:
    """Write shards as they come; raise for those that failed when all others are written."""
    titles = {cell: prepared.title(cell) for cell in prepared.sieges}
    done = work.asked - work.rows
    failures: list[Outcome] = []
    began = time.perf_counter()
    if on_event:
        on_event(Event("", "resumed" if done else "started", done, work.asked, 0.0))
    for outcome in outcomes:
        if outcome.error is not None:
            failures.append(outcome)
        else:
            folder.write_shard(outcome.made.rows, outcome.made.traces, outcome.made.images)
        done += len(outcome.task.ids)
        if on_event:
            cell = outcome.task.cell
            on_event(Event(cell, titles[cell], done, work.asked, time.perf_counter() - began))
    complaints = []
    if work.bad:
        why = several(list(work.bad.values()))
        complaints.append(f"{_images(len(work.bad))}; all others are written and stay.\n  {why}")
    if failures:
        first = failures[0]
        complaints.append(
            f"{len(failures)} of {work.batches} batches failed; all others are written and stay. "
            f"First: {titles[first.task.cell]}, ids {first.task.ids[0]} to {first.task.ids[-1]}: "
            f"{first.error}"
        )
    if complaints:
        raise BadRun("\n".join([*complaints, AGAIN]))


def _images(count: int) -> str:
    return f"{count} image{'s' if count > 1 else ''} cannot be scored"


def _planning(on_event: OnEvent | None, began: float, title: str) -> None:
    if on_event:
        on_event(Event("", title, 0, 0, time.perf_counter() - began))
