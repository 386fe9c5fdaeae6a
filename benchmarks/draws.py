"""Draws of one step in one batch, against a loop over them: python -m benchmarks.draws.

The gradient of the mean over draws of a random defense (FD+RDG before ResNet-20) at a few images.
A user's loop asks for one draw after the other; besiege lays them side by side. The gain is that
of larger batches, so it shrinks as the images asked at once grow.
"""

import time
from collections.abc import Callable
from statistics import median

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.pgd import problem
from besiege.attacks.loss import cross_entropy
from besiege.attacks.oracle import Meter, Oracle
from besiege.attacks.threat import Linf, Threat
from besiege.core.key import Key
from besiege.defenses.catalog import parse_chain
from besiege.defenses.defense import Defense
from besiege.defenses.transform import Chain, Graft

DRAWS, TURNS = 16, 7


def contest(images: int) -> tuple[float, float]:
    """Seconds of the loop, and of one batch."""
    model, x, y = problem()
    x, y = x[:images], y[:images]
    chain = parse_chain("fd + rdg:cells=4" if x.shape[1] == 3 else "rdg:cells=4")
    view = Defense(Chain(tuple(Graft(link) for link in chain.links)), model)
    key = Key.root(0, range(images))

    def oracle(draws: int, size: int) -> Oracle:
        return Oracle(view, cross_entropy(), Threat(Linf(0.03)), Meter(None), draws, "loss", size)

    one, many = oracle(1, images), oracle(DRAWS, min(images * DRAWS, 64))

    def loop() -> None:
        for i in range(DRAWS):
            one(x, y, key.fold("draw", i))

    def batch() -> None:
        many(x, y, key)

    return timed(loop), timed(batch)


def timed(run: Callable[[], None]) -> float:
    """Median seconds."""
    run()
    found = []
    for _ in range(TURNS):
        began = time.perf_counter()
        run()
        found.append(time.perf_counter() - began)
    return median(found)


def bench() -> bool:
    """Print the table; there is no target."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    table = Table(title=f"{DRAWS} draws a step, FD+RDG, ResNet-20, one thread")
    for column in ("images", "loop ms", "one batch ms", "times as fast"):
        table.add_column(column, justify="right")
    for images in (1, 4, 16):
        loop, batch = contest(images)
        table.add_row(str(images), f"{1e3 * loop:.1f}", f"{1e3 * batch:.1f}", f"{loop / batch:.2f}")
    torch.set_num_threads(before)
    Console().print(table)
    return True


if __name__ == "__main__":
    bench()
