"""Plain gradient descent, as Qiu et al. 2020 and the obfuscated-gradients code run it."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from besiege.attacks.attack import Attack, Problem
from besiege.core.batch import rows
from besiege.core.errors import one_of


class Descent(NamedTuple):
    """A point, and whether the search for it is over."""

    x: Tensor  # (B, C, H, W)
    done: Tensor  # (B,) bool: given up, since a step left the ball


def gradient_descent(
    rate: float = 0.1, over: str = "project", at: str = "current", step: str = "plain"
) -> Attack:
    """Steps along the gradient itself, with the habits of published loops as switches.

    rate: length of a step, times the gradient ("plain") or in units of the ball's norm ("unit").
    over: "project" brings the point back into the ball; "abort" gives the example up at its last
        admitted point as soon as a step leaves the ball.
    at: "current" takes the gradient at the current point; "clean" always at the clean image, so
        that the attack can never adapt (their loop of 17 May 2020).
    step: "plain" is neither signed nor normalised; "unit" is steepest ascent in the ball's norm.
    As released: rate 0.1, plain, abort.
    Cost: one forward and one backward pass a draw and step.
    """
    for what, value, valid in (
        ("over", over, ("project", "abort")),
        ("at", at, ("current", "clean")),
        ("step", step, ("plain", "unit")),
    ):
        one_of(what, value, valid, "attack gradient-descent")

    def init(p: Problem) -> Descent:
        return Descent(p.x0, torch.zeros(len(p.x0), dtype=torch.bool, device=p.x0.device))

    def advance(p: Problem, s: Descent, t: int) -> Descent:
        slope = p.slope(s.x if at == "current" else p.x0, t)
        move = slope if step == "plain" else p.threat.ball.ascent(slope)
        x = (s.x + rate * move).clamp(0, 1)
        if over == "project":
            return Descent(p.threat.project(x, p.x0), s.done)
        left = p.threat.ball.size(x, p.x0) > p.threat.ball.eps
        return Descent(torch.where(rows(left, x), s.x, x), left)

    return Attack(init, advance)
