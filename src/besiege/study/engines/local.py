"""This machine: one process, or several that are watched one by one."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

import torch

from besiege.core.errors import BadRun
from besiege.study.engines.engine import (
    ATTEMPTS,
    Engine,
    Evaluate,
    Outcome,
    Task,
    attempt,
    given_up,
    started,
    threads,
)


@dataclass(frozen=True)
class InProcess(Engine):
    """One task after another in the caller's process, on `threads` threads."""

    threads: int = 1

    def run(self, build: Callable[[], Evaluate], tasks: Iterable[Task]) -> Generator[Outcome]:
        """Outcomes in the order of the tasks."""
        with threads(self.threads):
            evaluate = build()
            for task in tasks:
                yield attempt(evaluate, task)


@dataclass
class _Worker:
    """A process, the pipe to it, and what it is working on."""

    process: BaseProcess
    pipe: Connection
    task: Task | None = None


@dataclass(frozen=True)
class Processes(Engine):
    """`workers` processes of `threads` threads each.

    Each is supervised alone, so that the death of one (killed, out of memory) costs the task that
    it was working on, which another takes over. A worker ends when its pipe does, hence also when
    this process is killed.
    """

    workers: int = 2
    threads: int = 1

    def run(self, build: Callable[[], Evaluate], tasks: Iterable[Task]) -> Generator[Outcome]:
        """Outcomes in the order in which they are ready."""
        waiting, again = iter(tasks), deque[Task]()
        crew: list[_Worker] = []
        tried: Counter[Task] = Counter()
        try:
            while True:
                while len(crew) < self.workers or any(w.task is None for w in crew):
                    task = again.popleft() if again else next(waiting, None)
                    if task is None:
                        break
                    self._hand(task, crew, build)
                busy = [w for w in crew if w.task]
                if not busy:
                    return
                for pipe in wait([w.pipe for w in busy]):
                    worker = next(w for w in crew if w.pipe is pipe)
                    outcome = self._collect(worker, crew, again, tried)
                    if outcome is not None:
                        yield outcome
        finally:
            for worker in crew:
                worker.process.kill()
                worker.process.join()

    def _hand(self, task: Task, crew: list[_Worker], build: Callable[[], Evaluate]) -> None:
        """Give the task to a worker that has none, a new one if need be."""
        worker = next((w for w in crew if w.task is None), None)
        if worker is None:
            worker = self._hire(build)
            crew.append(worker)
        worker.task = task
        with suppress(OSError):  # it has died: its pipe will say so
            worker.pipe.send(task)

    def _hire(self, build: Callable[[], Evaluate]) -> _Worker:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=_work, args=(build, theirs, self.threads), daemon=True)
        with _no_interrupts():
            process.start()
        theirs.close()
        return _Worker(process, ours)

    def _collect(
        self,
        worker: _Worker,
        crew: list[_Worker],
        again: deque[Task],
        tried: Counter[Task],
    ) -> Outcome | None:
        """The worker's answer; None if it died and its task is to be done again."""
        task = worker.task
        assert task is not None
        worker.task = None
        try:
            answer = worker.pipe.recv()
        except (EOFError, OSError):
            crew.remove(worker)
            worker.process.join()
            tried[task] += 1
            if tried[task] < ATTEMPTS:
                again.append(task)
                return None
            return given_up(task, f"exit code {worker.process.exitcode}")
        if isinstance(answer, BadRun):
            raise answer
        assert isinstance(answer, Outcome)
        return answer


@contextmanager
def _no_interrupts() -> Iterator[None]:
    """Processes started here never see Ctrl-C: it is for the one that started them."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    # Starting its tracker, multiprocessing unblocks the signal again: it must run before.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _work(build: Callable[[], Evaluate], pipe: Connection, threads: int) -> None:
    """What a worker process does until its pipe, or its parent, ends."""
    threading.Thread(target=_die_with, args=(os.getppid(),), daemon=True).start()
    torch.set_num_threads(threads)
    evaluate = started(build)
    with suppress(EOFError, OSError):  # the parent is gone
        if isinstance(evaluate, BadRun):
            pipe.send(evaluate)
            return
        while True:
            pipe.send(attempt(evaluate, pipe.recv()))


def _die_with(parent: int) -> None:
    """End this process, whatever it is doing, once `parent` is gone (killed, say)."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def local(workers: int, threads: int) -> Engine:
    """The engine of this machine for `workers` processes; one stays in the caller's."""
    return InProcess(threads) if workers == 1 else Processes(workers, threads)
