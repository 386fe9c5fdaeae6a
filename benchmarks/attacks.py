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
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from statistics import fmean
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from besiege.attacks.catalog import load_attack
from besiege.attacks.threat import L0, L2, Box, Linf, Threat
from besiege.core.batch import l2, linf, row_sum
from besiege.core.key import Key
from besiege.data.catalog import load_images
from besiege.defenses.defense import Defense
from besiege.defenses.transform import Chain
from besiege.models.catalog import load_model
from besiege.models.classifier import Classifier
from besiege.study.recipe import Opponents, Recipe, Siege

FARTHER = 1.02  # at most this many times their median distance
SLOWER = 1.05  # at most this many times their time a pass: two runs of one attack differ by that

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


class Counted(nn.Module):
    """A network, and the rows that went through it forward and backward."""

    def __init__(self, network: Classifier) -> None:
        super().__init__()
        self.network = network
        self.forwards, self.backwards = 0, 0

    def forward(self, x: Tensor) -> Tensor:
        """Its logits."""
        self.forwards += len(x)
        logits: Tensor = self.network(x)
        if logits.requires_grad:
            logits.register_hook(self._back)
        return logits

    def _back(self, slope: Tensor) -> None:
        self.backwards += len(slope)


@dataclass(frozen=True)
class Task:
    """What a library is asked to attack."""

    model: Counted
    x: Tensor
    goal: Tensor  # labels, or targets
    key: Key
    duel: Duel

    @property
    def targeted(self) -> bool:
        """Whether the goal is a target."""
        return self.duel.threat.targeted


Theirs = Callable[[Task], Tensor]


def foolbox(name: str, eps: float | None = None, **settings: Any) -> Theirs:
    """An attack of Foolbox."""

    def run(task: Task) -> Tensor:
        library = import_module("foolbox")
        wrapped = library.PyTorchModel(task.model, bounds=(0, 1), device="cpu")
        goal = task.goal
        if task.targeted:
            goal = library.criteria.TargetedMisclassification(goal)
        found: Tensor = getattr(library.attacks, name)(**settings)(
            wrapped, task.x, goal, epsilons=eps
        )[1]
        return found

    return run


def art(name: str, **settings: Any) -> Theirs:
    """An attack of the Adversarial Robustness Toolbox."""

    def run(task: Task) -> Tensor:
        estimators = import_module("art.estimators.classification")
        shape = tuple(task.x.shape[1:])
        wrapped = estimators.PyTorchClassifier(
            task.model,
            nn.CrossEntropyLoss(),
            shape,
            task.model.network.num_classes,
            clip_values=(0, 1),
            device_type="cpu",
        )
        made = getattr(import_module("art.attacks.evasion"), name)(
            wrapped, verbose=False, **settings
        )
        goal = np.eye(task.model.network.num_classes)[task.goal.numpy()]
        return torch.from_numpy(made.generate(task.x.numpy(), goal)).float()

    return run


def torchattacks(name: str, **settings: Any) -> Theirs:
    """An attack of torchattacks."""

    def run(task: Task) -> Tensor:
        made = getattr(import_module("torchattacks"), name)(task.model, **settings)
        if task.targeted:
            made.set_mode_targeted_by_label(quiet=True)
        found: Tensor = made(task.x, task.goal)
        return found

    return run


def adversarial_library(name: str, **settings: Any) -> Theirs:
    """An attack of adversarial-library."""

    def run(task: Task) -> Tensor:
        attack = getattr(import_module("adv_lib.attacks"), name)
        found: Tensor = attack(task.model, task.x, task.goal, targeted=task.targeted, **settings)
        return found

    return run


@dataclass(frozen=True)
class Duel:
    """One of our attacks and one of another library.

    skip: first images that are left out, since ours was tuned on them.
    equal: at equal settings; else ours makes fewer passes, and its time is what is compared.
    """

    title: str
    attack: str
    steps: int
    threat: Threat
    library: str
    theirs: Theirs
    size: str
    skip: int = 0
    equal: bool = True

    @property
    def looks_near(self) -> bool:
        """Whether distances count: not inside a ball where any point will do."""
        return load_attack(self.attack).nearest or self.size == "l0"


FAR, FARTHEST = Threat(L2(30)), Threat(Linf(1))
CW: dict[str, Any] = {"initial_const": 0.01, "binary_search_steps": 5}
DEEPFOOL: dict[str, Any] = {"steps": 50, "candidates": 10, "overshoot": 0.02}


