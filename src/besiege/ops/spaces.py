"""Normalised spaces of released codes, in pixels: where their zero lies."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from besiege.core.errors import BadImages

# A filter and a truncation do not care for the scale of a channel, so the means are all there is.
ORIGINS: Mapping[str, tuple[float, ...]] = {
    "pixels": (0.0,),
    "cifar10": (0.4914, 0.4822, 0.4465),
    "imagenet": (0.485, 0.456, 0.406),
}


def origin(space: str, x: Tensor, name: str) -> Tensor:
    """The grey in [0, 1] of each channel that is 0 in `space`, (1, 1, 1) or (3, 1, 1).

    Raises BadImages, with the name of the transform, where x (B, C, H, W) has other channels.
    """
    greys = ORIGINS[space]
    if len(greys) > 1 and x.shape[1] != len(greys):
        raise BadImages(
            f"{name}: space={space} needs images of {len(greys)} channels, got {x.shape[1]}; "
            "space=pixels takes any."
        )
    return x.new_tensor(greys).reshape(-1, 1, 1)
