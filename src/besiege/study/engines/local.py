"""This machine: one process, or several that are watched one by one."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

import torch

from besiege.core.errors import BadRun
from besiege.study.engines.engine import Engine, Evaluate, Outcome, Task, attempt

ATTEMPTS = 3  # of a task whose worker died; then its outcome is an error


@dataclass(frozen=True)
class InProcess(Engine):
    """One task after another in the caller's process, on `threads` threads."""

    threads: int = 1

    def run(self, build: Callable[[], Evaluate], tasks: Iterable[Task]) -> Iterator[Outcome]:
        """Outcomes in the order of the tasks."""
        before = torch.get_num_threads()
        torch.set_num_threads(self.threads)
        try:
            evaluate = build()
            for task in tasks:
                yield attempt(evaluate, task)
        finally:
            torch.set_num_threads(before)


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

    def run(self, build: Callable[[], Evaluate], tasks: Iterable[Task]) -> Iterator[Outcome]:
        """Outcomes in the order in which they are ready."""
        queue = deque(tasks)
        crew: list[_Worker] = []
        tried: dict[Task, int] = {}
        try:
            while queue or any(worker.task for worker in crew):
                while queue and len(crew) < self.workers:
                    crew.append(self._hire(build))
                for worker in crew:
                    if worker.task is None and queue:
                        worker.task = queue.popleft()
                        worker.pipe.send(worker.task)
                for pipe in wait([w.pipe for w in crew if w.task]):
                    worker = next(w for w in crew if w.pipe is pipe)
                    outcome = self._collect(worker, crew, queue, tried)
                    if outcome is not None:
                        yield outcome
        finally:
            for worker in crew:
                worker.process.kill()
                worker.process.join()

    def _hire(self, build: Callable[[], Evaluate]) -> _Worker:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=_work, args=(build, theirs, self.threads), daemon=True)
        process.start()
        theirs.close()
        return _Worker(process, ours)

    def _collect(
        self,
        worker: _Worker,
        crew: list[_Worker],
        queue: deque[Task],
        tried: dict[Task, int],
    ) -> Outcome | None:
        """The worker's answer; None if it died and its task goes back to the queue."""
        task = worker.task
        assert task is not None
        worker.task = None
        try:
            answer = worker.pipe.recv()
        except (EOFError, OSError):
            crew.remove(worker)
            worker.process.join()
            tried[task] = tried.get(task, 0) + 1
            if tried[task] < ATTEMPTS:
                queue.appendleft(task)
                return None
            code = worker.process.exitcode
            return Outcome(task, None, f"its worker died {ATTEMPTS} times (exit code {code})", 0.0)
        if isinstance(answer, BadRun):
            raise answer
        assert isinstance(answer, Outcome)
        return answer


def _work(build: Callable[[], Evaluate], pipe: Connection, threads: int) -> None:
    """What a worker process does until its pipe, or its parent, ends."""
    threading.Thread(target=_die_with, args=(os.getppid(),), daemon=True).start()
    torch.set_num_threads(threads)
    try:
        evaluate = build()
    except Exception as fault:
        pipe.send(BadRun(f"a worker could not start: {type(fault).__name__}: {fault}"))
        return
    while True:
        try:
            task = pipe.recv()
        except (EOFError, KeyboardInterrupt):
            return
        pipe.send(attempt(evaluate, task))


def _die_with(parent: int) -> None:
    """End this process, whatever it is doing, once `parent` is gone (killed, say)."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def local(workers: int, threads: int) -> Engine:
    """The engine of this machine for `workers` processes; one stays in the caller's."""
    return InProcess(threads) if workers == 1 else Processes(workers, threads)
