"""Plain gradient descent, as Qiu et al. 2020 and the obfuscated-gradients code run it."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from besiege.attacks.attack import Attack, Problem
from besiege.core.batch import rows
from besiege.core.errors import unknown


class Spending(NamedTuple):
    """A point, and whether the budget was overrun after it."""

    x: Tensor  # (B, C, H, W)
    over: Tensor  # (B,) bool


def gradient_descent(rate: float = 0.1, over: str = "project") -> Attack:
    """Steps of `rate` times the gradient itself: neither signed nor normalised.

    over: "project" brings the point back into the ball; "abort" gives the example up at its last
        admitted point as soon as a step leaves the ball, as the loops released with Qiu et al. do.
    Cost: one forward and one backward pass a draw and step.
    """
    if over not in ("project", "abort"):
        raise unknown("over", over, ["project", "abort"], where="attack gradient-descent")

    def init(p: Problem) -> Spending:
        return Spending(p.x0, torch.zeros(len(p.x0), dtype=torch.bool, device=p.x0.device))

    def advance(p: Problem, s: Spending, t: int) -> Spending:
        x = (s.x + rate * p.slope(s.x, t)).clamp(0, 1)
        if over == "project":
            return Spending(p.threat.project(x, p.x0), s.over)
        stop = s.over | (p.threat.ball.size(x, p.x0) > p.threat.ball.eps)
        return Spending(torch.where(rows(stop, x), s.x, x), stop)

    return Attack(init, advance)
