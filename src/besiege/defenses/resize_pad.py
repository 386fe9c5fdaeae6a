"""Random resizing and padding: the image at a random size, at a random place of a larger canvas."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from besiege.core.batch import rows
from besiege.core.errors import BadSetting, one_of
from besiege.core.key import Key
from besiege.defenses.transform import Shape, Surrogate, Transform, identity
from besiege.ops import grid, resampling


class _Form(NamedTuple):
    """One convention, in pixels of images of `base` x `base`."""

    low: int  # smallest size
    high: int  # largest size
    canvas: int
    rule: str  # of `ops.resampling`, to the random size
    back: str  # the same, from the canvas to the size of the input
    base: int = 299
    fill: float = 0.5
    last: bool = True  # whether the image may reach the last row and column of the canvas
    flip: bool = False


FORMS: Mapping[str, _Form] = {
    "paper": _Form(299, 330, 400, "half-pixel", "half-pixel", fill=0.0),
    "bpda": _Form(299, 399, 400, "half-pixel-mirrored", "half-pixel-mirrored", last=False),
    "eot": _Form(299, 399, 400, "corners", "origin", last=False),
    "xie": _Form(310, 330, 331, "nearest", "half-pixel", flip=True),
    "obfuscated": _Form(299, 330, 331, "corners", "origin", last=False),
    "cifar": _Form(28, 32, 36, "half-pixel", "half-pixel", base=32),
}


class Placement(NamedTuple):
    """Where each image goes: size and corner on the canvas, both (B, 2) int64 of (row, column)."""

    size: Tensor
    start: Tensor
    flip: Tensor  # (B,) bool: mirrored left to right first


@dataclass(frozen=True)
class ResizePad(Transform):
    """Random resizing and padding: the image at a random size, at a random place of a canvas.

    form: size r, how it is resized, canvas and place, in pixels of an image of 299 x 299:
        "paper": r in 299..330, canvas 400 filled with 0, any place (Qiu et al. 2020, text; what
            the text leaves open is house: half-pixel bilinear);
        "bpda": r in 299..399, canvas 400, scikit-image's bilinear (their `defend_onlyrand`);
        "eot": the same with aligned corners, and back with TensorFlow 1's (their
            `defend_randomization`);
        "xie": r in 310..330, canvas 331, nearest pixel, and a fair left-right flip (code of Xie et
            al. 2018, whose network is fed the canvas: say back=False for that, since the way back,
            half-pixel bilinear, is house; 30 draws are a vote);
        "obfuscated": r in 299..330, canvas 331, aligned corners, back with TensorFlow 1's (code of
            Athalye et al. 2018);
        "cifar": for images of 32 x 32, r in 28..32 on a canvas of 36 (house).
        Places are uniform; in "bpda", "eot" and "obfuscated" the image never reaches the last row
        or column. For other sizes n each of these numbers is scaled by n / 299 (n / 32 for
        "cifar") and rounded half up; an oblong image draws one size for both of its axes.
    canvas: size of the canvas, in the same pixels, at least the largest r; None for the form's own.
    fill: grey of the canvas in [0, 1]; None for the form's own, 0.5 but for "paper".
    back: resize the canvas bilinearly to the size of the input; else the output is the canvas.

    Forward is linear (affine) in the image given the draw, so its gradient is exact; "identity",
    with back only, is wrong by scale and place.

    Source: Xie et al. 2018 (arXiv:1711.01991); Qiu et al. 2020 (arXiv:2005.13712) and its code.
    """

    form: str = "paper"
    canvas: int | None = None
    fill: float | None = None
    back: bool = True
    name: str = "pad"

    def __post_init__(self) -> None:
        one_of("form", self.form, FORMS, "transform pad")
        largest = FORMS[self.form].high
        if self.canvas is not None and self.canvas < largest:
            raise BadSetting(
                f'pad: canvas of form="{self.form}" is at least {largest}, its largest size, '
                f"got {self.canvas}."
            )
        if self.fill is not None and not 0 <= self.fill <= 1:
            raise BadSetting(f"pad: fill is a grey in [0, 1], got {self.fill}.")

    def draw(self, key: Key, shape: Shape) -> Placement:
        """One number for the size, one for each axis of the place, and a bit for the flip."""
        form = FORMS[self.form]
        u = key.fold("size").uniform(1, dtype=torch.float64)
        least, most, canvas = (
            torch.tensor([self._scaled(n, m) for m in shape[1:]], device=key.device)
            for n in (form.low, form.high + 1, self._side)
        )
        size = least + (u * (most - least).clamp(min=1)).long()
        places = (canvas - size + int(form.last)).clamp(min=1)
        start = (key.fold("start").uniform(2, dtype=torch.float64) * places).long()
        flip = key.fold("flip").bernoulli(0.5 if form.flip else 0.0)
        return Placement(size, start, flip)

    def forward(self, x: Tensor, draw: Placement) -> Tensor:
        """x float (B, C, H, W) in [0, 1], on its canvas, and with `back` of its own size again."""
        y = self._padded(x, draw)
        if not self.back:
            return y
        rule = resampling.RULES[FORMS[self.form].back]
        to_rows, to_columns = (
            resampling.resized(x.shape[axis], y.shape[axis], rule, x) for axis in (-2, -1)
        )
        return grid.bilinear(y, to_rows, to_columns)

    def out_shape(self, shape: Shape) -> Shape:
        """The same with `back`, else the canvas."""
        if self.back:
            return shape
        return shape[0], self._scaled(self._side, shape[1]), self._scaled(self._side, shape[2])

    @property
    def surrogates(self) -> Mapping[str, Surrogate]:
        """The true gradient, or the link ignored where it keeps the shape."""
        exact = {"exact": self.forward}
        return {**exact, "identity": identity} if self.back else exact

    @property
    def _side(self) -> int:
        """Of the canvas, in pixels of the form's own image."""
        return FORMS[self.form].canvas if self.canvas is None else self.canvas

    def _padded(self, x: Tensor, draw: Placement) -> Tensor:
        form = FORMS[self.form]
        fill = form.fill if self.fill is None else self.fill
        x = torch.where(rows(draw.flip, x), x.flip(-1), x)
        (top, inside_rows), (left, inside_columns) = (self._axis(x, draw, i) for i in range(2))
        read = grid.gathered if form.rule == "nearest" else grid.bilinear
        inside = inside_rows[:, None, :, None] & inside_columns[:, None, None, :]
        return torch.where(inside, read(x, top, left), fill)

    def _axis(self, x: Tensor, draw: Placement, axis: int) -> tuple[Tensor, Tensor]:
        """The source of each canvas row (axis 0) or column (1), and whether it has one, (B, n)."""
        form, size = FORMS[self.form], x.shape[2 + axis]
        at = torch.arange(self._scaled(self._side, size), device=x.device)
        at = at - draw.start[:, axis, None]
        count = draw.size[:, axis, None]
        inside = (at >= 0) & (at < count)
        source = resampling.RULES[form.rule](at, count, size)
        return (source.long() if form.rule == "nearest" else source), inside

    def _scaled(self, number: int, size: int) -> int:
        """`number` pixels of the form's own image in one of `size`, rounded half up."""
        base = FORMS[self.form].base
        return (2 * number * size + base) // (2 * base)
