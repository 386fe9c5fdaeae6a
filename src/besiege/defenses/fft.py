"""Frequency compression: the highest frequencies are removed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from besiege.core.errors import BadSetting, one_of
from besiege.defenses.transform import Surrogate, Transform, identity
from besiege.ops.fourier import MASKS, filtered, mask_of
from besiege.ops.spaces import ORIGINS, origin


@dataclass(frozen=True)
class FrequencyCompression(Transform):
    """Frequency compression (FC): the highest frequencies of each channel are removed.

    y = F^-1[M F x], M 1 on the frequencies kept and 0 elsewhere.

    percent: share of the spectrum that is removed, [0, 100).
    form: of M. "hermitian": a disc around frequency 0, as the paper has it, all but at most
        `percent` % of the frequencies. "released": two quarter discs of the half spectrum of a
        whole radius r = floor(sqrt(2 (1 - percent/100) H (W // 2 + 1) / pi)), the lower one a row
        off, as in the released code: 1 % and 5 % are one mask at 32 px and remove 7.8 %, 50 %
        removes 47.1 %. "squared": a square of frequencies, from the same code.
    highpass: keep what else is removed, and remove the rest, the mean included.
    pad: zero-pad below and to the right to powers of two first, and cut after, as the released code
        does for ImageNet (224 -> 256).
    space: where zero is, "pixels", "cifar10" or "imagenet": the released code pads normalised
        images, hence by mean grey. It matters to `pad` and `highpass` only.
    clip: cut to [0, 1]; the released code does not, and what leaves the range is no image.

    Linear, and self-adjoint in every form but for the clip, also in "released", whose mask is not
    even: so the gradient goes through the filter itself. Surrogates, best first, by the loss after
    one step of l2 length 0.1 for 50 images of CIFAR-10 on ResNet-20 at 50 %: "exact" 4.12 higher,
    "unclipped" 4.07, "identity" 2.34.
    Cost: a transform and its inverse: 0.7 ms an image at 224 px, but 6 ms at 299 = 13 * 23, whose
    factors suit no fast transform (one thread).

    Source: Dziedzic and Krishnan 2020 (arXiv:2002.03080), section 3, and the code released with it.

    >>> import torch
    >>> FrequencyCompression(percent=99).forward(torch.tensor([[[[0.0, 1.0], [1.0, 0.0]]]]), None)
    tensor([[[[0.5000, 0.5000],
              [0.5000, 0.5000]]]])
    """

    percent: float = 20.0
    form: str = "hermitian"
    highpass: bool = False
    pad: bool = False
    space: str = "pixels"
    clip: bool = True
    name: str = "fft"

    def __post_init__(self) -> None:
        if not 0 <= self.percent < 100:
            raise BadSetting(
                f"fft: percent is the share of frequencies removed, in [0, 100), got "
                f"{self.percent}."
            )
        one_of("form", self.form, MASKS, "transform fft")
        one_of("space", self.space, ORIGINS, "transform fft")

    def forward(self, x: Tensor, draw: Any) -> Tensor:
        """x float (B, C, H, W) in [0, 1], without its highest frequencies."""
        y = self._filtered(x, draw)
        return y.clamp(0, 1) if self.clip else y

    @property
    def surrogates(self) -> Mapping[str, Surrogate]:
        """The true gradient, the same without the clip, or the link ignored."""
        return {"exact": self.forward, "unclipped": self._filtered, "identity": identity}

    def _filtered(self, x: Tensor, draw: Any) -> Tensor:
        height, width = x.shape[-2:]
        zero = origin(self.space, x, "fft")
        y = x - zero
        if self.pad:
            y = F.pad(y, (0, _power(width) - width, 0, _power(height) - height))
        mask = mask_of(self.form, y.shape[-2], y.shape[-1], self.percent).to(x.device)
        y = filtered(y, ~mask if self.highpass else mask)
        return y[..., :height, :width] + zero


def _power(size: int) -> int:
    """The next power of two.

    >>> _power(96), _power(128)
    (128, 128)
    """
    return 1 << (size - 1).bit_length()
