"""The same rows, byte for byte, however a run is cut up: batch sizes, order, workers, kills.

    python examples/invariance.py [--ray]

One small experiment on the digits is run at batch sizes 1, 7 and 64, with its tasks shuffled, by
two and four workers, and on two workers with 20 SIGKILLs, in turn of the run itself (which is then
resumed) and of a worker. With --ray the same on Ray, and killed runs change engines half-way. Rows
(times apart) and traces are hashed. A last run at another micro-batch counts how many outcomes
differ: there convolutions may round differently.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterable
from itertools import count
from pathlib import Path

from rich.console import Console
from rich.table import Table

from besiege.core.key import Key
from besiege.core.store import RunFolder
from besiege.study.engines.engine import Engine, Evaluate, Outcome, Task
from besiege.study.engines.local import InProcess, Processes
from besiege.study.engines.ray import Ray
from besiege.study.experiment.experiment import Experiment, experiment_from
from besiege.study.run import run_experiment

KILLS = 20
EXAMPLES = 24


def experiment(batch: int = 7, micro_batch: int = 8) -> Experiment:
    """Random and deterministic defenses, two recipes, both goals."""
    return experiment_from(
        {
            "name": "invariance",
            "data": {"source": "digits", "n": EXAMPLES},
            "model": "digits-cnn",
            "defense": [
                {"name": "JPEG", "chain": "jpeg"},
                {"name": "FD+RDG", "chain": "fd + rdg:cells=4"},
            ],
            "threat": [
                {"ball": "linf", "eps": 0.1},
                {"ball": "rms", "eps": 0.05, "targeted": True},
            ],
            "recipe": [{"kind": "none"}, {"kind": "bpda+eot", "steps": 5, "draws": 2}],
            "engine": {"batch": batch, "micro_batch": micro_batch},
        }
    )


class Shuffled(InProcess):
    """The tasks in a random order."""

    def run(self, build: Callable[[], Evaluate], tasks: Iterable[Task]) -> Generator[Outcome]:
        found = list(tasks)
        order = Key.root(1, [0]).permutation(len(found))[0].tolist()
        return super().run(build, [found[i] for i in order])


def rows(out: Path) -> list[dict[str, object]]:
    """Rows and traces in one order, without the times."""
    folder = RunFolder(out)
    table = [*folder.rows(), *folder.traces()]
    return [{k: v for k, v in row.items() if k != "seconds"} for row in table]


def digest(out: Path) -> str:
    """A hash of all rows and traces."""
    return hashlib.sha256(repr(rows(out)).encode()).hexdigest()[:16]


def workers_of(run: int) -> list[int]:
    """The worker processes below the process `run`, local or Ray's, youngest last (by pgrep)."""
    found, below = [], [run]
    while below:
        parent = str(below.pop())
        listed = subprocess.run(
            ["pgrep", "-P", parent, "-a"], capture_output=True, text=True, check=False
        ).stdout
        for line in listed.splitlines():
            pid, _, command = line.partition(" ")
            below.append(int(pid))
            if any(part in command for part in ("spawn_main", "ray::_work", "ray::IDLE")):
                found.append(int(pid))
    return sorted(found)


def killed(out: Path, engines: tuple[str, ...]) -> tuple[int, int]:
    """Run on two workers in another process; SIGKILL it and its workers in turn, KILLS times.

    Returns how often the run itself was killed, and how often a worker.
    """
    runs = workers = 0
    step = 8 * EXAMPLES // (KILLS + 5)  # shards of one example between two kills

    def begin(n: int) -> subprocess.Popen[bytes]:
        engine = engines[n % len(engines)]
        return subprocess.Popen([sys.executable, __file__, "--into", str(out), engine])

    process = begin(0)
    for n in count():
        goal = len(list(out.glob("cells/*.parquet"))) + step
        while process.poll() is None and len(list(out.glob("cells/*.parquet"))) < goal:
            time.sleep(0.005)
        if process.poll() is not None or runs + workers == KILLS:
            break
        if n % 2 and (victims := workers_of(process.pid)):
            os.kill(victims[0], signal.SIGKILL)
            workers += 1
        else:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            process, runs = begin(runs + 1), runs + 1
    process.wait()
    run_experiment(experiment(batch=1), out)
    return runs, workers


def main(with_ray: bool) -> int:
    """Print the table; 1 if a hash differs or a run ended before its kills."""
    home = Path(tempfile.mkdtemp())
    ways: dict[str, tuple[Experiment, Engine | None]] = {
        "batch 64": (experiment(64), None),
        "batch 7": (experiment(7), None),
        "batch 1": (experiment(1), None),
        "batch 7, shuffled": (experiment(7), Shuffled()),
        "batch 7, two workers": (experiment(7), Processes(2)),
        "batch 7, four workers": (experiment(7), Processes(4)),
    }
    if with_ray:
        ways |= {f"batch 7, Ray, {n} workers": (experiment(7), Ray(n)) for n in (1, 2, 4)}
    table = Table("run", "rows", "hash of rows and traces")
    hashes = []
    for name, (settings, engine) in ways.items():
        out = run_experiment(settings, home / name.replace(" ", "-"), engine=engine)
        hashes.append(digest(out))
        table.add_row(name, str(len(rows(out))), hashes[-1])
    enough = True
    for engines in (("local",), ("ray",), ("local", "ray")) if with_ray else (("local",),):
        name = " and ".join(engines)
        out = home / name.replace(" ", "-")
        runs, workers = killed(out, engines)
        enough = enough and runs + workers == KILLS
        hashes.append(digest(out))
        what = f"batch 1, {name}, killed: {runs} runs, {workers} workers"
        table.add_row(what, str(len(rows(out))), hashes[-1])
    other = run_experiment(experiment(64, micro_batch=12), home / "other")
    pairs = zip(RunFolder(home / "batch-64").rows(), _matched(other, home), strict=True)
    changed = [a["predicted"] != b["predicted"] for a, b in pairs]
    console = Console(width=100)
    console.print(table)
    console.print(f"another micro-batch: {sum(changed)} of {len(changed)} outcomes differ")
    return int(len(set(hashes)) > 1 or not enough)


def _matched(other: Path, home: Path) -> list[dict[str, object]]:
    """The rows of a run at another micro-batch, in the order of the first run's cells."""
    theirs = [c["cell"] for c in RunFolder(other).resolved()["cells"]]
    ours = [c["cell"] for c in RunFolder(home / "batch-64").resolved()["cells"]]
    twin = dict(zip(theirs, ours, strict=True))
    return sorted(RunFolder(other).rows(), key=lambda r: (twin[str(r["cell"])], r["id"]))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--ray", action="store_true", help="the same on Ray (extra: ray)")
    parser.add_argument("--into", nargs=2, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.into:
        chosen: Engine = {"local": Processes(2), "ray": Ray(2)}[asked.into[1]]
        run_experiment(experiment(batch=1), Path(asked.into[0]), engine=chosen)
        sys.exit(0)
    sys.exit(main(asked.ray))
