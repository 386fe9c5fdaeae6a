"""Run an experiment: what its folder lacks is attacked, judged and written, shard by shard."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeAlias

from besiege.core.errors import BadRun
from besiege.core.store import RunFolder
from besiege.study.engines.engine import Engine, Outcome, Task
from besiege.study.engines.local import local
from besiege.study.experiment import Experiment
from besiege.study.prepared import Prepared, prepare
from besiege.study.progress import Event
from besiege.study.record import environment

OnEvent: TypeAlias = Callable[[Event], None]


def run_experiment(
    experiment: Experiment,
    out: Path,
    on_event: OnEvent | None = None,
    engine: Engine | None = None,
) -> Path:
    """Attack and judge every cell of `experiment`; returns `out`, a run folder.

    Running again resumes: rows that are there stay as they are, those that are missing are made.
    An experiment that was changed adds its new cells; a cell is named by a hash of everything that
    can change a row, so that none is ever mixed with another.

    Raises BadRun if some batches failed, after all others have been written; and the errors of
    the experiment's parts before anything is attacked.
    Cost: that of its recipes, plus the judge's draws, an example and cell.
    """
    prepared = prepare(experiment)
    ids = prepared.select()
    prepared.check(ids)
    wanted = experiment.keep.images
    keep = tuple(ids if wanted == "all" else ids[:wanted])
    with RunFolder.open(out) as folder:
        folder.write_experiment(
            experiment.text,
            {"experiment": experiment.resolved(), "cells": prepared.records, "ids": ids},
            environment(experiment.engine.device),
        )
        tasks = list(_missing(folder, prepared, ids))
        settings = experiment.engine
        chosen = engine or local(settings.workers, settings.threads)
        outcomes = chosen.run(partial(_build, experiment, keep), tasks)
        _commit(folder, prepared, ids, tasks, outcomes, on_event)
    return out


def _build(experiment: Experiment, keep: tuple[int, ...]) -> Prepared:
    """What each worker makes for itself."""
    return replace(prepare(experiment), keep=keep)


def _missing(folder: RunFolder, prepared: Prepared, ids: list[int]) -> Iterator[Task]:
    """Batches of the examples that a cell has no row of; an image that is bad fails alone."""
    size = prepared.experiment.engine.batch
    finished = {cell: folder.finished(cell) for cell in prepared.sieges}
    lacking = {cell: [i for i in ids if i not in done] for cell, done in finished.items()}
    bad = prepared.faulty(sorted(set().union(*lacking.values())))
    for cell, rest in lacking.items():
        good = [i for i in rest if i not in bad]
        for start in range(0, len(good), size):
            yield Task(cell, tuple(good[start : start + size]))
    for cell, rest in lacking.items():
        for i in rest:
            if i in bad:
                yield Task(cell, (i,))


def _commit(
    folder: RunFolder,
    prepared: Prepared,
    ids: list[int],
    tasks: list[Task],
    outcomes: Iterator[Outcome],
    on_event: OnEvent | None,
) -> None:
    """Write shards as they come; raise for those that failed when all others are written."""
    titles = {r["cell"]: _title(r) for r in prepared.records}
    total = len(ids) * len(titles)
    done = total - sum(len(task.ids) for task in tasks)
    failures: list[Outcome] = []
    began = time.perf_counter()
    if on_event:
        on_event(Event("", "resumed" if done else "started", done, total, 0.0))
    for outcome in outcomes:
        if outcome.shard is None:
            failures.append(outcome)
        else:
            folder.write_shard(outcome.shard.rows, outcome.shard.traces, outcome.shard.images)
        done += len(outcome.task.ids)
        if on_event:
            cell = outcome.task.cell
            on_event(Event(cell, titles[cell], done, total, time.perf_counter() - began))
    if failures:
        first = failures[0]
        raise BadRun(
            f"{len(failures)} of {len(tasks)} batches failed; all others are written and stay. "
            f"First: {titles[first.task.cell]}, ids {first.task.ids[0]} to {first.task.ids[-1]}: "
            f"{first.error} Mend the cause and run the same command again: it resumes."
        )


def _title(record: dict[str, object]) -> str:
    goal = "targeted" if record["targeted"] else "untargeted"
    return f"{record['defense']} · {record['recipe']} · {record['threat']} {goal}"
