"""JPEG: compressed and decompressed by the real codec."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from besiege.core.errors import BadSetting, one_of
from besiege.core.key import Key
from besiege.defenses.transform import Shape, Surrogate, Transform, identity
from besiege.ops.codec import ROUNDINGS, grey_levels, through_jpeg
from besiege.ops.jpeg import SUBSAMPLINGS, chroma_smoothed, recoded, tables
from besiege.ops.rounding import soft_round


@dataclass(frozen=True)
class Jpeg(Transform):
    """JPEG: compressed and decompressed by the real codec.

    Each image becomes 8 bit and goes through Pillow's encoder and decoder on the CPU; one channel
    as greyscale, three as RGB.

    quality: 1 to 100 on libjpeg's scale.
    highest: if given, each image takes a quality at random, evenly from `quality` to `highest`
        ("random JPEG" of Qiu et al. 2020: quality=10,highest=80,order=bgr).
    rounding: of the 8-bit conversion: "round", or "truncate" as the released codes of Guo et al.
        2018, Athalye et al. 2018 and Qiu et al. 2020 do, which darkens by half a level.
    subsampling: of the chroma: "4:2:0" (the codec's default), "4:2:2" or "4:4:4".
    order: of the channels as the codec takes them: "rgb", or "bgr" as where RGB is handed to
        OpenCV, so that red and blue change their weights in luma.

    Surrogates, best first: "soft" differentiates a JPEG written in tensors, of the quality drawn,
    with a smooth staircase (`ops.rounding`) for the rounding of its coefficients.
    "straight-through" takes every rounding for the identity; what stays of JPEG is the averaging of
    its chroma. "identity" ignores that too. Under PGD with 20 steps on 48 images of CIFAR-10 at
    linf 3/255, "soft" leaves 0 % of ResNet-20's accuracy and "straight-through" 15 %; targeted,
    they hit 85 % and 44 %. With a quality from 20 to 80, one draw a step, they leave 13 % and 27 %,
    and so does "identity" (27 %).

    Raises BadImages for any other number of channels. Source: ITU T.81; Dziugaite et al. 2016
    (arXiv:1608.00853); soft rounding after Shin and Song 2017.
    """

    quality: int = 75
    rounding: str = "round"
    subsampling: str = "4:2:0"
    highest: int | None = None
    order: str = "rgb"
    name: str = "jpeg"

    def __post_init__(self) -> None:
        tables(self.quality)
        if self.highest is not None:
            tables(self.highest)
            if self.highest < self.quality:
                raise BadSetting(
                    f"jpeg: highest is at least quality = {self.quality}, got {self.highest}."
                )
        for what, value, valid in (
            ("rounding", self.rounding, ROUNDINGS),
            ("subsampling", self.subsampling, SUBSAMPLINGS),
            ("order", self.order, ("rgb", "bgr")),
        ):
            one_of(what, value, valid, "transform jpeg")

    def draw(self, key: Key, shape: Shape) -> Tensor | None:
        """The quality of each image (B,), if it is random."""
        if self.highest is None:
            return None
        return self.quality + key.integers(self.highest - self.quality + 1)

    def forward(self, x: Tensor, draw: Tensor | None) -> Tensor:
        """x float (B, 1 or 3, H, W) in [0, 1], as decoded."""
        qualities = [self.quality] * len(x) if draw is None else draw.tolist()
        pixels = self._ordered(grey_levels(x, self.rounding))
        coded = self._ordered(through_jpeg(pixels, qualities, self.subsampling))
        return coded.to(x.device, x.dtype) / 255

    @property
    def surrogates(self) -> Mapping[str, Surrogate]:
        """Rounding softened, passed straight through, or the whole link ignored."""
        return {
            "soft": self._soft,
            "straight-through": self._straight_through,
            "identity": identity,
        }

    def _straight_through(self, x: Tensor, draw: Tensor | None) -> Tensor:
        return self._ordered(chroma_smoothed(self._ordered(x), SUBSAMPLINGS[self.subsampling]))

    def _soft(self, x: Tensor, draw: Tensor | None) -> Tensor:
        quality = self.quality if draw is None else draw
        grey = self._ordered(x) * 255
        return self._ordered(
            recoded(grey, quality, SUBSAMPLINGS[self.subsampling], soft_round) / 255
        )

    def _ordered(self, x: Tensor) -> Tensor:
        return x.flip(1) if self.order == "bgr" else x
