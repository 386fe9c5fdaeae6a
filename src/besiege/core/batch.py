"""Rows, draws and norms: everything here has one example per row and never mixes rows."""

from __future__ import annotations

from typing import TypeAlias

import torch
from torch import Tensor

# What a transform drew: tensors with first axis B, nested in tuples; None if deterministic.
Draw: TypeAlias = "Tensor | tuple[Draw, ...] | None"


def rows(v: Tensor, like: Tensor) -> Tensor:
    """`v` (B,) shaped to broadcast over `like` (B, ...)."""
    return v.reshape(-1, *([1] * (like.ndim - 1)))


def take(draw: Draw, index: Tensor | slice) -> Draw:
    """The rows `index` of a draw, however nested; NamedTuples keep their type."""
    if draw is None:
        return None
    if isinstance(draw, Tensor):
        return draw[index]
    parts = [take(d, index) for d in draw]
    return type(draw)(*parts) if hasattr(draw, "_fields") else tuple(parts)


def row_sum(x: Tensor) -> Tensor:
    """Sum over all axes but the first, (B, ...) -> (B,), with the same bits for any B.

    torch.sum picks its order of additions by shape and thread count; halving pairwise is
    elementwise, hence the same on every batch size and device.
    """
    x = x.flatten(1)
    while (n := x.shape[1]) > 1:
        half = n // 2
        folded = x[:, :half] + x[:, half : 2 * half]
        x = torch.cat([folded, x[:, 2 * half :]], 1) if n % 2 else folded
    return x[:, 0] if x.shape[1] else x.new_zeros(len(x))


def l2(x: Tensor) -> Tensor:
    """Euclidean norm of each row, (B, ...) -> (B,)."""
    return row_sum(x * x).sqrt()


def linf(x: Tensor) -> Tensor:
    """Largest absolute entry of each row, (B, ...) -> (B,)."""
    return x.flatten(1).abs().amax(1)


def pad_rows(x: Tensor, n: int) -> Tensor:
    """`x` (B, ...) brought to n >= B rows by repeating the first row."""
    return x if len(x) == n else torch.cat([x, x[:1].expand(n - len(x), *x.shape[1:])])
