"""Growing an image beyond its border."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def reflect(x: Tensor, before: tuple[int, int], after: tuple[int, int]) -> Tensor:
    """x (B, C, H, W) grown by (rows, columns) before and after, mirrored about the edge pixels.

    The edge pixel is not repeated (dcb|abcd|cba); a mirror image that ends is mirrored again, so
    that any size can grow by any number.

    >>> reflect(torch.tensor([[[[1.0, 2.0]]]]), (0, 1), (0, 2))
    tensor([[[[2., 1., 2., 1., 2.]]]])
    """
    height, width = x.shape[-2:]
    if max(before[0], after[0]) < height and max(before[1], after[1]) < width:
        return F.pad(x, (before[1], after[1], before[0], after[0]), mode="reflect")
    return _sampled(
        x, *(_mirrored(n, b, a) for n, b, a in zip(x.shape[-2:], before, after, strict=True))
    )


def mirror(x: Tensor, before: tuple[int, int], after: tuple[int, int]) -> Tensor:
    """x (B, C, H, W) grown by (rows, columns) before and after, mirrored about its outer edge.

    The edge pixel is repeated (dcba|abcd|dcba), what NumPy calls "symmetric" and SciPy "reflect";
    any size can grow by any number.

    >>> mirror(torch.tensor([[[[1.0, 2.0]]]]), (0, 1), (0, 3))
    tensor([[[[1., 1., 2., 2., 1., 1.]]]])
    """
    for axis, b, a in zip((-2, -1), before, after, strict=True):
        n = x.shape[axis]
        if max(a, b) > n:
            x = x.index_select(axis, _folded(n, b, a).to(x.device))
        elif a or b:
            ends = x.narrow(axis, 0, b).flip(axis), x.narrow(axis, n - a, a).flip(axis)
            x = torch.cat([ends[0], x, ends[1]], axis)
    return x


def repeat_edge(x: Tensor, after: tuple[int, int]) -> Tensor:
    """x (B, C, H, W) grown by (rows, columns) below and to the right, the last pixel repeated."""
    height, width = x.shape[-2:]
    rows = torch.arange(height + after[0]).clamp(max=height - 1)
    columns = torch.arange(width + after[1]).clamp(max=width - 1)
    return _sampled(x, rows, columns)


def _mirrored(size: int, before: int, after: int) -> Tensor:
    """The source of each of `before + size + after` positions."""
    period = max(2 * (size - 1), 1)
    turn = torch.arange(-before, size + after) % period
    return torch.minimum(turn, period - turn)


def _folded(size: int, before: int, after: int) -> Tensor:
    """As `_mirrored`, with the edge pixel twice."""
    turn = torch.arange(-before, size + after) % (2 * size)
    return torch.minimum(turn, 2 * size - 1 - turn)


def _sampled(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    return x.index_select(-2, rows.to(x.device)).index_select(-1, columns.to(x.device))
