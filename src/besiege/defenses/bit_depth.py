"""Bit depth: fewer levels for every channel."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from besiege.core.errors import BadSetting, one_of
from besiege.defenses.transform import Surrogate, Transform, identity
from besiege.ops.rounding import soft_round

ROUNDINGS = ("nearest", "floor", "multiple")


@dataclass(frozen=True)
class BitDepth(Transform):
    """Bit depth: fewer levels for every channel.

    bits: b from 1 to 8.
    rounding: "nearest" takes the nearest of 2^b even levels from 0 to 1 (half to even): Xu et al.
        2018 (arXiv:1704.01155), section 3.1, and the colour depth of Dziedzic and Krishnan 2020
        (arXiv:2002.03080), whose "CD (32)" counts levels: 5 bits. "floor" truncates to 8 bit and
        clears the lower ones, so that white becomes 224/255 at 3 bits: code of Athalye et al. 2018
        and Qiu et al. 2020. "multiple" takes the nearest multiple of 2^-b, 2^b + 1 levels: code of
        Guo et al. 2018.

    Surrogates: "identity" passes the rounding straight through; "soft" differentiates a smooth
    staircase (`ops.rounding`) in its place. Sign steps see no difference.

    >>> BitDepth(bits=1).forward(torch.tensor([0.2, 0.7]), None)
    tensor([0., 1.])
    """

    bits: int = 3
    rounding: str = "nearest"
    name: str = "bits"

    def __post_init__(self) -> None:
        if self.bits not in range(1, 9):
            raise BadSetting(f"bits: bits is a whole number from 1 to 8, got {self.bits}.")
        one_of("rounding", self.rounding, ROUNDINGS, "transform bits")

    def forward(self, x: Tensor, draw: Any) -> Tensor:
        """x float in [0, 1] of any shape, on the levels."""
        with torch.no_grad():
            if self.rounding == "floor":
                step = 1 << (8 - self.bits)
                return ((x * 255).floor() / step).floor() * step / 255
            return (x * self._steps).round() / self._steps

    @property
    def surrogates(self) -> Mapping[str, Surrogate]:
        """Rounding passed straight through, or softened."""
        return {"identity": identity, "soft": self._soft}

    @property
    def _steps(self) -> int:
        """Levels but one between 0 and 1."""
        return (1 << self.bits) - (self.rounding == "nearest")

    def _soft(self, x: Tensor, draw: Any) -> Tensor:
        if self.rounding == "floor":
            step = (1 << (8 - self.bits)) / 255
            return soft_round(x / step - 0.5) * step
        return soft_round(x * self._steps) / self._steps
