"""Resampling an axis: which source coordinate each pixel of a resized axis reads.

An axis of `size` pixels becomes one of `count`; positions of pixels: 0 is the first, size - 1 the
last. Programs disagree on where pixel `at` of the new axis lies in the old one, which is most of
what tells their resized images apart; `grid.bilinear` and `grid.gathered` read at the answer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

import torch
from torch import Tensor

# (at (B, n), count (B, 1), size): float64 coordinates (B, n) in [0, size - 1]
Rule: TypeAlias = Callable[[Tensor, Tensor, int], Tensor]


def half_pixel(at: Tensor, count: Tensor, size: int) -> Tensor:
    """(at + 1/2) size / count - 1/2, the edge repeated: torch, TensorFlow 2, OpenCV.

    >>> half_pixel(torch.arange(4)[None], torch.tensor([[4]]), size=2)
    tensor([[0.0000, 0.2500, 0.7500, 1.0000]], dtype=torch.float64)
    """
    return _centred(at, count, size).clamp(0, size - 1)


def half_pixel_mirrored(at: Tensor, count: Tensor, size: int) -> Tensor:
    """As `half_pixel`, but mirrored about the edge pixel: scikit-image.

    >>> half_pixel_mirrored(torch.arange(4)[None], torch.tensor([[4]]), size=2)
    tensor([[0.2500, 0.2500, 0.7500, 0.7500]], dtype=torch.float64)
    """
    last = size - 1
    return (last - (last - _centred(at, count, size).abs()).abs()).clamp(0, last)


def corners(at: Tensor, count: Tensor, size: int) -> Tensor:
    """at (size - 1) / (count - 1) in float32, corners on corners: TensorFlow's crop_and_resize."""
    return _scaled(at, size - 1, (count - 1).clamp(min=1)).clamp(0, size - 1)


def origin(at: Tensor, count: Tensor, size: int) -> Tensor:
    """at size / count in float32, first on first: resize_bilinear of TensorFlow 1."""
    return _scaled(at, size, count).clamp(0, size - 1)


def nearest(at: Tensor, count: Tensor, size: int) -> Tensor:
    """floor(at size / count), whole numbers: "nearest" of torch and of TensorFlow 1."""
    return (at * size).div(count, rounding_mode="floor").clamp(0, size - 1).double()


RULES: Mapping[str, Rule] = {
    "half-pixel": half_pixel,
    "half-pixel-mirrored": half_pixel_mirrored,
    "corners": corners,
    "origin": origin,
    "nearest": nearest,
}


def resized(count: int, size: int, rule: Rule, like: Tensor) -> Tensor:
    """The coordinates of a whole axis, (B, count), the same for each of the len(like) rows."""
    at = torch.arange(count, device=like.device)[None]
    return rule(at, torch.full_like(at[:, :1], count), size).expand(len(like), -1)


def _centred(at: Tensor, count: Tensor, size: int) -> Tensor:
    return (at + 0.5).double() * size / count - 0.5


def _scaled(at: Tensor, size: int, count: Tensor) -> Tensor:
    """at (size / count), each step rounded to float32; torch takes number / tensor otherwise."""
    return (at.float() * torch.full_like(count, size).float().div(count)).double()
