"""Who fights whom in `benchmarks.attacks`: our attacks and those of other libraries."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from besiege.attacks.catalog import load_attack
from besiege.attacks.threat import L0, L2, Box, Linf, Threat
from besiege.core.key import Key
from besiege.models.classifier import Classifier


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
