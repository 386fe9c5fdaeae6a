"""JPEG as tensor functions: colour, subsampling and quantisation as libjpeg does them.

Only the entropy coding is absent, which loses nothing, and the codec's integer arithmetic: beside
a real codec single pixels differ by a few grey levels. Grey levels are 0..255.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from besiege.core.errors import BadSetting
from besiege.ops.border import repeat_edge
from besiege.ops.dct import SIDE, requantised

# How many pixels one chroma sample stands for: (rows, columns).
SUBSAMPLINGS = {"4:4:4": (1, 1), "4:2:2": (1, 2), "4:2:0": (2, 2)}

# ITU T.81, tables K.1 and K.2.
_LUMA = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
_CHROMA = (
    (17, 18, 24, 47),
    (18, 21, 26, 66),
    (24, 26, 56, 99),
    (47, 66, 99, 99),
)


def tables(quality: int | Tensor) -> tuple[Tensor, Tensor]:
    """The quantiser tables (8, 8) of luma and chroma as libjpeg scales them, 1 <= quality <= 100.

    Of qualities (B,), tables (8, 8, B).

    >>> [int(table[0, 0]) for table in tables(75)]
    [8, 9]
    """
    if isinstance(quality, Tensor):
        every = [tables(q) for q in range(1, 101)]
        luma, chroma = (torch.stack(kind, -1) for kind in zip(*every, strict=True))
        at = quality.cpu() - 1
        return luma[..., at], chroma[..., at]
    if quality not in range(1, 101):
        raise BadSetting(f"jpeg: quality is a whole number from 1 to 100, got {quality}.")
    luma, chroma = torch.tensor(_LUMA), torch.full((SIDE, SIDE), 99)
    chroma[:4, :4] = torch.tensor(_CHROMA)
    percent = 5000 // quality if quality < 50 else 200 - 2 * quality
    scaled = (((t * percent + 50) // 100).clamp(1, 255).double() for t in (luma, chroma))
    return next(scaled), next(scaled)


def recoded(
    x: Tensor,
    quality: int | Tensor,
    subsampling: tuple[int, int],
    rounding: Callable[[Tensor], Tensor],
) -> Tensor:
    """x (B, 1 or 3, H, W) in grey levels after JPEG, neither rounded nor clipped.

    quality: of all images, or (B,) of each. rounding: of the coefficients in steps;
    differentiable in x as far as that is.
    """
    luma, chroma = tables(quality)
    height, width = x.shape[-2:]
    x = repeat_edge(x, (-height % (SIDE * subsampling[0]), -width % (SIDE * subsampling[1])))

    def coded(plane: Tensor, table: Tensor) -> Tensor:
        return requantised(plane - 128, table, rounding) + 128

    if x.shape[1] == 1:
        return coded(x, luma)[..., :height, :width]
    light, colour = _split_colour(x)
    colour = coded(averaged(colour, subsampling), chroma)
    colour = colour[..., : -(-height // subsampling[0]), : -(-width // subsampling[1])]
    colour = enlarged(colour, subsampling)[..., :height, :width]
    return _join_colour(coded(light, luma)[..., :height, :width], colour)


def chroma_smoothed(x: Tensor, subsampling: tuple[int, int]) -> Tensor:
    """x (B, 1 or 3, H, W) with its chroma averaged and enlarged again: JPEG without quantiser.

    It is what straight-through rounding leaves of JPEG, since the cosine basis is orthonormal.
    """
    if x.shape[1] == 1:
        return x
    light, colour = _split_colour(x)
    colour = enlarged(averaged(colour, subsampling), subsampling)
    return _join_colour(light, colour[..., : x.shape[-2], : x.shape[-1]])


def averaged(x: Tensor, factors: tuple[int, int]) -> Tensor:
    """Means over windows of factors (rows, columns), 1 or 2; an odd edge is repeated."""
    x = repeat_edge(x, (-x.shape[-2] % factors[0], -x.shape[-1] % factors[1]))
    for axis, factor in zip((-2, -1), factors, strict=True):
        if factor == 2:
            a, b = torch.unflatten(x, axis, (-1, 2)).unbind(axis)
            x = (a + b) / 2
    return x


def enlarged(x: Tensor, factors: tuple[int, int]) -> Tensor:
    """Twice as many samples where a factor (rows, columns) is 2: 3/4 the nearest, 1/4 the next.

    libjpeg's "fancy upsampling", its default.
    """
    for axis, factor in zip((-2, -1), factors, strict=True):
        if factor == 2:
            n = x.shape[axis]
            before = torch.cat([x.narrow(axis, 0, 1), x.narrow(axis, 0, n - 1)], axis)
            after = torch.cat([x.narrow(axis, 1, n - 1), x.narrow(axis, n - 1, 1)], axis)
            pair = [0.75 * x + 0.25 * before, 0.75 * x + 0.25 * after]
            at = axis + x.ndim
            x = torch.stack(pair, at + 1).flatten(at, at + 1)
    return x


def _split_colour(x: Tensor) -> tuple[Tensor, Tensor]:
    """RGB in grey levels (B, 3, H, W) -> luma (B, 1, H, W), blue and red difference (B, 2, H, W).

    ITU T.871 (JFIF), section 7.
    """
    red, green, blue = x.unbind(1)
    light = 0.299 * red + 0.587 * green + 0.114 * blue
    colour = torch.stack([(blue - light) / 1.772, (red - light) / 1.402], 1) + 128
    return light[:, None], colour


def _join_colour(light: Tensor, colour: Tensor) -> Tensor:
    """The inverse of `_split_colour`."""
    light = light[:, 0]
    to_blue, to_red = (colour - 128).unbind(1)
    red, blue = light + 1.402 * to_red, light + 1.772 * to_blue
    green = light - (0.299 * 1.402 * to_red + 0.114 * 1.772 * to_blue) / 0.587
    return torch.stack([red, green, blue], 1)
