"""The handwritten digits that come with scikit-learn, at 32 x 32."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits

from besiege.core.errors import BadSetting
from besiege.data.images import ImageSet

SIDE = 32  # pixels
HELD_OUT = 4  # one image of each class in so many is held out


def digits(part: str = "test") -> ImageSet:
    """Handwritten digits 0 to 9, one channel, 8 x 8 brought to 32 x 32.

    part: "test" (445 images held out) or "train" (the other 1352). Held out is every fourth image
    of each class, so both parts hold all classes and the same writers. Pixels are 16 grey levels
    over 16, enlarged bilinearly (align_corners=False).
    Source: Alpaydin and Kaynak 1998, UCI Optical Recognition of Handwritten Digits, its test set.
    """
    if part not in ("test", "train"):
        raise BadSetting(f'part of digits must be "test" or "train", not "{part}".')
    bunch = load_digits()
    labels = torch.as_tensor(np.asarray(bunch.target), dtype=torch.int64)
    small = torch.as_tensor(np.asarray(bunch.images), dtype=torch.float32)[:, None] / 16
    large = F.interpolate(small, (SIDE, SIDE), mode="bilinear", align_corners=False).clamp(0, 1)
    held_out = _held_out(labels)
    chosen = held_out if part == "test" else ~held_out
    return ImageSet.of(
        large[chosen], labels[chosen], [str(i) for i in range(10)], name=f"digits ({part})"
    )


def _held_out(labels: torch.Tensor) -> torch.Tensor:
    """(N,) bool: every fourth of each class, in the order of the file."""
    rank = F.one_hot(labels).cumsum(0).gather(1, labels[:, None])[:, 0]
    return rank % HELD_OUT == 0
