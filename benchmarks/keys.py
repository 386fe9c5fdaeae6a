"""Keyed numbers a second on one thread, beside torch's own stream: python -m benchmarks.keys."""

import time
from collections.abc import Callable

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from besiege.core.key import Key

SHAPES = ((128, 3072), (16, 150_528))  # CIFAR-10 images, ImageNet images
TARGETS = {"uniform": 60, "normal": 40}  # million a second


def fastest(call: Callable[[], object], rounds: int = 30) -> float:
    """Seconds of the fastest of `rounds` calls, after two to warm up."""
    times = []
    for _ in range(rounds + 2):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times[2:])


def draws(rows: int, n: int) -> dict[str, Callable[[], Tensor]]:
    """Key set-up included; torch's global stream is only a yardstick."""
    ids = torch.arange(rows)
    return {
        "uniform": lambda: Key.root(0, ids).uniform(n),
        "normal": lambda: Key.root(0, ids).normal(n),
        "laplace": lambda: Key.root(0, ids).laplace(n),
        "integers": lambda: Key.root(0, ids).integers(256, n),
        "bernoulli": lambda: Key.root(0, ids).bernoulli(0.5, n),
        "torch.rand": lambda: torch.rand(rows, n),  # noqa: TID251
        "torch.randn": lambda: torch.randn(rows, n),  # noqa: TID251
    }


def bench() -> bool:
    """Print the table; True if every target is met."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    table = Table(title="Keyed draws, one thread, million a second (fastest of 30)")
    table.add_column("draw")
    for rows, n in SHAPES:
        table.add_column(f"{rows} x {n}", justify="right")
    table.add_column("target", justify="right")
    rates = [
        {name: rows * n / fastest(call) / 1e6 for name, call in draws(rows, n).items()}
        for rows, n in SHAPES
    ]
    for name in rates[0]:
        target = f">= {TARGETS[name]}" if name in TARGETS else ""
        table.add_row(name, *(f"{rate[name]:.0f}" for rate in rates), target)
    key = Key.root(0, torch.arange(128))
    fold, small = fastest(lambda: key.fold("step", 3), 300), fastest(lambda: key.uniform(9), 300)
    torch.set_num_threads(before)
    console = Console()
    console.print(table)
    console.print(
        f"128 keys: fold of two parts {fold * 1e6:.0f} us, 9 uniforms {small * 1e6:.0f} us"
    )
    return all(rate[name] >= target for rate in rates for name, target in TARGETS.items())


if __name__ == "__main__":
    raise SystemExit(0 if bench() else "a target is missed")