def nearest() -> Iterator[Duel]:
    """Of those that look for the nearest point, by gradients."""
    title = "C&W l2, 5 x 100 steps"
    peer = foolbox("L2CarliniWagnerAttack", steps=100, stepsize=0.01, **CW)
    yield Duel(title, "cw", 500, FAR, "foolbox", peer, "l2")
    few = "cw:searches=2,rate=0.002,c=0.005"
    yield Duel("C&W at 2 x 50 steps", few, 100, FAR, "foolbox", peer, "l2", equal=False)
    peer = adversarial_library("carlini_wagner_l2", max_iterations=100, **CW)
    yield Duel(title, "cw", 500, FAR, "adv_lib", peer, "l2")
    for norm, threat in (("l2", FAR), ("linf", FARTHEST)):
        name = f"{norm.capitalize()}DeepFoolAttack"
        peer = foolbox(name, **DEEPFOOL)
        yield Duel(f"DeepFool {norm}, 50 steps", "deepfool", 50, threat, "foolbox", peer, norm)
    peer = foolbox("DDNAttack", steps=100)
    yield Duel("DDN, 100 steps", "ddn", 100, FAR, "foolbox", peer, "l2")
    peer = adversarial_library("ddn", steps=100, levels=None)
    yield Duel("DDN, 100 steps", "ddn", 100, FAR, "adv_lib", peer, "l2")
    for norm, order, threat in (("l2", 2, FAR), ("linf", float("inf"), FARTHEST)):
        title = f"FMN {norm}, 100 steps"
        peer = adversarial_library("fmn", norm=order, steps=100)
        yield Duel(title, "fmn", 100, threat, "adv_lib", peer, norm)
        name = "L2FMNAttack" if norm == "l2" else "LInfFMNAttack"
        yield Duel(title, "fmn", 100, threat, "foolbox", foolbox(name, steps=100), norm)


def few_pixels() -> Iterator[Duel]:
    """Of those that change few pixels."""
    threat = Threat(L0(60), targeted=True)
    title = "JSMA to a target, theta 1, 60 entries"
    yield Duel(title, "jsma", 30, threat, "art", _jsma, "l0")
    peer = torchattacks("OnePixel", pixels=3, steps=10, popsize=100)
    title = "3 pixels, population 90, 10 rounds"
    scores = Threat(L0(3), access="scores")
    yield Duel(title, "one-pixel:population=90,base=best", 11, scores, "torchattacks", peer, "l0")
    peer = art("PixelAttack", th=3, es=1, max_iter=2)
    title = "3 pixels, population 400, 2 rounds"
    yield Duel(title, "one-pixel:base=best", 3, scores, "art", peer, "l0")


def by_scores(eps: float) -> Iterator[Duel]:
    """Of those that hear scores, in a ball of linf `eps`."""
    threat = Threat(Linf(eps), access="scores")
    title = "Square linf, 300 queries"
    peer = art("SquareAttack", norm=np.inf, max_iter=300, eps=eps, p_init=0.8)
    yield Duel(title, "square", 300, threat, "art", peer, "linf")
    peer = torchattacks("Square", norm="Linf", eps=eps, n_queries=300)
    yield Duel(title, "square", 300, threat, "torchattacks", peer, "linf")
    title = "GenAttack to a target, population 6, 80 rounds"
    peer = foolbox("GenAttack", eps, steps=80, population=6)
    aimed = Threat(Linf(eps), targeted=True, access="scores")
    yield Duel(title, "genattack", 80, aimed, "foolbox", peer, "linf")


def by_labels() -> Iterator[Duel]:
    """Of those that hear labels."""
    peer = foolbox("HopSkipJumpAttack", steps=5)
    for queries in (1000, 400):
        title = f"HopSkipJump l2, {queries} queries"
        title = title if queries == 1000 else f"HopSkipJump at {queries} queries"
        threat = Threat(L2(30), access="labels", passes=queries)
        equal = queries == 1000
        yield Duel(title, "hop-skip-jump", 60, threat, "foolbox", peer, "l2", 16, equal)
    threat = Threat(Box(1), access="labels")
    peer = foolbox("SpatialAttack")
    yield Duel("Turns and shifts, grid of 125", "spatial", 5, threat, "foolbox", peer, "linf")
    threat = Threat(L2(60), access="labels")
    peer = foolbox("SaltAndPepperNoiseAttack", steps=100)
    title, attack = "Salt and pepper, 100 queries", "corruption:kind=salt-and-pepper,points=5"
    yield Duel(title, attack, 20, threat, "foolbox", peer, "l2")
    peer = foolbox("LinearSearchContrastReductionAttack", steps=100)
    title = "Contrast, 100 queries at most"
    yield Duel(title, "corruption", 3, threat, "foolbox", peer, "l2")


def _jsma(task: Task) -> Tensor:
    """ART's takes the share of entries that may change."""
    gamma = 59 / task.x[0].numel()
    return art("SaliencyMapMethod", theta=1.0, gamma=gamma, batch_size=len(task.x))(task)


def duels(eps: float) -> Iterator[Duel]:
    """All of them."""
    yield from nearest()
    yield from few_pixels()
    yield from by_scores(eps)
    yield from by_labels()


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
