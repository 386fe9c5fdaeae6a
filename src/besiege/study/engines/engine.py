"""The interface of all engines: map tasks to outcomes, in any order, each at least once."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable
from typing import NamedTuple, Protocol, TypeAlias

from besiege.core.errors import BadRun
from besiege.study.shard import Shard

ATTEMPTS = 3  # of a task whose worker died; then its outcome is an error


class Task(NamedTuple):
    """A batch of examples of one cell."""

    cell: str
    ids: tuple[int, ...]


class Outcome(NamedTuple):
    """What became of a task: a shard, or the reason why there is none."""

    task: Task
    shard: Shard | None
    error: str | None
    seconds: float


# Built once a worker, then called with one task after another.
Evaluate: TypeAlias = Callable[[Task], Shard]


class Engine(Protocol):
    """Runs `build()` once a worker, and what that returns on every task.

    What a task raises becomes its outcome's error, and the other tasks go on. Draws come from the
    tasks' ids, so that it does not matter where or how often one runs; only the caller commits.
    """

    def run(self, build: Callable[[], Evaluate], tasks: Iterable[Task]) -> Generator[Outcome]:
        """Outcomes in the order in which they are ready; closing it ends the workers.

        Raises BadRun if a worker cannot start.
        """
        ...


def attempt(evaluate: Evaluate, task: Task) -> Outcome:
    """The outcome of one task, whatever it raises."""
    began = time.perf_counter()
    shard, error = None, None
    try:
        shard = evaluate(task)
    except Exception as fault:
        error = f"{type(fault).__name__}: {fault}"
    return Outcome(task, shard, error, time.perf_counter() - began)


def started(build: Callable[[], Evaluate]) -> Evaluate | BadRun:
    """What a worker in another process evaluates with, or what to tell the caller instead."""
    try:
        return build()
    except Exception as fault:
        return BadRun(f"a worker could not start: {type(fault).__name__}: {fault}")


def given_up(task: Task, how: object) -> Outcome:
    """The outcome of a task whose worker died at every attempt."""
    reason = f"its worker died {ATTEMPTS} times ({how})"
    return Outcome(task, None, f"{reason}; if memory ran out, lower engine.batch.", 0.0)
