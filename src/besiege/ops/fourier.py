"""Filters in frequency space: masks over half spectra, and images through them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import lru_cache

import torch
from torch import Tensor


def disc(height: int, width: int, percent: float) -> Tensor:
    """The frequencies nearest to 0, all but at most `percent` % of the whole spectrum.

    (H, W // 2 + 1) bool, True where kept. Distance is in cycles a pixel; frequencies of one
    distance stay or go together, so that the mask is even and real images stay real. The mean
    always stays.

    >>> disc(4, 4, 50).int().tolist()
    [[1, 1, 0], [1, 1, 0], [0, 0, 0], [1, 1, 0]]
    """
    row = torch.arange(height)
    row = torch.minimum(row, height - row)[:, None]
    column = torch.arange(width // 2 + 1)
    square = (row * width) ** 2 + (column * height) ** 2  # whole numbers, hence exact ties
    twice = torch.where((column > 0) & (2 * column < width), 2, 1).expand_as(square)
    rings, ring = square.unique(return_inverse=True)  # type: ignore[no-untyped-call]
    counts = torch.zeros_like(rings).index_add(0, ring.flatten(), twice.flatten())
    beyond = height * width - counts.cumsum(0)  # frequencies outside of each ring
    last = int((beyond * 100 <= percent * height * width).int().argmax())
    kept: Tensor = ring <= last
    return kept


def quarters(height: int, width: int, percent: float) -> Tensor:
    """Quarter discs at the corners as in the code of Dziedzic and Krishnan 2020; see `disc`.

    Their radius is a whole number, and those below and to the right count from the last row and
    column, where frequency -1 lies, as if it were 0: at the largest row frequency + and - differ in
    column 0, and the highest column frequency counts as one less.
    """
    half = width // 2 + 1
    radius = int(math.sqrt(2 * (1 - percent / 100) * height * half / math.pi))
    row, column = torch.arange(height)[:, None], torch.arange(half)
    down, across = torch.minimum(row, height - 1 - row), torch.minimum(column, width - 1 - column)
    return down**2 + across**2 < radius**2


def square(height: int, width: int, percent: float) -> Tensor:
    """Frequencies of at most n rows and n columns, as in the same code: an L is removed."""
    half = width // 2 + 1
    most = int(math.sqrt((1 - percent / 100) * height * half / 2) - 1)
    row = torch.arange(height)[:, None]
    column = torch.arange(half)
    return (torch.minimum(row, height - row) <= most) & (column <= most)


MASKS: Mapping[str, Callable[[int, int, float], Tensor]] = {
    "hermitian": disc,
    "released": quarters,
    "squared": square,
}


@lru_cache(maxsize=32)
def mask_of(form: str, height: int, width: int, percent: float) -> Tensor:
    """MASKS[form], kept for the next batch; not to be written to."""
    with torch.inference_mode(False):
        return MASKS[form](height, width, percent)


def filtered(x: Tensor, mask: Tensor) -> Tensor:
    """x (B, C, H, W) with those frequencies alone that `mask` (H, W // 2 + 1) keeps.

    Linear and self-adjoint for every mask: of one that is not even, the inverse transform takes the
    even part, half of either coefficient. An image's bits do not depend on its batch.
    """
    planes = x.flatten(0, 1)
    if len(planes) == 0:
        return x
    if len(planes) == 1:  # one plane alone goes through another kernel, which rounds otherwise
        planes = planes.expand(2, -1, -1)
    kept = torch.fft.rfft2(planes) * mask
    out: Tensor = torch.fft.irfft2(kept, s=(x.shape[-2], x.shape[-1]))
    return out[: x.shape[0] * x.shape[1]].reshape(x.shape)
