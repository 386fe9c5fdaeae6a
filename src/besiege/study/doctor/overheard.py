"""A short search, overheard: where it asks for gradients, what it is told, and where it ends."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from besiege.attacks.attack import Problem
from besiege.attacks.oracle import Meter, Reading
from besiege.checks.gradients import Ranks
from besiege.checks.optimisation import Asked, Duel
from besiege.checks.randomness import Luck
from besiege.core.batch import l2
from besiege.core.key import Key
from besiege.study.doctor.probes import Unasked
from besiege.study.doctor.visit import Visit, array
from besiege.study.recipe import Recipe

PUBLISHED = "published"  # the setting of a loss that is as its paper prints it


class _Spy:
    """Stands between attack and oracle, and keeps where gradients were asked and what was told."""

    def __init__(self, problem: Problem) -> None:
        self.oracle = problem.oracle
        self.asked: list[Tensor] = []
        self.scores: list[Tensor] = []

    def __call__(self, x: Tensor, goal: Tensor, key: Key, **how: Any) -> Reading:
        reading = self.oracle(x, goal, key, **how)
        if reading.gradient is not None and x.ndim == 4:
            self.asked.append(x.detach())
        if reading.scores is not None and reading.scores.ndim == 2:
            self.scores.append(reading.scores)
        return reading


@dataclass(frozen=True)
class Search:
    """Where a short search went.

    x: (B, C, H, W) in the threat. asked: where gradients were asked, if they were. scores: each
    (B, K) that it was told.
    """

    x: Tensor
    asked: Asked | None
    scores: tuple[Tensor, ...]

    @property
    def places(self) -> Asked:
        """`asked`. Raises Unasked where no gradient was."""
        if self.asked is None:
            raise Unasked("it asks for no gradients")
        return self.asked


def search(visit: Visit, recipe: Recipe, key: Key) -> Search:
    """The steps of the recipe's attack, overheard. Raises Unasked for one that runs by itself."""
    siege = visit.siege(recipe)
    attack = siege.made
    if attack.whole is not None or recipe.union:
        raise Unasked(f"the attack {recipe.attack} runs by itself, its steps cannot be overheard")
    draws = recipe.draws if visit.random else 1
    problem = siege.problem(visit.x, visit.y, key, Meter(None), draws)
    spy = _Spy(problem)
    problem = replace(problem, oracle=spy)
    state = attack.init(problem)
    spy.asked.clear()
    off, gone = [], []
    for t in range(recipe.steps):
        here = state.x
        state = attack.step(problem, state, t)
        if spy.asked:
            off.append(torch.stack([l2(here - x) for x in spy.asked]).amin(0))
            gone.append(l2(here - visit.x))
        spy.asked.clear()
    asked = Asked(_columns(off), _columns(gone)) if off else None
    return Search(visit.threat.project(state.x, visit.x), asked, tuple(spy.scores))


def ranks(visit: Visit, found: Search) -> Ranks:
    """Of the label, in all that it was told. Raises Unasked under a loss that has no plateau."""
    if PUBLISHED not in visit.siege(visit.recipe).loss:
        raise Unasked("only the loss dlr:published=true has the plateau")
    if not found.scores:
        raise Unasked("it hears no scores")
    return Ranks(_columns([_rank(scores, visit.y) for scores in found.scores]))


def _rank(scores: Tensor, y: Tensor) -> Tensor:
    """How many logits are above the label's, (T * B,)."""
    own = scores.gather(1, y.repeat(len(scores) // len(y))[:, None])
    return (scores > own).sum(1)


def _columns(parts: list[Tensor]) -> np.ndarray:
    return array(torch.stack(parts, 1))


def duel(visit: Visit, x: Tensor) -> Duel:
    """The true loss at points x (B, C, H, W), and at the end of a random direction."""
    fresh = visit.key.fold("doctor", "duel")
    signs = visit.key.fold("doctor", "search", "noise").normal(*visit.shape).to(visit.x)
    ball = visit.threat.ball
    noise = visit.threat.project(visit.x + ball.eps * ball.ascent(signs), visit.x)
    return Duel(visit.margins(x, fresh), visit.margins(noise, fresh))


def luck(visit: Visit, x: Tensor) -> Luck:
    """Accuracy if the draw is known: a search on it, judged on it; and at x on fresh draws."""
    visit.needs_draws()
    recipe = replace(visit.recipe, name="frozen", links="frozen", draws=1)
    key = visit.key.fold("attack", "frozen")
    key = Key(key.values, key.values)
    found = search(visit, recipe, key)
    view = visit.siege(recipe).views[0]
    fresh = visit.right(visit.defense, x, visit.key.fold("doctor", "luck"), visit.fresh)
    return Luck(visit.right(view, found.x, key, 1), fresh)
