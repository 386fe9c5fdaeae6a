"""Momentum iterative FGSM (Dong et al. 2018, arXiv:1710.06081, algorithm 1)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from besiege.attacks.attack import Attack, Problem
from besiege.core.batch import row_sum, rows


class Moving(NamedTuple):
    """A point and the decayed sum of gradients that brought it there."""

    x: Tensor  # (B, C, H, W)
    velocity: Tensor  # (B, C, H, W), gradients each scaled to mean |g| = 1


def mi_fgsm(step: float = 0.1, decay: float = 1.0, nesterov: bool = False) -> Attack:
    """Steps of `step` times eps along a decayed sum of gradients of mean size 1.

    step: in units of eps.  decay: of the sum at each step.
    nesterov: the gradient is taken where the decayed sum alone would lead, x + step eps decay v, as
        Lin et al. 2020 (arXiv:1908.06281, equation 6), brought into the ball, which they leave.
    For points that transfer: gradients = "varied" in the recipe.
    Cost: one forward and one backward pass a draw and step.
    """

    def init(p: Problem) -> Moving:
        return Moving(p.x0, torch.zeros_like(p.x0))

    def advance(p: Problem, s: Moving, t: int) -> Moving:
        ahead = step * p.threat.ball.eps * decay * s.velocity
        slope = p.slope(p.threat.project(s.x + ahead, p.x0) if nesterov else s.x, t)
        mean = row_sum(slope.abs()) / slope[0].numel()
        velocity = decay * s.velocity + slope / rows(mean.clamp_min(1e-30), slope)
        move = step * p.threat.ball.eps * p.threat.ball.ascent(velocity)
        return Moving(p.threat.project(s.x + move, p.x0), velocity)

    return Attack(init, advance)
