"""Stochastic local quantisation: each 8x8 block from a JPEG of a quality drawn at random."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from besiege.core.errors import BadSetting, one_of
from besiege.core.key import Key
from besiege.defenses.transform import Shape, Surrogate, Transform, identity
from besiege.ops.codec import ROUNDINGS, grey_levels, through_jpeg
from besiege.ops.dct import SIDE
from besiege.ops.jpeg import SUBSAMPLINGS, chroma_smoothed, recoded, tables
from besiege.ops.rounding import soft_round


@dataclass(frozen=True)
class Shield(Transform):
    """Stochastic local quantisation: each 8x8 block from a JPEG of a quality drawn at random.

    The whole image goes through the real codec once at each quality; then each block, counted from
    the upper left corner and the same in all channels, is taken from one of these, evenly. Blocks
    at the right and lower border may be smaller. The codec's chroma blocks are 16x16, so that
    neighbours leak into a block's colour.

    lowest, highest, step: the qualities lowest, lowest + step, ..., highest: 20, 40, 60, 80.
    rounding: of the 8-bit conversion: "round", or "truncate" as Qiu et al. 2020 released it, whose
        code runs at 299 x 299 only.
    subsampling: of the chroma: "4:2:0", "4:2:2" or "4:4:4".

    Surrogates, as of `jpeg`, given the draw: "soft" takes each block from a JPEG in tensors with a
    smooth staircase for the rounding of coefficients; "straight-through" keeps only the averaging
    of the chroma; "identity" ignores that too. Under PGD with 20 steps of one draw on 48 images of
    CIFAR-10 at linf 3/255, they leave 14 %, 26 % and 32 % of ResNet-20's accuracy (clean 62 %).
    Cost: one encoding and decoding a quality and image, on the CPU. The original also trains its
    networks on such images ("vaccination").

    Raises BadImages for other than 1 or 3 channels. Source: Das et al. 2018 (arXiv:1802.06816),
    section 3.
    """

    lowest: int = 20
    highest: int = 80
    step: int = 20
    rounding: str = "round"
    subsampling: str = "4:2:0"
    name: str = "shield"

    def __post_init__(self) -> None:
        tables(self.lowest)
        tables(self.highest)
        if self.step < 1 or len(self.qualities) < 2 or self.qualities[-1] != self.highest:
            raise BadSetting(
                "shield: the qualities lowest, lowest + step, ... are at least two and end with "
                f"highest, got lowest={self.lowest}, highest={self.highest}, step={self.step}."
            )
        for what, value, valid in (
            ("rounding", self.rounding, ROUNDINGS),
            ("subsampling", self.subsampling, SUBSAMPLINGS),
        ):
            one_of(what, value, valid, "transform shield")

    @property
    def qualities(self) -> range:
        """The qualities that a block may take."""
        return range(self.lowest, self.highest + 1, max(self.step, 1))

    def draw(self, key: Key, shape: Shape) -> Tensor:
        """Which of the qualities each block takes, (B, rows, columns) int64."""
        _, height, width = shape
        return key.integers(len(self.qualities), -(-height // SIDE), -(-width // SIDE))

    def forward(self, x: Tensor, draw: Tensor) -> Tensor:
        """x float (B, 1 or 3, H, W) in [0, 1], its blocks as decoded."""
        pixels = grey_levels(x, self.rounding)
        count, device = len(x), x.device
        blocks = self._chosen(
            lambda q: through_jpeg(pixels, [q] * count, self.subsampling).to(device), x, draw
        )
        return blocks.to(x.dtype).div_(255)

    @property
    def surrogates(self) -> Mapping[str, Surrogate]:
        """Rounding softened, passed straight through, or the whole link ignored."""
        return {
            "soft": self._soft,
            "straight-through": lambda x, draw: chroma_smoothed(x, SUBSAMPLINGS[self.subsampling]),
            "identity": identity,
        }

    def _soft(self, x: Tensor, draw: Tensor) -> Tensor:
        factors = SUBSAMPLINGS[self.subsampling]
        return self._chosen(lambda q: recoded(x * 255, q, factors, soft_round) / 255, x, draw)

    def _chosen(self, coded: Callable[[int], Tensor], like: Tensor, draw: Tensor) -> Tensor:
        """Each block from what `coded` makes of the image at its quality."""
        pixels = draw.to(torch.uint8).repeat_interleave(SIDE, 1).repeat_interleave(SIDE, 2)
        pixels = pixels[:, None, : like.shape[2], : like.shape[3]]
        out = coded(self.qualities[0])
        # In the memory layout of what is chosen from, channels last from the codec.
        choice = torch.empty_like(out, dtype=torch.uint8).copy_(pixels)
        for i, quality in enumerate(self.qualities[1:], 1):
            out = torch.where(choice == i, coded(quality), out)
        return out
