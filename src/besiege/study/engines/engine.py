"""The interface of all engines: map tasks to outcomes, in any order, each at least once."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol, TypeAlias

import torch

from besiege.core.errors import BadRun

ATTEMPTS = 3  # of a task whose worker died; then its outcome is an error


class Task(NamedTuple):
    """A batch of examples of one cell."""

    cell: str
    ids: tuple[int, ...]


class Outcome(NamedTuple):
    """What became of a task: what was made of it, a shard mostly, or why there is nothing."""

    task: Task
    made: Any
    error: str | None
    seconds: float


# Built once a worker, then called with one task after another.
Evaluate: TypeAlias = Callable[[Task], Any]


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


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Work on `count` threads, and on as many as before afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def attempt(evaluate: Evaluate, task: Task) -> Outcome:
    """The outcome of one task, whatever it raises."""
    began = time.perf_counter()
    made, error = None, None
    try:
        made = evaluate(task)
    except Exception as fault:
        error = f"{type(fault).__name__}: {fault}"
    return Outcome(task, made, error, time.perf_counter() - began)


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
