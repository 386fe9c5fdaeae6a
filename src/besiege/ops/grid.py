"""Separable distortion over a grid: where each output row and column comes from.

An axis of `size` pixels is cut into cells of `step` pixels; the last one may be shorter. Cell k
ends at source coordinate p_{k+1} = p_k + step * (1 + stretch_k), p_0 = 0; a shorter last cell ends
at `size`. Coordinates are positions of pixels: 0 is the first, size - 1 the last.
"""

from __future__ import annotations

import torch
from torch import Tensor


def step_of(size: int, cells: int) -> int:
    """Pixels of a cell, at least one: size // cells."""
    return max(1, size // cells)


def count_of(size: int, cells: int) -> int:
    """Cells of an axis, a shorter last one included (299 pixels in tenths: 11).

    >>> count_of(299, 10), count_of(32, 4), count_of(28, 10)
    (11, 4, 14)
    """
    return -(-size // step_of(size, cells))


def cell_ends(stretch: Tensor, size: int, step: int) -> Tensor:
    """Source coordinate where each cell ends: stretch (B, n) above -1 -> (B, n) float64.

    >>> cell_ends(torch.tensor([[0.25, -0.25, 0.1]]), size=10, step=4)
    tensor([[ 5.,  8., 10.]], dtype=torch.float64)
    """
    ends = (step * (1 + stretch.double())).cumsum(1)
    if size % step:
        ends = torch.cat([ends[:, :-1], torch.full_like(ends[:, :1], size)], 1)
    return ends


def half_open(ends: Tensor, size: int, step: int) -> Tensor:
    """Coordinates (B, size) of cells that hold their start but not their end, in [0, size - 1].

    Pixel j of a cell of w pixels lies j/w of the way, so that stretch 0 is the identity. Qiu et
    al. 2020, algorithm 1.

    >>> half_open(torch.tensor([[2.0, 4.0]]), size=4, step=2)
    tensor([[0., 1., 2., 3.]])
    """
    start, length, offset, width = _cells(ends, size, step)
    return (start + length * offset / width).clamp(max=size - 1)


def both_ends(ends: Tensor, size: int, step: int) -> Tensor:
    """Whole coordinates (B, size) int64 of cells whose first and last pixel lie on their ends.

    The form in the code that Qiu et al. 2020 released: an evenly spaced row with both ends
    included, kept as float32, rounded half to even, at most size - 1. Stretch 0 is no identity:
    each cell spans a pixel more than it has.

    >>> both_ends(torch.tensor([[4.0, 8.0]]), size=8, step=4)
    tensor([[0, 1, 3, 4, 4, 5, 7, 7]])
    """
    start, length, offset, width = _cells(ends, size, step)
    along = start + offset * (length / (width - 1).clamp(min=1))
    along = torch.where((offset == width - 1) & (width > 1), start + length, along)
    return along.float().round().clamp(max=size - 1).long()


def mirrored(coordinates: Tensor, far: Tensor) -> Tensor:
    """Coordinates (B, size), counted from the far end of the axis where `far` (B,) is true."""
    from_far = coordinates.shape[1] - 1 - coordinates.flip(1)
    return torch.where(far[:, None], from_far, coordinates)


def gathered(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """out[b, c, i, j] = x[b, c, rows[b, i], columns[b, j]]; the backward pass scatters and adds.

    x (B, C, H, W); rows (B, H'), columns (B, W') int64.
    """
    return _columns(_rows(x, rows), columns)


def bilinear(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """x (B, C, H, W) read at coordinates rows (B, H') and columns (B, W'), linear in between.

    Exact where a coordinate is whole; within the range of x; differentiable in x.
    """
    low, high, share = _neighbours(rows, x.shape[-2], x)
    x = _mixed(_rows(x, low), _rows(x, high), share[:, None, :, None])
    low, high, share = _neighbours(columns, x.shape[-1], x)
    return _mixed(_columns(x, low), _columns(x, high), share[:, None, None, :])


def _cells(ends: Tensor, size: int, step: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """For each pixel: its cell's source start and length (B, size), its offset and the width."""
    pixel = torch.arange(size, device=ends.device)
    cell = pixel // step
    starts = torch.cat([torch.zeros_like(ends[:, :1]), ends[:, :-1]], 1)
    width = (size - cell * step).clamp(max=step)
    return starts[:, cell], (ends - starts)[:, cell], pixel - cell * step, width


def _neighbours(coordinates: Tensor, size: int, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The pixels below and above each coordinate, and the share of the upper one."""
    low = coordinates.floor()
    share = (coordinates - low).to(like.dtype)
    index = low.long()
    return index, (index + 1).clamp(max=size - 1), share


def _mixed(low: Tensor, high: Tensor, share: Tensor) -> Tensor:
    """low (1 - share) + high share, in the memory of both."""
    return low.mul_(1 - share).add_(high.mul_(share))


def _rows(x: Tensor, index: Tensor) -> Tensor:
    """out[b, c, i] = x[b, c, index[b, i]]."""
    b, c, height, width = x.shape
    plane = torch.arange(b * c, device=x.device).reshape(b, c, 1) * height
    flat = (plane + index[:, None]).flatten()
    return x.reshape(-1, width).index_select(0, flat).reshape(b, c, index.shape[1], width)


def _columns(x: Tensor, index: Tensor) -> Tensor:
    """out[b, c, i, j] = x[b, c, i, index[b, j]]."""
    return x.gather(3, index[:, None, None, :].expand(*x.shape[:3], -1))
