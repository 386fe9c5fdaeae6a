"""The two photographs that come with scikit-learn."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.datasets import load_sample_image
from torch import Tensor

from besiege.data.assets import IMAGENET
from besiege.data.images import ImageSet, from_bytes

SIDE = 299  # pixels
LABELS = {"china.jpg": 698, "flower.jpg": 985}  # by eye, see below


def photo() -> ImageSet:
    """Two real photographs at 299 x 299: a palace tower (id 0) and a dahlia (id 1).

    The largest central square, resized (bilinear, antialiased). ImageNet labels given by looking:
    0 is the Tower of Buddhist Incense in the Summer Palace of Beijing, "palace" (698). 1 is a
    dahlia, for which ImageNet has no class; "daisy" (985), of the same family, is the nearest:
    take id 0 where the label matters. EfficientNet-Lite0 ranks both labels first, but with
    probabilities of 0.33 and 0.20 only.
    Source: CC BY 2.0, by the Flickr users danielbuechele (0) and vultilion (1).
    """
    x = torch.cat([_square(torch.from_numpy(np.array(load_sample_image(n)))) for n in LABELS])
    return ImageSet.of(x, torch.tensor(list(LABELS.values())), IMAGENET, name="photo")


def _square(image: Tensor) -> Tensor:
    """uint8 (H, W, 3) -> float32 (1, 3, SIDE, SIDE)."""
    height, width, _ = image.shape
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    x = from_bytes(image[None, top : top + side, left : left + side])
    x = F.interpolate(x, (SIDE, SIDE), mode="bilinear", align_corners=False, antialias=True)
    return x.clamp(0, 1)
