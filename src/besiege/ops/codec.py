"""The real JPEG codec, Pillow's, on batches. It runs on the CPU, an image at a time."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, __version__, features
from torch import Tensor

from besiege.core.errors import BadImages

ROUNDINGS = ("round", "truncate")


def codec_version() -> str:
    """Versions of Pillow, and of the library that it encodes and decodes JPEG with."""
    turbo = features.version_feature("libjpeg_turbo") if features.check("libjpeg_turbo") else None
    library = f"libjpeg-turbo {turbo}" if turbo else f"libjpeg {features.version_codec('jpg')}"
    return f"Pillow {__version__}, {library}"


def grey_levels(x: Tensor, rounding: str) -> Tensor:
    """x float (B, 1 or 3, H, W) in [0, 1] as 8 bit on the CPU; rounding: one of ROUNDINGS.

    Raises BadImages for another number of channels.
    """
    if x.ndim != 4 or x.shape[1] not in (1, 3):
        raise BadImages(
            f"jpeg takes images (B, 1 or 3, H, W), greyscale or RGB, not {tuple(x.shape)}. Put it "
            "before the link that changes the channels."
        )
    grey = x.detach() * 255
    grey = grey.round() if rounding == "round" else grey.floor()
    grey = grey.clamp(0, 255).to("cpu", torch.uint8)
    return grey.contiguous(memory_format=torch.channels_last)  # as the codec reads them


def through_jpeg(pixels: Tensor, qualities: Sequence[int], subsampling: str) -> Tensor:
    """Image i of uint8 pixels (B, 1 or 3, H, W) encoded with qualities[i], and decoded.

    qualities: 1 to 100 on libjpeg's scale; subsampling: "4:2:0", "4:2:2" or "4:4:4". One channel is
    greyscale, three are RGB.
    """
    images = pixels.permute(0, 2, 3, 1).numpy()
    coded = [_coded(i, q, subsampling) for i, q in zip(images, qualities, strict=True)]
    return torch.from_numpy(np.stack(coded) if coded else images).permute(0, 3, 1, 2)


def _coded(image: NDArray[np.uint8], quality: int, subsampling: str) -> NDArray[np.uint8]:
    """(H, W, 1 or 3) through the codec."""
    picture = Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)
    file = BytesIO()
    picture.save(file, "JPEG", quality=quality, subsampling=subsampling)
    return np.asarray(Image.open(file)).reshape(image.shape)
