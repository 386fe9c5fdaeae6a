"""ME-Net: entries are dropped at random, and the image is completed as a matrix of low rank."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from besiege.core.errors import BadSetting, unknown
from besiege.core.key import Key
from besiege.defenses.transform import Shape, Surrogate, Transform, identity
from besiege.ops import matrix_completion as completion

METHODS = ("usvt", "soft-impute", "nuclear")
MATRICES = ("concat", "separate")


@dataclass(frozen=True)
class MENet(Transform):
    """ME-Net: entries are dropped at random, and the image is completed as a matrix of low rank.
    """

    method: str = "usvt"
    keep: float = 0.5
    matrix: str = "concat"
    values: float = 0.8
    weight: float = 1.0
    name: str = "menet"

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise unknown("method", self.method, METHODS, "transform menet")
        if self.matrix not in MATRICES:
            raise unknown("matrix", self.matrix, MATRICES, "transform menet")
        for what in ("keep", "values"):
            if not 0 < getattr(self, what) <= 1:
                raise BadSetting(
                    f"menet: {what} is a share in (0, 1], got {getattr(self, what)}."
                )
        if not self.weight > 0:
            raise BadSetting(f"menet: weight is a number above 0, got {self.weight}.")

    def draw(self, key: Key, shape: Shape) -> Tensor:
        """Which entries are kept, (B, C, H, W) bool, or (B, 1, H, W) for separate channels."""
        channels, height, width = shape
        return key.bernoulli(self.keep, channels if self.matrix == "concat" else 1, height, width)

    def forward(self, x: Tensor, draw: Tensor) -> Tensor:
        """x float (B, C, H, W) in [0, 1], completed from the entries that `draw` keeps."""
        if self.method == "usvt":
            return self._usvt(x, draw)
        a, kept = self._matrices(2 * x - 1), self._matrices(draw.expand_as(x))
        # The completions want the longer side last.
        turn = a.shape[-2] > a.shape[-1]
        if turn:
            a, kept = a.mT, kept.mT
        if self.method == "soft-impute":
            y = completion.soft_impute(a, kept)
        else:
            y = completion.nuclear(a, kept, self.weight)
        return self._image(y.mT if turn else y, x)

    @property
    def surrogates(self) -> Mapping[str, Surrogate]:
        masked = {"usvt": self._usvt, "kept": _kept, "identity": identity}
        return {"exact": self.forward, **masked} if self.method == "usvt" else masked

    def _usvt(self, x: Tensor, draw: Tensor) -> Tensor:
        share = draw.flatten(1).double().mean(1).clamp_min(1e-9)  # counts: exact in float64
        values = max(1, int(self.values * x.shape[-2]))
        a, kept = self._matrices(2 * x - 1), self._matrices(draw.expand_as(x))
        y = completion.usvt(a, kept, share[:, None, None, None].to(x.dtype), values)
        return self._image(y, x)

    def _matrices(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, 1, H, C W), channels side by side, or the channels as they are."""
        if self.matrix == "separate":
            return x
        return x.permute(0, 2, 1, 3).flatten(2)[:, None]

    def _image(self, y: Tensor, like: Tensor) -> Tensor:
        if self.matrix == "concat":
            b, c, height, width = like.shape
            y = y.reshape(b, height, c, width).permute(0, 2, 1, 3)
        return ((y + 1) / 2).clamp(0, 1)


def _kept(x: Tensor, draw: Tensor) -> Tensor:
    return torch.where(draw, x, 0.0)
