"""The same rows, byte for byte, however a run is cut up: batch sizes, order, workers, kills.

    python examples/invariance.py

One small experiment on the digits is run at batch sizes 1, 7 and 64, with its tasks shuffled, by
two workers, and by a process that is killed 20 times and resumed. Rows (times apart) and traces are
hashed. A last run at another micro-batch counts how many outcomes differ: there convolutions may
round differently.
"""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from rich.console import Console
from rich.table import Table

from besiege.core.key import Key
from besiege.core.store import RunFolder
from besiege.study.engines.engine import Engine, Evaluate, Outcome, Task
from besiege.study.engines.local import InProcess, Processes
from besiege.study.experiment import Experiment, experiment_from
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

    def run(self, build: Callable[[], Evaluate], tasks: Iterable[Task]) -> Iterator[Outcome]:
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


def killed(out: Path) -> int:
    """Run in another process that is killed KILLS times, then to the end; returns the kills."""
    kills = 0
    total = 8 * EXAMPLES  # shards of one example
    while kills < KILLS:
        before = len(list(out.glob("cells/*.parquet")))
        process = subprocess.Popen([sys.executable, __file__, "--into", str(out)])
        goal = before + total // (KILLS + 5)
        while process.poll() is None and len(list(out.glob("cells/*.parquet"))) < goal:
            time.sleep(0.005)
        if process.poll() is not None:
            break
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        kills += 1
    run_experiment(experiment(batch=1), out)
    return kills


def main() -> int:
    """Print the table; 1 if a hash differs."""
    home = Path(tempfile.mkdtemp())
    ways: dict[str, tuple[Experiment, Engine | None]] = {
        "batch 64": (experiment(64), None),
        "batch 7": (experiment(7), None),
        "batch 1": (experiment(1), None),
        "batch 7, shuffled": (experiment(7), Shuffled()),
        "batch 7, two workers": (experiment(7), Processes(2)),
    }
    table = Table("run", "rows", "hash of rows and traces")
    hashes = []
    for name, (settings, engine) in ways.items():
        out = run_experiment(settings, home / name.replace(" ", "-"), engine=engine)
        hashes.append(digest(out))
        table.add_row(name, str(len(rows(out))), hashes[-1])
    kills = killed(home / "killed")
    hashes.append(digest(home / "killed"))
    table.add_row(f"batch 1, {kills} SIGKILLs", str(len(rows(home / "killed"))), hashes[-1])
    other = run_experiment(experiment(64, micro_batch=12), home / "other")
    pairs = zip(RunFolder(home / "batch-64").rows(), _matched(other, home), strict=True)
    changed = [a["predicted"] != b["predicted"] for a, b in pairs]
    console = Console(width=100)
    console.print(table)
    console.print(f"another micro-batch: {sum(changed)} of {len(changed)} outcomes differ")
    return int(len(set(hashes)) > 1 or kills < KILLS)


def _matched(other: Path, home: Path) -> list[dict[str, object]]:
    """The rows of a run at another micro-batch, in the order of the first run's cells."""
    theirs = [c["cell"] for c in RunFolder(other).resolved()["cells"]]
    ours = [c["cell"] for c in RunFolder(home / "batch-64").resolved()["cells"]]
    twin = dict(zip(theirs, ours, strict=True))
    return sorted(RunFolder(other).rows(), key=lambda r: (twin[str(r["cell"])], r["id"]))


if __name__ == "__main__":
    if "--into" in sys.argv:
        run_experiment(experiment(batch=1), Path(sys.argv[-1]))
        sys.exit(0)
    sys.exit(main())
