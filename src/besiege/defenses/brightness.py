"""Brightness: the same value taken from every pixel."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from besiege.core.errors import BadSetting
from besiege.defenses.transform import Surrogate, Transform, identity


@dataclass(frozen=True)
class Brightness(Transform):
    """Brightness: the same value taken from every pixel.

    levels: how many of 255, -255 to 255; negative brightens.
    rounded: round the image to 8 bit first (half to even), as released; the gradient is that of
        the same without.
    clip: cut to [0, 1]; the released code does not, and what leaves the range is no image.

    Source: Dziedzic and Krishnan 2020 (arXiv:2002.03080), and the code released with it.

    >>> import torch
    >>> Brightness(levels=51).forward(torch.tensor([0.1, 0.5]), None)
    tensor([0.0000, 0.3000])
    """

    levels: float = 16
    rounded: bool = False
    clip: bool = True
    name: str = "brightness"

    def __post_init__(self) -> None:
        if not -255 <= self.levels <= 255:
            raise BadSetting(f"brightness: levels lie in [-255, 255], got {self.levels}.")

    def forward(self, x: Tensor, draw: Any) -> Tensor:
        """x float in [0, 1] of any shape, darker by levels / 255."""
        return self._shifted((x.detach() * 255).round() / 255 if self.rounded else x)

    @property
    def surrogates(self) -> Mapping[str, Surrogate]:
        """The true gradient, or rounding passed straight through; the same where clipped too."""
        first = "straight-through" if self.rounded else "exact"
        return {first: self._unrounded, "identity": identity}

    def _unrounded(self, x: Tensor, draw: Any) -> Tensor:
        return self._shifted(x)

    def _shifted(self, x: Tensor) -> Tensor:
        y = x - self.levels / 255
        return y.clamp(0, 1) if self.clip else y
