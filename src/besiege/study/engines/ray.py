"""Ray: plain tasks on this machine or on a cluster; needs the extra `ray`."""

from __future__ import annotations

import hashlib
import os
import pickle
import socket
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch

from besiege.core.errors import BadRun, BadSetting
from besiege.study.engines.engine import (
    ATTEMPTS,
    Engine,
    Evaluate,
    Outcome,
    Task,
    attempt,
    given_up,
    started,
)

FLIGHT = 3  # tasks that are handed out a worker, so that none waits for this process
REACH = 10.0  # seconds in which a cluster must answer


@dataclass(frozen=True)
class Ray(Engine):
    """Tasks of `threads` CPUs and `gpus` GPUs each.

    Without an address Ray starts here, for `workers` of them, and ends with the run; at an address
    (HOST:PORT, or "auto" on a machine of the cluster) there are as many as the cluster has room
    for. Where the caller has called ray.init already, that is used and left running.
    A task whose worker died (killed, out of memory, its machine lost) is handed out anew. Every
    machine must have the same versions, and the files that `build` reads under the same paths.
    """

    workers: int = 2
    threads: int = 1
    address: str | None = None
    gpus: float = 0.0

    def run(self, build: Callable[[], Evaluate], tasks: Iterable[Task]) -> Generator[Outcome]:
        """Outcomes in the order in which they are ready."""
        ray = _ray()
        ours = not ray.is_initialized()
        if ours:
            self._connect(ray)
        flying: dict[Any, Task] = {}
        try:
            yield from self._feed(ray, build, tasks, flying)
        finally:
            for reference in flying:
                ray.cancel(reference, force=True)
            if ours:
                ray.shutdown()

    def _connect(self, ray: Any) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        if self.address is None:
            ray.init(
                num_cpus=self.workers * self.threads,
                include_dashboard=False,
                log_to_driver=False,
                logging_level="ERROR",
                _node_ip_address="127.0.0.1",
            )
            return
        try:
            host, _, port = self.address.rpartition(":")
            if host and "://" not in self.address:  # Ray itself would try for minutes
                socket.create_connection((host, int(port)), timeout=REACH).close()
            ray.init(address=self.address, logging_level="ERROR")
        except (OSError, ValueError, RuntimeError) as error:
            raise BadRun(
                f'no Ray cluster answers at "{self.address}" ({error}): expected HOST:PORT as '
                '`ray start --head` prints it, or "auto" on a machine of the cluster.'
            ) from error

    def _feed(
        self,
        ray: Any,
        build: Callable[[], Evaluate],
        tasks: Iterable[Task],
        flying: dict[Any, Task],
    ) -> Generator[Outcome]:
        """Keep some tasks flying, and take them as they land."""
        recipe = import_module("ray.cloudpickle").dumps(build)
        shared, key = ray.put(recipe), hashlib.sha256(recipe).hexdigest()
        # Retries are ours: Ray's own are without limit where its memory monitor kills a task.
        remote = ray.remote(num_cpus=self.threads, num_gpus=self.gpus, max_retries=0)(_work)
        waiting, again = iter(tasks), deque[Task]()
        tried: Counter[Task] = Counter()
        while True:
            while len(flying) < FLIGHT * self._room(ray):
                task = again.popleft() if again else next(waiting, None)
                if task is None:
                    break
                flying[remote.remote(shared, key, self.threads, task)] = task
            if not flying:
                return
            (landed, *_), _ = ray.wait(list(flying))
            task = flying.pop(landed)
            try:
                answer = ray.get(landed)
            except ray.exceptions.RayTaskError as fault:  # before or after the task, not in it
                reason = str(fault.cause).partition("\n")[0]
                raise BadRun(
                    f"a worker could not start: {reason}. Every machine of the cluster needs the "
                    "same versions of Python, Ray and besiege."
                ) from fault
            except ray.exceptions.RayError as fault:
                tried[task] += 1
                if tried[task] < ATTEMPTS:
                    again.append(task)
                    continue
                answer = given_up(task, type(fault).__name__)
            if isinstance(answer, BadRun):
                raise answer
            yield answer

    def _room(self, ray: Any) -> int:
        """How many workers there is room for; asked anew, since clusters grow and shrink."""
        has = ray.cluster_resources()
        room = has.get("CPU", 0.0) // self.threads
        if self.gpus:
            room = min(room, has.get("GPU", 0.0) // self.gpus)
        return max(1, int(room))


_BUILT: dict[str, Evaluate] = {}  # what this worker process built last, by its content


def _work(recipe: bytes, key: str, threads: int, task: Task) -> Outcome | BadRun:
    """One task, in a worker process."""
    if key not in _BUILT:
        torch.set_num_threads(threads)
        built = started(lambda: pickle.loads(recipe)())
        if isinstance(built, BadRun):
            return built
        _BUILT.clear()
        _BUILT[key] = built
    return attempt(_BUILT[key], task)


def _ray() -> Any:
    """The module, or an error that says how to get it."""
    try:
        return import_module("ray")
    except ImportError as error:
        raise BadSetting(
            'engine.kind = "ray" needs Ray: pip install "besiege[ray]" '
            f"({error}). Without it use --engine local, or --shard on several machines."
        ) from error
