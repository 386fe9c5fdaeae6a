"""ME-Net: entries are dropped at random, and the image is completed as a matrix of low rank."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from besiege.core.errors import BadSetting, one_of
from besiege.core.key import Key
from besiege.defenses.transform import Shape, Surrogate, Transform, identity
from besiege.ops import matrix_completion as completion

METHODS = ("usvt", "soft-impute", "nuclear")
MATRICES = ("concat", "separate")


@dataclass(frozen=True)
class MENet(Transform):
    """ME-Net: entries are dropped at random, and the image is completed as a matrix of low rank.

    In [-1, 1], a dropped entry being 0, mid-grey; then clipped. Meant for a network that was
    trained on such images.

    method: "usvt": the first `values` H singular values of the masked matrix, over the share of
        entries kept; no threshold, as in the released code (Chatterjee 2015, arXiv:1212.1247).
        "soft-impute": dropped entries by repeated shrinking of the singular values by 1/50 of the
        largest, at most 100 times, until they move by less than 1e-3; kept entries return
        unchanged, an attacker's among them. "nuclear": least weight ||X||_* + ||M(X - A)||_F^2.
    keep: probability that an entry is kept; the released code tests at the middle of the range in
        which it trained.
    matrix: "concat": the channels side by side, H x C W, each entry with its own fate. "separate":
        each channel by itself, one mask of pixels for all.
    values: share of H, for usvt. weight: for nuclear.

    Surrogates, best first, by the loss after one step of l2 length 0.1 for 50 images of CIFAR-10 on
    a ResNet-20 that was not trained on them, usvt at keep 0.9, judged on fresh masks: "identity",
    as the released attack has it (0.43 higher, 0.85 with 8 masks); "kept", the entries of this mask
    alone (0.42, 0.83); and for usvt "exact" (0.36, 0.70), true for one mask but farther from the
    mean over masks.
    Cost: one eigendecomposition of H x H; soft-impute up to 100, nuclear some 100 of them.

    Source: Yang et al. 2019 (arXiv:1905.11971), sections 3 and 4, and the code released with it.
    """

    method: str = "usvt"
    keep: float = 0.5
    matrix: str = "concat"
    values: float = 0.8
    weight: float = 1.0
    name: str = "menet"

    def __post_init__(self) -> None:
        one_of("method", self.method, METHODS, "transform menet")
        one_of("matrix", self.matrix, MATRICES, "transform menet")
        for what in ("keep", "values"):
            if not 0 < getattr(self, what) <= 1:
                raise BadSetting(f"menet: {what} is a share in (0, 1], got {getattr(self, what)}.")
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
        """The link ignored, the mask alone, or the true gradient where the method has it."""
        rough = {"identity": identity, "kept": _kept}
        return {**rough, "exact": self.forward} if self.method == "usvt" else rough

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
