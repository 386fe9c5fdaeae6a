"""Attacks beside those of other libraries at the same settings: python -m benchmarks.attacks.

Of both: the share of images that fall, the median distance (a failure is infinitely far), forward
and backward passes an image, and processor time. The two take turns on batches of the same images,
all of which the network gets right, in one process and on one thread. Passes of the others are the
rows that a wrapper around the network saw; their calls are those that their users write.

"model": the share of our time that the bare network would take for our passes, in batches of as
many rows as ours. Where it is near 1 nothing but fewer passes can make an attack faster.
"met": success at least theirs, median distance at most 1.02 x theirs where it is distance that is
looked for, and no slower: in all, or a pass where ours makes more of them (a backward counts as a
forward). In rows with "at" ours makes fewer passes than its settings have in the row before.

    python -m benchmarks.attacks --model file:WEIGHTS --images packed:path=FILE --count 200
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.duels import Counted, Duel, Task, duels
from besiege.core.batch import l2, linf, row_sum
from besiege.core.key import Key
from besiege.data.catalog import load_images
from besiege.defenses.defense import Defense
from besiege.defenses.transform import Chain
from besiege.models.catalog import load_model
from besiege.models.classifier import Classifier
from besiege.study.recipe import Recipe
from besiege.study.siege import Opponents, Siege

FARTHER = 1.02  # at most this many times their median distance
SLOWER = 1.05  # at most this many times their time: two runs of one attack differ by that

COLUMNS = (
    *("attack", "beside"),
    *("success %", "median", "passes", "s", "model"),
    *("success %", "median", "passes", "s", "distance", "time", "met"),
)
Size = Callable[[Tensor], Tensor]
SIZES: dict[str, Size] = {
    "l0": lambda d: (d.abs().amax(1) > 1e-6).flatten(1).sum(1).double(),
    "l1": lambda d: row_sum(d.abs()),
    "l2": l2,
    "linf": linf,
}


@dataclass
class Side:
    """What one side found and spent, over all batches."""

    distances: list[Tensor] = field(default_factory=list)
    forwards: list[float] = field(default_factory=list)
    backwards: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def add(self, found: Tensor, task: Task, passes: tuple[float, float]) -> None:
        """Enter what was found of a task's images."""
        size = SIZES[task.duel.size]
        with torch.no_grad():
            label = task.model.network(found).argmax(1)
        fell = label == task.goal if task.targeted else label != task.goal
        self.distances.append(torch.where(fell, size(found - task.x).double(), torch.inf))
        self.forwards.append(passes[0])
        self.backwards.append(passes[1])

    @property
    def success(self) -> float:
        """Share of images."""
        return float(torch.cat(self.distances).isfinite().double().mean())

    @property
    def median(self) -> float:
        """Of the distances, infinite where less than half of the images fell."""
        return float(torch.cat(self.distances).quantile(0.5, interpolation="higher"))

    @property
    def passes(self) -> float:
        """Forward and backward, an image."""
        return fmean(self.forwards) + fmean(self.backwards)

    @property
    def row(self) -> list[str]:
        """As a table shows it."""
        passes = f"{fmean(self.forwards):.0f} + {fmean(self.backwards):.0f}"
        return [
            f"{100 * self.success:.1f}",
            f"{self.median:.3g}",
            passes,
            f"{fmean(self.seconds):.3f}",
        ]


Known = dict[tuple[Any, ...], "Side | str"]


