"""Decoupled direction and norm (Rony et al. 2019, arXiv:1811.09600, algorithm 1)."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from besiege.attacks.attack import EUCLIDEAN, Attack, Problem, met
from besiege.core.batch import l2, rows
from besiege.core.errors import BadSetting

LAST = 0.01  # length of the last step, of the first


class Shell(NamedTuple):
    """A point on a sphere around the clean image, cut with [0, 1]."""

    x: Tensor  # (B, C, H, W)
    radius: Tensor  # (B,) l2


def ddn(radius: float = 1.0, gamma: float = 0.05, step: float = 1.0) -> Attack:
    """Steps along the gradient on a sphere that shrinks on success and grows otherwise.

    x' = x0 + r (d + a g / ||g||_2) / ||d + a g / ||g||_2||_2 with d = x - x0, and r' = (1 - gamma)
    r where x meets the goal, (1 + gamma) r elsewhere. All lengths are plain l2, pixels in [0, 1].
    radius: r at first; the first point asked is the clean image.
    gamma: share by which the radius changes in a step.
    step: a at first; it falls to a hundredth of that with the cosine.
    Without the paper's rounding to 256 levels in each step: `eight_bit` of the threat does that
    once, at the end.
    Cost: one forward and one backward pass a draw and step.
    """
    if not (radius > 0 and 0 < gamma < 1 and step > 0):
        raise BadSetting(
            "attack ddn takes radius > 0, 0 < gamma < 1 and step > 0, got "
            f"{radius:g}, {gamma:g} and {step:g}."
        )

    def init(p: Problem) -> Shell:
        return Shell(p.x0, p.x0.new_full((len(p.x0),), radius))

    def advance(p: Problem, s: Shell, t: int) -> Shell:
        reading = p.ask(s.x, t)
        assert reading.gradient is not None
        length = step * (LAST + (1 - LAST) * (1 + math.cos(math.pi * t / p.steps)) / 2)
        tiny = torch.finfo(s.x.dtype).tiny
        unit = reading.gradient / rows(l2(reading.gradient).clamp_min(tiny), s.x)
        shift = s.x - p.x0 + length * unit
        grown = s.radius * torch.where(met(reading), 1 - gamma, 1 + gamma)
        grown = grown.clamp_max(math.sqrt(p.x0[0].numel()))  # no image is farther
        on = p.x0 + rows(grown / l2(shift).clamp_min(tiny), shift) * shift
        return Shell(p.threat.project(on.clamp(0, 1), p.x0), grown)

    return Attack(init, advance, balls=EUCLIDEAN, nearest=True)
