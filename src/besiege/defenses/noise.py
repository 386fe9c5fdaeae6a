"""Additive noise on every value: Gaussian, uniform or Laplace."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from besiege.core.errors import BadImages, BadSetting, one_of
from besiege.core.key import Key
from besiege.defenses.transform import Shape, Surrogate, Transform, identity


class _Sizes(NamedTuple):
    """Standard deviation, half-width and scale of the noise of scale 1."""

    gaussian: float
    uniform: float
    laplace: float


CONVENTIONS: Mapping[str, _Sizes] = {
    "parameter": _Sizes(1, 1, 1),
    "deviation": _Sizes(1, math.sqrt(3), math.sqrt(1 / 2)),
    "released": _Sizes(math.sqrt(1 / 3), 1, math.sqrt(1 / 3)),
}
# Largest minus smallest value of a channel in normalised units, times its standard deviation.
RANGES: Mapping[str, tuple[float, ...]] = {
    "pixels": (1.0,),
    "cifar10": tuple(5.5 * std for std in (0.2023, 0.1994, 0.2010)),
    "imagenet": tuple(4.757904052734375 * std for std in (0.229, 0.224, 0.225)),
}


@dataclass(frozen=True)
class Noise(Transform):
    """Additive noise on every value: Gaussian, uniform or Laplace.

    kind: "gaussian", "uniform" on [-a, a), or "laplace", independent for each value.
    scale: above 0, in units of the range of `space`.
    convention: what scale is. "parameter": the Gaussian's standard deviation, the uniform's
        half-width a, Laplace's scale b (deviation b sqrt(2)). "deviation": the standard deviation
        of each. "released": a = scale, Gaussian deviation and b = scale / sqrt(3), as in the code
        of Dziedzic and Krishnan; at one scale its Laplace noise is sqrt(2) times the others.
    space: whose range: "pixels" (1); "cifar10" or "imagenet" as in that code, which adds noise to
        normalised images and takes one range for all channels: 5.5 and 4.758 standard deviations
        of the channel, in pixels 1.10 to 1.11 and 1.07 to 1.09. These need 3 channels.
    clip: cut the sum to [0, 1]; that code does not, and what leaves the range is no image.

    As the first link before a majority vote it can be certified, see `besiege certify`. Exact given
    the draw; "identity" is the same but where clipped. Source: Dziedzic and Krishnan 2020
    (arXiv:2002.03080), and the code released with it.

    >>> import torch
    >>> Noise(kind="uniform", scale=0.25).forward(torch.tensor([0.5, 0.9]), torch.tensor([-1.0, 1]))
    tensor([0.2500, 1.0000])
    """

    kind: str = "gaussian"
    scale: float = 0.03
    convention: str = "parameter"
    space: str = "pixels"
    clip: bool = True
    name: str = "noise"

    def __post_init__(self) -> None:
        if not (0 < self.scale < math.inf):
            raise BadSetting(f"noise: scale is a number above 0, got {self.scale}.")
        one_of("kind", self.kind, _Sizes._fields, "transform noise")
        one_of("convention", self.convention, CONVENTIONS, "transform noise")
        one_of("space", self.space, RANGES, "transform noise")

    def draw(self, key: Key, shape: Shape) -> Tensor:
        """A number a value, (B, C, H, W): standard normal, in [-1, 1), or Laplace of scale 1."""
        if self.kind == "gaussian":
            return key.normal(*shape)
        return key.laplace(*shape) if self.kind == "laplace" else 2 * key.uniform(*shape) - 1

    def forward(self, x: Tensor, draw: Tensor) -> Tensor:
        """x float (B, C, H, W) in [0, 1], with noise."""
        ranges = RANGES[self.space]
        if len(ranges) > 1 and x.shape[1] != len(ranges):
            raise BadImages(
                f"noise: space={self.space} needs images of {len(ranges)} channels, got "
                f"{x.shape[1]}; space=pixels takes any."
            )
        widths = self._widths
        width = widths[0] if len(widths) == 1 else x.new_tensor(widths).reshape(-1, 1, 1)
        y = x + draw.to(x.dtype) * width
        return y.clamp(0, 1) if self.clip else y

    @property
    def _widths(self) -> list[float]:
        """Deviation, half-width or scale b for each channel, or for all of them."""
        unit = self.scale * getattr(CONVENTIONS[self.convention], self.kind)
        return [unit * r for r in RANGES[self.space]]

    @property
    def smoothing(self) -> tuple[str, float]:
        """What can be certified of it: the kind of noise, and its least width in any channel."""
        return self.kind, min(self._widths)

    @property
    def surrogates(self) -> Mapping[str, Surrogate]:
        """The true gradient, or the same where clipped too."""
        return {"exact": self.forward, "identity": identity}