@dataclass(frozen=True)
class Arena:
    """A network, images that it gets right, and how they are handed out."""

    model: Classifier
    x: Tensor
    y: Tensor
    batch: int
    micro_batch: int

    def fight(self, duel: Duel, known: Known) -> tuple[Side, Side | str]:
        """Both sides in turns, or why the other one did not run; who fought before is `known`."""
        key = Key.root(0, range(len(self.x)))
        us = (duel.attack, duel.steps, duel.threat, duel.size, duel.skip)
        them = (duel.theirs, duel.threat.targeted, duel.size, duel.skip)
        here = [run for run in ((us, self._ours), (them, self._theirs)) if run[0] not in known]
        sides = {who: Side() for who, _ in here}
        for start in range(duel.skip, len(self.x), self.batch):
            part = slice(start, min(start + self.batch, len(self.x)))
            y = (
                (self.y[part] + 1) % self.model.num_classes
                if duel.threat.targeted
                else self.y[part]
            )
            for who, run in here:
                task = Task(Counted(self.model).eval(), self.x[part], y, key[part], duel)
                try:
                    run(task, sides[who])
                except ImportError:
                    known[who] = "not installed"
                except Exception as error:  # theirs is not for us to mend
                    known[who] = f"{type(error).__name__}: {error}"[:60]
        known |= {who: side for who, side in sides.items() if who not in known}
        ours, theirs = known[us], known[them]
        assert isinstance(ours, Side), ours
        return ours, theirs

    def _ours(self, task: Task, side: Side) -> None:
        duel = task.duel
        recipe = Recipe("duel", attack=duel.attack, steps=duel.steps)
        who = Opponents(micro_batch=self.micro_batch)
        siege = Siege(Defense(Chain(), self.model), recipe, duel.threat, who)
        began = time.process_time()
        found = siege.attack(task.x, task.goal, task.key)
        side.seconds.append((time.process_time() - began) / len(task.x))
        passes = (float(v.double().mean()) for v in (found.forwards, found.backwards))
        side.add(found.x, task, (next(passes), next(passes)))

    def _theirs(self, task: Task, side: Side) -> None:
        torch.default_generator.manual_seed(0)  # theirs are global
        np.random.seed(0)  # noqa: TID251, NPY002
        began = time.process_time()
        found = task.duel.theirs(task).detach()
        side.seconds.append((time.process_time() - began) / len(task.x))
        self.model.eval()  # some put it back into training
        counted = task.model
        passes = (counted.forwards / len(task.x), counted.backwards / len(task.x))
        side.add(found, task, passes)

    def bare(self, gradient: bool) -> float:
        """Seconds an image that the network alone takes, forward, and backward if `gradient`."""
        x, times = self.x[: self.micro_batch].clone().requires_grad_(gradient), []
        for _ in range(5):
            began = time.process_time()
            with torch.set_grad_enabled(gradient):
                logits = self.model(x)
            if gradient:
                torch.autograd.grad(logits.sum(), x)
            times.append((time.process_time() - began) / len(x))
        return min(times)

    def alone(self, side: Side) -> float:
        """Share of a side's time that the network alone would take for its passes."""
        forward, both = self.bare(False), self.bare(True)
        need = fmean(side.forwards) * forward + fmean(side.backwards) * (both - forward)
        return need / fmean(side.seconds)


def arena(model: str, images: str, count: int, batch: int, micro_batch: int) -> Arena:
    """The first `count` images that the network gets right, as many as there are."""
    network, source = load_model(model), load_images(images)
    x, y, _ = source.take(range(min(2 * count, len(source))))
    with torch.no_grad():
        right = (network(x).argmax(1) == y).nonzero()[:count, 0]
    return Arena(network, x[right], y[right], batch, micro_batch)


def verdict(duel: Duel, ours: Side, theirs: Side) -> bool:
    """Whether ours is as good; see the head of this file."""
    near = not duel.looks_near or ours.median <= FARTHER * theirs.median
    time = fmean(ours.seconds) / fmean(theirs.seconds)
    spent = max(1.0, ours.passes / theirs.passes) if duel.equal else 1.0
    return ours.success >= theirs.success and near and time <= SLOWER * spent


def bench(
    model: str = "digits-cnn",
    images: str = "digits",
    count: int = 16,
    eps: float = 0.15,
    batch: int = 100,
    micro_batch: int = 20,
    only: Sequence[str] = (),
) -> bool:
    """Print the table row by row; True if every row whose library is here is met."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    here, console, met = arena(model, images, count, batch, micro_batch), Console(width=180), True
    table = Table(title=f"{here.model.name}, {len(here.x)} images, one thread")
    for column in COLUMNS:
        table.add_column(column, justify="left" if column in COLUMNS[:2] else "right")
    known: Known = {}
    for duel in duels(eps):
        if only and not any(word in f"{duel.title} {duel.library}" for word in only):
            continue
        ours, theirs = here.fight(duel, known)
        own = [*ours.row, f"{here.alone(ours):.2f}"]
        if isinstance(theirs, str):
            row = [duel.title, duel.library, *own, theirs]
        else:
            ratio = f"{ours.median / theirs.median:.3f}"
            time = f"{fmean(ours.seconds) / fmean(theirs.seconds):.2f}"
            good = verdict(duel, ours, theirs)
            met &= good
            row = [
                duel.title,
                duel.library,
                *own,
                *theirs.row,
                ratio,
                time,
                "yes" if good else "no",
            ]
        table.add_row(*row)
        print(" | ".join(row), flush=True)
    torch.set_num_threads(threads)
    console.print(table)
    return met


def main() -> int:
    """From the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--model", default="digits-cnn", help="a spec of the model catalog")
    parser.add_argument("--images", default="digits", help="a spec of the image catalog")
    parser.add_argument("--count", type=int, default=16, help="images")
    parser.add_argument("--eps", type=float, default=0.15, help="linf, of attacks by scores")
    parser.add_argument("--batch", type=int, default=100, help="images that an attack gets at once")
    parser.add_argument("--micro-batch", type=int, default=20, help="rows of our network's batches")
    parser.add_argument("--only", nargs="*", default=(), help="words of the rows wanted")
    return int(not bench(**vars(parser.parse_args())))


if __name__ == "__main__":
    raise SystemExit(main())
