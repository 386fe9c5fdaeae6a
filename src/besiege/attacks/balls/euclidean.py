"""Euclidean balls, which differ in their unit of length: plain l2, root mean square, relative."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from besiege.attacks.balls.ball import Ball, check_radius, edge
from besiege.core.batch import l2, rows
from besiege.core.key import Key
from besiege.ops.projections import onto_l2, onto_levels


class _Euclidean(Ball):
    """An l2 ball; `_unit` is the l2 length of size 1 around each clean image, (B,)."""

    def _unit(self, x0: Tensor) -> Tensor:
        return x0.new_ones(len(x0))

    def size(self, x: Tensor, x0: Tensor) -> Tensor:
        """l2 distance in units of the ball; infinite if the unit is 0 and x is not x0."""
        distance, unit = l2(x - x0), self._unit(x0)
        return torch.where(distance > 0, distance / unit, distance)

    def onto(self, x: Tensor, x0: Tensor, radius: Tensor) -> Tensor:
        """The nearest point of ball and [0, 1]: exact, not scaled and then clipped."""
        return onto_l2(x, x0, radius * self._unit(x0.double()))

    def rounded(self, x: Tensor, x0: Tensor) -> Tensor:
        """Levels nearest to x, taken back greedily until in the ball; see `onto_levels`."""
        reach = edge(self.eps) * (1 - 1e-9) * self._unit(x0.double())
        return onto_levels(x, x0, reach, 2)

    def ascent(self, gradient: Tensor) -> Tensor:
        """The gradient brought to size 1."""
        size, unit = l2(gradient), self._step_unit(gradient)
        return gradient * rows(unit / torch.where(size > 0, size, 1), gradient)

    def _step_unit(self, gradient: Tensor) -> Tensor:
        return self._unit(gradient)

    def start(self, x0: Tensor, key: Key) -> Tensor:
        """Uniform direction, uniform radius in [0, eps]."""
        direction = key.fold("direction").normal(*x0.shape[1:]).to(x0.dtype)
        radius = self.eps * key.fold("radius").uniform(dtype=x0.dtype) * self._unit(x0)
        return self.project(x0 + rows(radius / l2(direction), x0) * direction, x0)


@dataclass(frozen=True)
class L2(_Euclidean):
    """Plain Euclidean length of the change at most eps, pixels in [0, 1]."""

    eps: float

    def __post_init__(self) -> None:
        check_radius(self.eps, self.name)

    @property
    def name(self) -> str:
        """l2."""
        return "l2"


@dataclass(frozen=True)
class RmsL2(_Euclidean):
    """Root mean square over all C*H*W entries at most eps: l2 as Qiu et al. 2020 measure it.

    The plain l2 norm is sqrt(C*H*W) times as large: 0.05 at 299 x 299 x 3 is 25.9.
    """

    eps: float

    def __post_init__(self) -> None:
        check_radius(self.eps, self.name, most=1)

    @property
    def name(self) -> str:
        """rms."""
        return "rms"

    def _unit(self, x0: Tensor) -> Tensor:
        return x0.new_full((len(x0),), math.sqrt(x0[0].numel()))


@dataclass(frozen=True)
class Dissimilarity(_Euclidean):
    """||x - x0||_2 / ||x0||_2 at most eps, pixels in [0, 1]: Guo et al. 2018 (arXiv:1711.00117).

    There it is a mean over images. Here it binds each image, which bounds the mean as well.
    The released code measures it on images normalised by ImageNet's mean and deviation, where the
    same change counts about two to three times as much: their 0.06 is not this 0.06. A black image
    admits nothing but itself.
    """

    eps: float

    def __post_init__(self) -> None:
        check_radius(self.eps, self.name, most=1, why="the image itself")

    @property
    def name(self) -> str:
        """dissimilarity."""
        return "dissimilarity"

    def _unit(self, x0: Tensor) -> Tensor:
        return l2(x0)

    def _step_unit(self, gradient: Tensor) -> Tensor:
        """Of a mid-grey image: a step is not told which image it is for, the projection is."""
        return gradient.new_full((len(gradient),), 0.5 * math.sqrt(gradient[0].numel()))
