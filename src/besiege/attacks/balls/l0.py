"""The number of pixels that change."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from besiege.attacks.balls.ball import Ball, check_radius, edge
from besiege.core.batch import fold_sum, row_sum, rows
from besiege.core.errors import BadSetting
from besiege.core.key import Key


def _squares(change: Tensor) -> Tensor:
    """Squared length of the change of each pixel, (B, C, H, W) -> (B, H, W) float64."""
    return fold_sum(change.double() ** 2)


def _first(gain: Tensor, number: Tensor) -> Tensor:
    """Which `number` (B,) pixels of each row gain most, (B, 1, H, W) bool; ties by position."""
    order = gain.flatten(1).argsort(dim=1, descending=True, stable=True)
    taken = torch.arange(order.shape[1], device=gain.device) < number[:, None]
    chosen = torch.zeros_like(taken).scatter_(1, order, taken)
    return chosen.reshape(gain.shape)[:, None]


@dataclass(frozen=True)
class L0(Ball):
    """At most eps pixels change, by any amount; a pixel counts once, whatever its channels do.

    A change of at most 6e-8 in every channel is rounding and no change. This is the count of Su et
    al. 2019 and Croce & Hein 2019; Papernot et al. 2016 count entries of grey images, and so does
    the column `l0` of a run, as a share.

    >>> ball, x0 = L0(1), torch.zeros(1, 1, 1, 3)
    >>> ball.project(torch.tensor([[[[0.2, 0.9, -5.0]]]]), x0)
    tensor([[[[0.0000, 0.9000, 0.0000]]]])
    """

    eps: float
    convex: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_radius(self.eps, self.name)
        if not float(self.eps).is_integer():
            raise BadSetting(
                f"ball l0: eps counts pixels (all channels of one together), got {self.eps:g}: "
                "give a whole number, such as 10."
            )

    @property
    def name(self) -> str:
        """l0."""
        return "l0"

    def size(self, x: Tensor, x0: Tensor) -> Tensor:
        """Number of pixels that changed by more than rounding."""
        return row_sum(((x - x0).abs() > edge(0)).any(1).to(x.dtype))

    def onto(self, x: Tensor, x0: Tensor, radius: Tensor) -> Tensor:
        """Exact: of the clipped image, the pixels that bring it nearest to x."""
        clipped = x.clamp(0, 1)
        gain = _squares(x0 - x) - _squares(clipped - x)
        return torch.where(_first(gain, radius.floor()), clipped, x0)

    def _most(self, x0: Tensor) -> Tensor:
        return x0.new_full((len(x0),), self.eps)

    def rounded(self, x: Tensor, x0: Tensor) -> Tensor:
        """Exact: pixels of x0 that are not of 8 bit have to change, and the best others may."""
        level = (x.double() * 255).round().to(x.dtype) / 255
        off = ((x0 - (x0.double() * 255).round().to(x0.dtype) / 255).abs() > edge(0)).any(1)
        gain = _squares(x0 - x) - _squares(level - x)
        gain = torch.where(off, torch.inf, gain)
        free = _first(gain, self._most(x0)) & (gain > 0)[:, None]
        some = off.flatten(1).sum(1) <= self.eps
        return torch.where(rows(some, x) & free, level, x0)

    def ascent(self, gradient: Tensor) -> Tensor:
        """The sign over eps, on the eps pixels with the longest gradients.

        A count does not shrink with the step: what is 1 is the step's eps times the largest
        entry, so that an attack's step in units of eps is one on the scale of pixels.
        """
        chosen = _first(_squares(gradient), self._most(gradient))
        return torch.where(chosen, gradient.sign(), 0) / max(self.eps, 1)

    def start(self, x0: Tensor, key: Key) -> Tensor:
        """Uniform colours on eps pixels picked at random."""
        place = key.fold("place").permutation(x0[0, 0].numel()).reshape(-1, *x0.shape[2:])
        colour = key.fold("colour").uniform(*x0.shape[1:], dtype=x0.dtype)
        return torch.where((place < self.eps)[:, None], colour, x0)
