"""The fast minimum-norm attack (Pintor et al. 2021, arXiv:2102.12827, algorithm 1)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from besiege.attacks.attack import EUCLIDEAN, Attack, Problem, met
from besiege.core.batch import l2, linf, row_sum, rows
from besiege.core.errors import BadSetting
from besiege.ops.projections import onto_l1, onto_l2

LAST_STEP, LAST_GAMMA = 0.01, 0.001  # of the first step; of 1


class Norm(NamedTuple):
    """A norm, its dual, and the projection onto its ball of a radius (B,), within [0, 1]."""

    size: Callable[[Tensor], Tensor]
    dual: Callable[[Tensor], Tensor]
    onto: Callable[[Tensor, Tensor, Tensor], Tensor]


def _l1(x: Tensor) -> Tensor:
    return row_sum(x.abs())


def _onto_linf(x: Tensor, x0: Tensor, radius: Tensor) -> Tensor:
    reach = rows(radius, x)
    return x.clamp(x0 - reach, x0 + reach).clamp(0, 1)


_L2 = Norm(l2, l2, onto_l2)
_LINF = Norm(linf, _l1, _onto_linf)
NORMS: Mapping[str, Norm] = {
    "linf": _LINF,
    "box": _LINF,
    "l1": Norm(_l1, linf, onto_l1),
    **dict.fromkeys(EUCLIDEAN, _L2),
}


class Shrinking(NamedTuple):
    """A point in a ball of its own radius."""

    x: Tensor  # (B, C, H, W)
    radius: Tensor  # (B,) in the norm; infinite at first
    best: Tensor  # (B,) size of the nearest success, infinite before one


def fmn(gamma: float = 0.05, step: float = 1.0) -> Attack:
    """Steps along the gradient in a ball that shrinks on success and grows otherwise.

    x' = projection of x + a g / ||g||_2 onto the ball of radius r around x0 and [0, 1], g of the
    margin. Before a success r = ||x - x0|| + |margin| / ||g||*, the border of the linearised
    classifier (||.||* the dual norm), and a thousandth beyond: on the border nothing is won yet,
    and the distance is 0; at one, r = (1 - gamma) min(r, nearest success); after one, where x does
    not meet the goal, (1 + gamma) r. The norm is the threat's: l1, l2 or linf.
    gamma: falls to 0.001 with the cosine.
    step: a at first, in plain l2 whatever the norm, pixels in [0, 1]; falls to a hundredth with the
        cosine.
    The projection is exact. Others project onto the ball and then clip to [0, 1], which leaves a
    part of the radius unused.
    Cost: one forward and one backward pass a draw and step.
    """
    if not (0 < gamma < 1 and step > 0):
        raise BadSetting(f"attack fmn takes 0 < gamma < 1 and step > 0, got {gamma:g}, {step:g}.")

    def init(p: Problem) -> Shrinking:
        far = p.x0.new_full((len(p.x0),), torch.inf)
        return Shrinking(p.x0, far, far)

    def advance(p: Problem, s: Shrinking, t: int) -> Shrinking:
        norm = NORMS[p.threat.ball.name.split()[0]]
        fall = (1 + math.cos(math.pi * t / p.steps)) / 2
        reading = p.ask(s.x, t)
        assert reading.loss is not None
        assert reading.gradient is not None
        tiny = torch.finfo(s.x.dtype).tiny
        size, success = norm.size(s.x - p.x0), met(reading)
        best = torch.where(success, torch.minimum(s.best, size), s.best)
        border = size + reading.loss.abs() / norm.dual(reading.gradient).clamp_min(tiny)
        change = LAST_GAMMA + (gamma - LAST_GAMMA) * fall
        grown = torch.where(best.isfinite(), (1 + change) * s.radius, (1 + LAST_GAMMA) * border)
        radius = torch.where(success, (1 - change) * torch.minimum(s.radius, best), grown)
        radius = radius.clamp_max(p.x0[0].numel())  # no image is farther in any norm
        length = step * (LAST_STEP + (1 - LAST_STEP) * fall)
        unit = reading.gradient / rows(l2(reading.gradient).clamp_min(tiny), s.x)
        x = norm.onto(s.x + length * unit, p.x0, radius)
        return Shrinking(p.threat.project(x, p.x0), radius, best)

    return Attack(init, advance, balls=tuple(NORMS), loss="margin", nearest=True)
