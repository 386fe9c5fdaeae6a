"""PixelDefend: each pixel moved to its most likely value under a density of images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from besiege.core.errors import BadImages, BadSetting, one_of
from besiege.defenses.network import in_micro_batches, network_at, refuse_training
from besiege.defenses.transform import Surrogate, Transform, identity

LEVELS = 256


@dataclass(frozen=True)
class PixelDefend(Transform):
    """PixelDefend: each pixel moved to its most likely value under a density of images.

    The image, rounded to 8 bit, is gone through in raster order, channel by channel at each pixel;
    each value becomes the most likely one within eps of it given all that stand before it, as
    changed. Ties go to the lowest level.

    density: a function density(levels, c, i, j), levels (B, C, H, W) int64, -> logits (B, 256) of
        the value at [:, c, i, j] given those before it in that order; it must not look at others.
        Of a network with logits (B, C, 256, H, W), take [:, c, :, i, j]. "path.py:NAME" names one
        of your own; none comes with this package.
    eps: in 8-bit levels, 0 to 255: 16 for the paper's strong attacks.
    sweeps: times that the image is gone through.
    around: what eps is counted from, the "original" value (algorithm 1) or the "current" one, as
        the released codes do. In one sweep these are the same; over several, "current" drifts.

    Deterministic. Surrogate: "identity", since the greatest of 256 has no slope.
    Source: Song et al. 2018 (arXiv:1710.10766), algorithm 1.
    Cost: sweeps x H x W x C forwards of the density, 16 images at a time: 3072 at 32 x 32.
    """

    density: Any
    eps: int = 16
    sweeps: int = 1
    around: str = "original"
    name: str = "pixel-defend"

    def __post_init__(self) -> None:
        if self.eps not in range(LEVELS):
            raise BadSetting(f"pixel-defend: eps is a whole number of 0..255, got {self.eps}.")
        if not (isinstance(self.sweeps, int) and self.sweeps >= 1):
            raise BadSetting(f"pixel-defend: sweeps is at least 1, got {self.sweeps}.")
        one_of("centre", self.around, ("original", "current"), "transform pixel-defend")
        refuse_training(self._density("cpu"), "pixel-defend: density")

    def forward(self, x: Tensor, draw: Any) -> Tensor:
        """x float (B, C, H, W) in [0, 1] -> 8-bit values in [0, 1]."""
        if len(x) == 0:
            return x
        with torch.no_grad():
            levels = (x * (LEVELS - 1)).round().clamp(0, LEVELS - 1).long()
            return in_micro_batches(self._purified, levels).to(x.dtype) / (LEVELS - 1)

    @property
    def surrogates(self) -> Mapping[str, Surrogate]:
        """The link ignored."""
        return {"identity": identity}

    def _purified(self, levels: Tensor) -> Tensor:
        """The levels (B, C, H, W) of one micro-batch; each value waits for those before it."""
        density = self._density(str(levels.device))
        current = levels.clone()
        value = torch.arange(LEVELS, device=levels.device)
        _, channels, height, width = levels.shape
        for _ in range(self.sweeps):
            for at in range(height * width * channels):
                c, i, j = at % channels, at // channels // width, at // channels % width
                logits = _checked(density(current, c, i, j), len(current))
                centre = (levels if self.around == "original" else current)[:, c, i, j]
                far = (value - centre[:, None]).abs() > self.eps
                # The first of the greatest, by the contract of argmax.
                current[:, c, i, j] = logits.masked_fill(far, -torch.inf).argmax(1)
        return current

    def _density(self, device: str) -> Any:
        if isinstance(self.density, str):
            return network_at(self.density, device, "pixel-defend: density")
        return self.density


def _checked(logits: Any, count: int) -> Tensor:
    if isinstance(logits, Tensor) and logits.shape == (count, LEVELS):
        return logits
    got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
    raise BadImages(
        f"pixel-defend: the density returned {got}, where logits (B, 256) = {(count, LEVELS)} of "
        "one value were expected."
    )
