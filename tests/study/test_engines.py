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
ENGINES = {"in process": InProcess(), "one worker": Processes(1), "two workers": Processes(2)}


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


def refuse():
    raise BadRun("no weights here")


def found(outcomes):
    return sorted(i for o in outcomes if o.shard for i in o.shard.rows["id"])


@pytest.mark.parametrize("engine", ENGINES.values(), ids=ENGINES)
def test_every_task_runs_once(engine):
    outcomes = list(engine.run(Maker(Echo), TASKS))
    assert sorted(o.task for o in outcomes) == TASKS
    assert found(outcomes) == list(range(12))


@pytest.mark.parametrize("engine", ENGINES.values(), ids=ENGINES)
def test_what_a_task_raises_is_its_outcome_and_the_others_go_on(engine, tmp_path):
    outcomes = list(engine.run(Maker(Fragile, tmp_path / "scar", -1, 4), TASKS))
    assert [o.error for o in outcomes if o.error] == ["ValueError: cannot do (4, 5)"]
    assert found(outcomes) == [0, 1, 2, 3, 6, 7, 8, 9, 10, 11]


def test_a_killed_worker_is_replaced_and_its_task_done_again(tmp_path):
    outcomes = list(Processes(2).run(Maker(Fragile, tmp_path / "scar", 6), TASKS))
    assert (tmp_path / "scar").exists()
    assert found(outcomes) == list(range(12))


def test_a_task_that_kills_every_worker_is_given_up():
    outcomes = list(Processes(1).run(Maker(Deadly), TASKS[:2]))
    assert found(outcomes) == [0, 1]
    assert next(o.error for o in outcomes if o.error) == (
        "its worker died 3 times (exit code -9); if memory ran out, lower engine.batch."
    )


def test_a_worker_that_cannot_start_stops_the_run_and_says_why():
    with pytest.raises(BadRun, match="a worker could not start: BadRun: no weights here"):
        list(Processes(2).run(refuse, TASKS))


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
