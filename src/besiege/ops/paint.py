"""Pixels set to given colours."""

from __future__ import annotations

from torch import Tensor


def paint(x: Tensor, place: Tensor, colour: Tensor) -> Tensor:
    """n copies of each image with k pixels of other colours, (B, n, C, H, W).

    x: (B, C, H, W). place: (B, n, k) int64, row * W + column. colour: (B, n, k, C). Where two of a
    copy's pixels share a place, the larger value of each channel counts, on any device.

    >>> import torch
    >>> x, place = torch.zeros(1, 1, 2, 2), torch.tensor([[[3], [0]]])
    >>> paint(x, place, torch.ones(1, 2, 1, 1)).flatten(2).tolist()
    [[[0.0, 0.0, 0.0, 1.0], [1.0, 0.0, 0.0, 0.0]]]
    """
    n, channels = place.shape[1], x.shape[1]
    copies = x.flatten(2)[:, None].repeat(1, n, 1, 1)
    index = place[:, :, None].expand(-1, -1, channels, -1)
    value = colour.transpose(2, 3).to(x.dtype)
    painted = copies.scatter_reduce(3, index, value, "amax", include_self=False)
    return painted.reshape(len(x), n, *x.shape[1:])
