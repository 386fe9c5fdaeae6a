"""Engines run every task once, survive what a task does, and lose nothing."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from besiege.core.errors import BadRun
from besiege.study.engines.engine import Task
from besiege.study.engines.local import InProcess, Processes, local
from besiege.study.shard import Shard

TASKS = [Task("cell", (i, i + 1)) for i in range(0, 12, 2)]
ENGINES = ("local-1", "local-2", "ray-2")
ELSEWHERE = ("local-2", "ray-2")  # engines whose workers are other processes


class Echo:
    """A worker whose shard is its task's ids."""

    def __call__(self, task: Task) -> Shard:
        return Shard(task.cell, {"id": list(task.ids)}, None, {})


class Fragile(Echo):
    """Raises on one task, and kills its own process the first time it gets another."""

    def __init__(self, scar: Path, deadly: int = -1, wrong: int = -1) -> None:
        self.scar, self.deadly, self.wrong = scar, deadly, wrong

    def __call__(self, task: Task) -> Shard:
        if self.wrong in task.ids:
            raise ValueError(f"cannot do {task.ids}")
        if self.deadly in task.ids and not self.scar.exists():
            self.scar.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(task)


class Counting(Fragile):
    """Writes down every task that it begins."""

    def __call__(self, task: Task) -> Shard:
        with open(self.scar.with_name("began"), "a") as file:
            file.write(f"{task.ids[0]}\n")
        return super().__call__(task)


class Deadly(Echo):
    """Kills its own process at every attempt of one task."""

    def __call__(self, task: Task) -> Shard:
        if 2 in task.ids:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(task)


class Maker:
    """Picklable `build` of a worker."""

    def __init__(self, kind, *args) -> None:
        self.kind, self.args = kind, args

    def __call__(self):
        return self.kind(*self.args)


class Logged:
    """A `build` that writes down the process that calls it."""

    def __init__(self, log: Path) -> None:
        self.log = log

    def __call__(self):
        with open(self.log, "a") as file:
            file.write(f"{os.getpid()}\n")
        return Echo()


def refuse():
    raise BadRun("no weights here")


def found(outcomes):
    return sorted(i for o in outcomes if o.made for i in o.made.rows["id"])


@pytest.mark.parametrize("name", ENGINES)
def test_every_task_runs_once(name, engine_at):
    outcomes = list(engine_at(name).run(Maker(Echo), TASKS))
    assert sorted(o.task for o in outcomes) == TASKS
    assert found(outcomes) == list(range(12))


@pytest.mark.parametrize("name", ENGINES)
def test_what_a_task_raises_is_its_outcome_and_the_others_go_on(name, engine_at, tmp_path):
    outcomes = list(engine_at(name).run(Maker(Fragile, tmp_path / "scar", -1, 4), TASKS))
    assert [o.error for o in outcomes if o.error] == ["ValueError: cannot do (4, 5)"]
    assert found(outcomes) == [0, 1, 2, 3, 6, 7, 8, 9, 10, 11]


@pytest.mark.parametrize("name", ELSEWHERE)
def test_a_killed_worker_is_replaced_and_costs_its_task_alone(name, engine_at, tmp_path):
    build = Maker(Counting, tmp_path / "scar", 6)
    outcomes = list(engine_at(name).run(build, TASKS))
    assert (tmp_path / "scar").exists()
    assert found(outcomes) == list(range(12))
    assert len((tmp_path / "began").read_text().split()) == len(TASKS) + 1


@pytest.mark.parametrize("name", ELSEWHERE)
def test_a_task_that_kills_every_worker_is_given_up(name, engine_at):
    outcomes = list(engine_at(name).run(Maker(Deadly), TASKS))
    assert found(outcomes) == [0, 1, *range(4, 12)]
    (failed,) = [o for o in outcomes if o.error]
    assert failed.task.ids == (2, 3)
    how = {"local-2": "exit code -9", "ray-2": "WorkerCrashedError"}[name]
    assert (
        failed.error == f"its worker died 3 times ({how}); if memory ran out, lower engine.batch."
    )


@pytest.mark.parametrize("name", ELSEWHERE)
def test_a_worker_that_cannot_start_stops_the_run_and_says_why(name, engine_at):
    with pytest.raises(BadRun, match="a worker could not start: BadRun: no weights here"):
        list(engine_at(name).run(refuse, TASKS))


@pytest.mark.parametrize("name", ELSEWHERE)
def test_tasks_are_asked_for_as_they_are_needed(name, engine_at):
    asked = []
    tasks = (asked.append(i) or Task("cell", (i,)) for i in range(1000))
    outcomes = engine_at(name).run(Maker(Echo), tasks)
    next(outcomes)
    assert len(asked) < 20
    outcomes.close()


@pytest.mark.parametrize("name", ENGINES)
def test_each_worker_builds_once(name, tmp_path, engine_at):
    log = tmp_path / "built"
    list(engine_at(name).run(Logged(log), [Task("cell", (i,)) for i in range(30)]))
    pids = log.read_text().split()
    assert len(pids) == len(set(pids)) <= int(name[-1])


def test_one_worker_stays_in_this_process():
    assert isinstance(local(1, 1), InProcess)
    assert local(3, 2) == Processes(3, 2)


ORPHANS = """
import os, sys, time
from besiege.study.engines.engine import Task
from besiege.study.engines.local import Processes

class Sleeper:
    def __call__(self, task):
        print(os.getpid(), flush=True)
        time.sleep(600)

if __name__ == "__main__":
    list(Processes(1).run(Sleeper, [Task("cell", (1,))]))
"""


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # A killed run's children are its heir's to bury: a zombie is as dead as can be.
    state = Path(f"/proc/{pid}/stat")
    return not (state.exists() and state.read_text().rsplit(")", 1)[1].split()[0] == "Z")


def test_workers_do_not_outlive_a_killed_run(tmp_path):
    script = tmp_path / "orphans.py"
    script.write_text(ORPHANS)
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True) as run:
        worker = int(run.stdout.readline())
        run.kill()
    for _ in range(100):  # it looks once a second
        if not alive(worker):
            return
        time.sleep(0.1)
    raise AssertionError("a worker goes on although its run is dead")


MASKED = """
import signal
from besiege.study.engines.engine import Task
from besiege.study.engines.local import Processes
from besiege.study.shard import Shard

class Mask:
    def __call__(self, task):
        blocked = signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, [])
        return Shard(task.cell, {"id": [int(blocked)]}, None, {})

if __name__ == "__main__":
    (done,) = Processes(1).run(Mask, [Task("cell", (1,))])
    print(done.made.rows["id"])
    print(signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, []))
"""


def test_ctrl_c_is_for_the_parent_and_not_for_its_first_worker(tmp_path):
    script = tmp_path / "masked.py"  # a fresh process: multiprocessing's tracker is not running
    script.write_text(MASKED)
    command = [sys.executable, script]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["[1]", "False"]
