"""Projected Adam: steps that each entry's own history of gradients scales."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from besiege.attacks.attack import Attack, Problem
from besiege.core.errors import BadSetting
from besiege.ops.adam import Moments
from besiege.ops.adam import adam as adams_step


class Climb(NamedTuple):
    """A point, and the decayed means of the gradients and of their squares."""

    x: Tensor  # (B, C, H, W)
    moments: Moments


def adam(rate: float = 0.01) -> Attack:
    """Adam's ascent (Kingma & Ba 2015), projected into the ball after each step.

    x <- project(x + rate * m / sqrt(v)), m and v the decayed means of g and g^2 (0.9, 0.999)
    without the bias of their start. Entries whose gradients keep their sign move by about the
    rate, others by less: less is left of the noise of estimates and of random defenses.
    rate: length of an entry's step on the [0, 1] pixel scale; 0.01 is that of Uesato et al. 2018,
        whose SPSA is this on estimates (the recipe `spsa`).
    Cost: one forward and one backward pass a draw and step.
    """
    if not rate > 0:
        raise BadSetting(f"attack adam: rate is a step on the [0, 1] scale and > 0, got {rate:g}.")

    def init(p: Problem) -> Climb:
        return Climb(p.x0, Moments.none(p.x0))

    def advance(p: Problem, s: Climb, t: int) -> Climb:
        down, moments = adams_step(s.moments, -p.slope(s.x, t))
        return Climb(p.threat.project(s.x - rate * down, p.x0), moments)

    return Attack(init, advance)
