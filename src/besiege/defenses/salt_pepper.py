"""Salt and pepper: some values become white or black."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from besiege.core.errors import BadSetting, one_of
from besiege.core.key import Key
from besiege.defenses.transform import Shape, Surrogate, Transform, identity


class Grains(NamedTuple):
    """What is hit and what becomes white, both (B, C, H, W) bool; C is 1 if channels share it."""

    hit: Tensor
    white: Tensor


@dataclass(frozen=True)
class SaltPepper(Transform):
    """Salt and pepper: some values become white or black.

    share: probability with which one is hit, [0, 1).
    salt: probability with which what is hit becomes white, else black, [0, 1]; 0 drops pixels.
    of: "pixels", all channels together, or "values", each by itself.

    Exact given the draw; "identity" has a gradient where pixels are hit too. Source: house.
    """

    share: float = 0.05
    salt: float = 0.5
    of: str = "pixels"
    name: str = "salt-pepper"

    def __post_init__(self) -> None:
        if not 0 <= self.share < 1:
            raise BadSetting(f"salt-pepper: share is a probability in [0, 1), got {self.share}.")
        if not 0 <= self.salt <= 1:
            raise BadSetting(f"salt-pepper: salt is a probability in [0, 1], got {self.salt}.")
        one_of("of", self.of, ("pixels", "values"), "transform salt-pepper")

    def draw(self, key: Key, shape: Shape) -> Grains:
        """Two bits a pixel or value."""
        channels, height, width = shape
        grid = (1 if self.of == "pixels" else channels, height, width)
        return Grains(
            hit=key.fold("hit").bernoulli(self.share, *grid),
            white=key.fold("white").bernoulli(self.salt, *grid),
        )

    def forward(self, x: Tensor, draw: Grains) -> Tensor:
        """x float (B, C, H, W) in [0, 1], with grains."""
        return torch.where(draw.hit, draw.white.to(x.dtype), x)

    @property
    def surrogates(self) -> Mapping[str, Surrogate]:
        """The true gradient, or the link ignored."""
        return {"exact": self.forward, "identity": identity}
