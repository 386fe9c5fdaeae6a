"""What engines and run folders cost when attacks cost nothing: python -m benchmarks.engines.

The engines' share is measured on tasks that do nothing, beside a cell of CELL seconds. The folder's
share is measured on synthetic shards, and stretched to GRID: everything that grows with shards or
rows is taken to grow in proportion, which holds as long as a folder's names fit in memory.
"""

import tempfile
import time
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from besiege.core.store import RunFolder
from besiege.report.page import write_report
from besiege.report.tables import summarise
from besiege.study.engines.engine import Engine, Evaluate, Task
from besiege.study.engines.local import InProcess, Processes
from besiege.study.engines.ray import Ray
from besiege.study.part import Part
from besiege.study.recipe import Recipe
from besiege.study.record import environment
from besiege.study.shard import Shard

CELL = 10.0  # seconds of a cell
TARGET = 0.05  # of that, at most
TASKS = 2_000
CELLS, IMAGES, BATCH = 50, 2_000, 100  # 1,000 shards of 100 rows
GRID, GRID_BATCH = (10_000, 50_000), 512


def nothing() -> Evaluate:
    """A worker whose tasks cost nothing; a top-level function, so that it reaches workers."""
    return _shard


def _shard(task: Task) -> Shard:
    return Shard(task.cell, columns(task.cell, task.ids), None, {})


def columns(cell: str, ids: tuple[int, ...]) -> dict[str, object]:
    """Rows as a judge of 20 draws leaves them."""
    n, number = len(ids), np.asarray(ids, dtype=np.int64)
    sizes = {k: np.full(n, 0.03) for k in ("linf", "l2", "rms", "l1", "l0", "claim", "seconds")}
    counts = {k: np.full(n, 40) for k in ("forwards", "backwards")}
    return {
        "cell": [cell] * n,
        "id": number,
        "label": number % 10,
        "target": np.full(n, -1),
        "predicted": [[i % 10] * 20 for i in ids],
        "lucky": number % 2 == 0,
        "point": np.full(len(number), "0" * 16),
        "flags": [[]] * n,
        **sizes,
        **counts,
    }


def overhead(engine: Engine) -> tuple[float, float]:
    """Seconds until the first outcome, and seconds a task after it."""
    ids = tuple(range(64))
    outcomes = engine.run(nothing, (Task("cell", ids) for _ in range(TASKS)))
    began = time.perf_counter()
    next(outcomes)
    first = time.perf_counter()
    assert sum(outcome.shard is not None for outcome in outcomes) == TASKS - 1
    return first - began, (time.perf_counter() - first) / (TASKS - 1)


def engines(console: Console) -> bool:
    """Print what a task costs on each engine; True if all stay within the target."""
    table = Table(title=f"Engines: {TASKS} tasks of 64 rows that do nothing")
    for name in ("engine", "start, s", "a task, ms", f"of a cell of {CELL:.0f} s"):
        table.add_column(name, justify="left" if name == "engine" else "right")
    here: dict[str, Engine] = {"in process": InProcess(), "2 processes": Processes(2)}
    if find_spec("ray"):
        here["Ray, 2 workers"] = Ray(2)
    else:
        console.print("Ray is not installed (`make test-ray` installs it): left out.")
    shares = []
    for name, engine in here.items():
        start, task = overhead(engine)
        shares.append(task / CELL)
        table.add_row(name, f"{start:.2f}", f"{1e3 * task:.2f}", f"{shares[-1]:.3%}")
    console.print(table)
    return max(shares) < TARGET


def folder(console: Console, home: Path) -> None:
    """Print what a folder of 1,000 shards costs, and what GRID would."""
    cells, ids = [f"{c:016x}" for c in range(CELLS)], list(range(IMAGES))
    record = {"defense": "d", "recipe": "r", "threat": "t", "targeted": False}
    seconds: dict[str, float] = {}

    def timed(name: str, began: float) -> None:
        seconds[name] = time.perf_counter() - began

    with RunFolder.open(home / "run") as run:
        records = [{"cell": c, **FILLING, **record, "defense": c} for c in cells]
        run.write_experiment(
            "", {"experiment": {}, "cells": records, "ids": ids}, environment("cpu")
        )
        began = time.perf_counter()
        for cell in cells:
            for start in range(0, IMAGES, BATCH):
                run.write_shard(columns(cell, tuple(ids[start : start + BATCH])), None, {})
        timed("write", began)
        began = time.perf_counter()
        assert all(len(done) == IMAGES for _, done in run.finished(cells))
        timed("finished", began)
        began = time.perf_counter()
        assert run.lacking() == 0
        timed("lacking", began)
    began = time.perf_counter()
    assert len(summarise(home / "run").lines) == CELLS
    timed("summary", began)
    began = time.perf_counter()
    write_report(home / "run")
    timed("page", began)
    began = time.perf_counter()
    for rank in range(CELLS):
        Part(3, 100).share(ids, BATCH, rank)
    timed("deal", began)
    _stretched(console, seconds)


FILLING = {
    "chain": "none",
    "vote": "one",
    "recipe_settings": asdict(Recipe("synthetic", steps=1)),
    "view": {},
    "ball": "linf",
    "eps": 0.03,
    "access": "gradients",
    "eight_bit": False,
    "passes": None,
    "draws": 20,
    "every": 0,
    "step_draws": 4,
    "micro_batch": 32,
    "classes": [str(i) for i in range(10)],
}


def _stretched(console: Console, seconds: dict[str, float]) -> None:
    shards, rows = CELLS * IMAGES // BATCH, CELLS * IMAGES
    more_rows = GRID[0] * GRID[1]
    more_shards = GRID[0] * -(-GRID[1] // GRID_BATCH)
    table = Table(title=f"Folder: {shards} shards, {rows} rows, one thread")
    for name in ("what", "s", "a shard, ms", "a row, us", f"{GRID[0]} x {GRID[1]}, by rows, s"):
        table.add_column(name, justify="left" if name == "what" else "right")
    for name, took in seconds.items():
        table.add_row(
            name,
            f"{took:.2f}",
            f"{1e3 * took / shards:.2f}",
            f"{1e6 * took / rows:.2f}",
            f"{took / rows * more_rows:,.0f}",
        )
    console.print(table)
    console.print(
        f"{GRID[0]} cells x {GRID[1]} images in batches of {GRID_BATCH}: {more_rows:.1e} rows, "
        f"{more_shards:.1e} shards; writing those takes "
        f"{seconds['write'] / shards * more_shards / 3600:.1f} h of one writer (by shards), beside "
        f"{GRID[0] * CELL * GRID[1] / IMAGES / 3600:.0f} h of attacks at {CELL:.0f} s for "
        f"{IMAGES} images."
    )


def bench() -> bool:
    """Print both tables; True if the engines stay within the target."""
    console = Console()
    met = engines(console)
    with tempfile.TemporaryDirectory() as home:
        folder(console, Path(home))
    return met


if __name__ == "__main__":
    raise SystemExit(0 if bench() else "a target is missed")
