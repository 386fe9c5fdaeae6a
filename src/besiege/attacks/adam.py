"""Projected Adam: steps that each entry's own history of gradients scales."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from besiege.attacks.attack import Attack, Problem
from besiege.core.batch import linf, rows
from besiege.core.errors import BadSetting


class Moments(NamedTuple):
    """A point, and the decayed means of the gradients and of their squares."""

    x: Tensor  # (B, C, H, W)
    mean: Tensor  # (B, C, H, W)
    square: Tensor  # (B, C, H, W)


def adam(rate: float = 0.01, first: float = 0.9, second: float = 0.999) -> Attack:
    """Adam's ascent (Kingma & Ba 2015), projected into the ball after each step.

    x <- project(x + rate * m / (sqrt(v) + 1e-8 max sqrt(v))), m and v the decayed means of g and
    g^2 without the bias of their start. Entries whose gradients keep their sign move by about the
    rate, others by less: less is left of the noise of estimates and of random defenses. Adam's own
    constant 1e-8 stands by itself; here it is relative, so that scaled losses move alike.
    rate: length of an entry's step on the [0, 1] pixel scale; 0.01 is that of Uesato et al. 2018,
        whose SPSA is this on estimates (the recipe `spsa`).
    first, second: what remains of both means in a step, in [0, 1).
    Cost: one forward and one backward pass a draw and step.
    """
    if not (rate > 0 and 0 <= first < 1 and 0 <= second < 1):
        raise BadSetting(
            "attack adam takes rate > 0 and first, second in [0, 1), got "
            f"{rate:g}, {first:g}, {second:g}."
        )

    def init(p: Problem) -> Moments:
        return Moments(p.x0, torch.zeros_like(p.x0), torch.zeros_like(p.x0))

    def advance(p: Problem, s: Moments, t: int) -> Moments:
        slope = p.slope(s.x, t)
        mean = first * s.mean + (1 - first) * slope
        square = second * s.square + (1 - second) * slope**2
        length = (square / (1 - second ** (t + 1))).sqrt()
        floor = (1e-8 * linf(length)).clamp_min(1e-30)
        move = mean / (1 - first ** (t + 1)) / (length + rows(floor, length))
        return Moments(p.threat.project(s.x + rate * move, p.x0), mean, square)

    return Attack(init, advance)
