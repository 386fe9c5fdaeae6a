"""Cropping and rescaling: a random part of the image, enlarged to the size of the whole."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from besiege.core.errors import BadSetting, one_of, unknown
from besiege.core.key import Key
from besiege.defenses.transform import Shape, Surrogate, Transform, identity
from besiege.ops import grid, resampling

PLACES = ("random", "sliding", *map(str, range(9)))
FRACTION = 1 << 22  # Pillow's weights are whole multiples of 1 / FRACTION


@dataclass(frozen=True)
class Crop(Transform):
    """Cropping and rescaling: a random part of the image, enlarged to the size of the whole.

    share: of each side that is kept, (0, 1]: floor(share n) pixels of n, at least one; 90/224 in
        the paper.
    place: of the part, evenly: "random" anywhere, both ends included; "sliding" one of the nine
        places at the start, middle and end of both axes; "0" to "8" that of them, row by row (4 is
        the middle), without any draw.
    form: "paper" enlarges bilinearly (half-pixel, the edge of the part repeated, as Pillow and
        torch do). "released" does it in 8 bit as the code of Guo et al. 2018 does: truncated
        first, then rounded after each axis, columns first, to the bit as Pillow.

    The paper's ensemble is 30 crops: vote = "mean:draws=30,of=logits" (its code averages logits,
    without softmax). On adversarial images the released code converts what was converted before, so
    that 58 to 60 grey levels are left of 256, which clean images do not meet; that is not here.

    Forward is linear in the image given the draw, so its gradient is exact. The released form's is
    "straight-through", of the paper's. "identity" is wrong by scale and place: under PGD with 20
    steps of one draw on 48 images of CIFAR-10 at linf 3/255 with share=0.8, it leaves 65 % of
    ResNet-20's accuracy and "exact" 4 % (clean 67 %).

    Source: Guo et al. 2018 (arXiv:1711.00117), section 3.1.
    """

    share: float = 90 / 224
    place: str | int = "random"
    form: str = "paper"
    name: str = "crop"

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise BadSetting(f"crop: share of a side lies in (0, 1], got {self.share}.")
        if str(self.place) not in PLACES:
            raise unknown("place", str(self.place), PLACES, "transform crop")
        one_of("form", self.form, ("paper", "released"), "transform crop")

    def side(self, size: int) -> int:
        """Pixels that are kept of an axis of `size`.

        >>> [Crop().side(n) for n in (224, 299, 96)], Crop(share=0.8).side(32)
        ([90, 120, 38], 25)
        """
        return max(1, int(self.share * size + 1e-6))

    def draw(self, key: Key, shape: Shape) -> Tensor | None:
        """Upper left corner of each part, (B, 2) int64 of (row, column)."""
        room = torch.tensor([n - self.side(n) for n in shape[1:]], device=key.device)
        if self.place == "random":
            return (key.uniform(2, dtype=torch.float64) * (room + 1)).long()
        if self.place == "sliding":
            return key.integers(3, 2) * room // 2
        return None

    def forward(self, x: Tensor, draw: Tensor | None) -> Tensor:
        """x float (B, C, H, W) in [0, 1], its part as large as it was."""
        if self.form == "paper":
            return self._enlarged(x, draw)
        rows, columns = self._axes(x, draw)
        own_rows, own_columns = (_whole(x, axis) for axis in (-2, -1))
        grey = (x.detach() * 255).floor().clamp(0, 255).double()
        for axes in ((own_rows, _in_steps(columns)), (_in_steps(rows), own_columns)):
            grey = (grid.bilinear(grey, *axes) + 0.5).floor()
        return (grey / 255).to(x.dtype)

    @property
    def surrogates(self) -> Mapping[str, Surrogate]:
        """The gradient of enlarging, or the link ignored."""
        first = "exact" if self.form == "paper" else "straight-through"
        return {first: self._enlarged, "identity": identity}

    def _enlarged(self, x: Tensor, draw: Tensor | None) -> Tensor:
        return grid.bilinear(x, *self._axes(x, draw))

    def _axes(self, x: Tensor, draw: Tensor | None) -> list[Tensor]:
        """The source coordinate of each output row and column, (B, H) and (B, W)."""
        sizes = x.shape[-2:]
        if draw is None:
            rest = [n - self.side(n) for n in sizes]
            step = divmod(int(self.place), 3)
            corner = [s * r // 2 for s, r in zip(step, rest, strict=True)]
            draw = torch.tensor([corner], device=x.device).expand(len(x), -1)
        return [
            draw[:, i, None] + resampling.resized(n, self.side(n), resampling.half_pixel, x)
            for i, n in enumerate(sizes)
        ]


def _whole(x: Tensor, axis: int) -> Tensor:
    """Each pixel of an axis, (B, n) float64."""
    return torch.arange(x.shape[axis], device=x.device).double().expand(len(x), -1)


def _in_steps(coordinates: Tensor) -> Tensor:
    """Coordinates whose fractions are Pillow's weights."""
    return (coordinates * FRACTION + 0.5).floor() / FRACTION
