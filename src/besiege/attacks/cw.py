"""The l2 attack of Carlini & Wagner 2017 (arXiv:1608.04644), section VI A."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from besiege.attacks.attack import EUCLIDEAN, Attack, Problem, met
from besiege.attacks.oracle import Reading
from besiege.core.batch import row_sum, rows
from besiege.core.errors import BadSetting, one_of
from besiege.ops.adam import Moments, adam

INSIDE = 1 - 1e-6  # how far from grey to its bounds atanh is taken: 0 and 1 would give infinity
STALLED = 0.9999  # an objective above this many times that of the last look no longer falls
GROWTH = 10.0  # of a c that never met the goal
LARGEST = 1e10
LOOKS, APART = 10, 100  # in a search, for an early end; steps at least from one to the next

# Form -> (pixels to variable, variable to pixels, slope of the latter).
FORMS: dict[str, tuple[Callable[[Tensor], Tensor], ...]] = {
    "tanh": (
        lambda x: torch.atanh((2 * x - 1) * INSIDE),
        lambda w: (torch.tanh(w) + 1) / 2,
        lambda w: (1 - torch.tanh(w) ** 2) / 2,
    ),
    "pixels": (torch.clone, torch.clone, torch.ones_like),
}


class Searching(NamedTuple):
    """A point, what Adam moves, and the search over c; each row is in a search of its own."""

    x: Tensor  # (B, C, H, W)
    w: Tensor  # (B, C, H, W) the variable
    moments: Moments  # their age is that of the search
    c: Tensor  # (B,)
    low: Tensor  # (B,) the largest c that did not meet the goal, or 0
    high: Tensor  # (B,) the smallest c that did, or infinity
    hit: Tensor  # (B,) bool: this search has met the goal
    mark: Tensor  # (B,) the objective at the last look
    raised: Tensor  # (B, K) weights of the margin if rival="clean"; none before, or otherwise


def cw(
    rate: float = 0.01,
    c: float = 0.01,
    searches: int = 5,
    kappa: float = 0.0,
    form: str = "tanh",
    abort: bool = True,
    rival: str = "best",
) -> Attack:
    """Adam on ||x - x0||_2^2 + c max(kappa - margin, 0), and a search for the smallest c.

    rate: of Adam, in units of the variable.
    c: of the first search; ten times as much after each that fails, then halfway between the
        largest that failed and the smallest that met the goal. Each example has its own.
    searches: into which the steps are divided, each from the clean image. 1 keeps c fixed.
    kappa: margin in logits that a success needs, and beyond which it is not pushed.
    form: "tanh" moves w with x = (tanh w + 1) / 2; "pixels" moves pixels and clips them.
    abort: a search whose objective did not fall for a tenth of its steps, at least 100, ends early;
        what it leaves over goes to further searches. Looks every ten steps, as others take in short
        searches, cost 9 % of the distance on CIFAR-10 (100 steps a search).
    rival: "best" takes the margin over the best rival now; "clean" over that at the clean image.
    As published: 10 000 steps a search and 9 of them. Guo et al. 2018: form=pixels, rival=clean,
    searches=1, c=10. Perturb-net (P4) on noisy networks: searches=1, rate=0.001, 300 steps; its
    adaptive form is this attack through a view, with `draws` for its many trials, and the gradient
    at C(x) (the released one is at x). What those do otherwise and this does not: sums over a batch
    decide for single images, w is infinite where a pixel is 0 or 1, the last point or that of least
    objective is returned whether or not it meets the goal, and one lucky draw is a success.
    Cost: one forward and one backward pass a draw and step.
    """
    _check(rate, c, searches, kappa, form, rival)
    variable, pixels, slope_of = FORMS[form]

    def init(p: Problem) -> Searching:
        w = variable(p.x0)
        return _begin(p, w, c)._replace(x=p.threat.project(pixels(w), p.x0))

    def advance(p: Problem, s: Searching, t: int) -> Searching:
        if rival == "clean" and t == 0:
            s = s._replace(raised=_raised(p))
        reading = p.ask(s.x, t) if rival == "best" else _over(p, s, t)
        assert reading.loss is not None
        assert reading.gradient is not None
        s = s._replace(hit=s.hit | (met(reading) & (reading.loss >= kappa)))
        pull, push = 2 * (s.x - p.x0), rows(s.c * (reading.loss < kappa), s.x) * reading.gradient
        step, moments = adam(s.moments, (pull - push) * slope_of(s.w))
        w = s.w - rate * step
        w = w.clamp(0, 1) if form == "pixels" else w
        length = max(1, p.steps // searches)
        over = moments.age >= length
        if abort:
            look = (moments.age % max(APART, length // LOOKS)) == 0
            stalled, s = _look(p, s, (kappa - reading.loss).clamp_min(0), look)
            over |= stalled
        if searches > 1:
            s, start = _next_search(s, over), variable(p.x0)
            w, moments = torch.where(rows(over, w), start, w), moments.forget(over)
        return s._replace(x=p.threat.project(pixels(w), p.x0), w=w, moments=moments)

    least = kappa or -math.inf  # at 0 the majority of the draws decides, not their mean margin
    return Attack(init, advance, balls=EUCLIDEAN, loss="margin", nearest=True, least=least)


def _check(rate: float, c: float, searches: int, kappa: float, form: str, rival: str) -> None:
    one_of("form", form, FORMS, "attack cw")
    one_of("rival", rival, ("best", "clean"), "attack cw")
    if not (rate > 0 and c > 0 and searches >= 1 and kappa >= 0):
        raise BadSetting(
            "attack cw takes rate > 0, c > 0, searches >= 1 and kappa >= 0, got "
            f"{rate:g}, {c:g}, {searches} and {kappa:g}."
        )


def _begin(p: Problem, w: Tensor, c: float) -> Searching:
    """All rows in their first search."""
    each = p.x0.new_ones(len(p.x0))
    far, raised = torch.inf * each, p.x0.new_empty(len(p.x0), 0)
    return Searching(p.x0, w, Moments.none(w), c * each, 0 * each, far, each < 0, far, raised)


def _look(p: Problem, s: Searching, hinge: Tensor, look: Tensor) -> tuple[Tensor, Searching]:
    """Which of the rows `look` have stalled, and the mark that the next look compares with."""
    value = row_sum((s.x - p.x0) ** 2) + s.c * hinge
    stalled = look & (value > STALLED * s.mark)
    return stalled, s._replace(mark=torch.where(look, value, s.mark))


def _next_search(s: Searching, over: Tensor) -> Searching:
    """The rows `over` with the c of their next search."""
    low = torch.where(over & ~s.hit, torch.maximum(s.low, s.c), s.low)
    high = torch.where(over & s.hit, torch.minimum(s.high, s.c), s.high)
    following = torch.where(high.isfinite(), (low + high) / 2, (s.c * GROWTH).clamp_max(LARGEST))
    mark = s.mark.masked_fill(over, torch.inf)
    c = torch.where(over, following, s.c)
    return s._replace(c=c, low=low, high=high, hit=s.hit & ~over, mark=mark)


def _raised(p: Problem) -> Tensor:
    """Weights (B, K) of the margin over the best rival at the clean image."""
    scores = p.query(p.x0, 0, "clean").scores
    assert scores is not None
    own = functional.one_hot(p.goal, scores.shape[1])
    rival = scores.masked_fill(own.bool(), -torch.inf).argmax(1)
    other = functional.one_hot(rival, scores.shape[1])
    return (own - other if p.threat.targeted else other - own).to(scores)


def _over(p: Problem, s: Searching, t: int) -> Reading:
    """A reading whose loss and gradient are of the weighted logits."""
    reading = p.jacobian(s.x, s.raised, t)
    assert reading.scores is not None
    return reading._replace(loss=row_sum(reading.scores * s.raised))
