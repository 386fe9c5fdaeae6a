"""The sum of absolute changes."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from besiege.attacks.balls.ball import Ball, check_radius, edge
from besiege.core.batch import row_sum, rows
from besiege.core.key import Key
from besiege.ops.projections import onto_l1, onto_levels

MOVED = 0.01  # share of the entries that a step moves: quantile 0.99 of Tramèr & Boneh


@dataclass(frozen=True)
class L1(Ball):
    """Absolute changes, pixels in [0, 1], sum up to at most eps.

    >>> L1(0.5).project(torch.tensor([[[[1.0, 0.2]]]]), torch.zeros(1, 1, 1, 2))
    tensor([[[[0.5000, 0.0000]]]])
    """

    eps: float

    def __post_init__(self) -> None:
        check_radius(self.eps, self.name)

    @property
    def name(self) -> str:
        """l1."""
        return "l1"

    @property
    def sparse(self) -> bool:
        """Yes: one entry."""
        return True

    def size(self, x: Tensor, x0: Tensor) -> Tensor:
        """Sum of the absolute changes."""
        return row_sum((x - x0).abs())

    def onto(self, x: Tensor, x0: Tensor, radius: Tensor) -> Tensor:
        """The nearest point of ball and [0, 1] (Croce & Hein 2021, arXiv:2103.01208): exact."""
        return onto_l1(x, x0, radius)

    def rounded(self, x: Tensor, x0: Tensor) -> Tensor:
        """The nearest 8-bit image in the ball, exact where x0 is one; see `onto_levels`."""
        reach = edge(self.eps) * (1 - 1e-9)
        return onto_levels(x, x0, x0.new_full((len(x0),), reach, dtype=torch.float64), 1)

    def ascent(self, gradient: Tensor) -> Tensor:
        """Equal steps on the 1 % of the entries with the largest slope, at least on one.

        The steepest step moves a single entry and needs as many steps as entries; this is SLIDE's
        (Tramèr & Boneh 2019, arXiv:1904.13000). Equal slopes move together.
        """
        size = gradient.abs().flatten(1)
        number = max(1, math.floor(MOVED * size.shape[1]))
        least = size.topk(number, 1).values[:, -1]
        step = torch.where(gradient.abs() >= rows(least, gradient), gradient.sign(), 0)
        return step / rows(row_sum(step.abs()).clamp_min(1), gradient)

    def start(self, x0: Tensor, key: Key) -> Tensor:
        """Direction uniform on the ball's surface, uniform radius in [0, eps]."""
        direction = key.fold("direction").laplace(*x0.shape[1:]).to(x0.dtype)
        radius = self.eps * key.fold("radius").uniform(dtype=x0.dtype)
        return self.project(x0 + rows(radius / row_sum(direction.abs()), x0) * direction, x0)
