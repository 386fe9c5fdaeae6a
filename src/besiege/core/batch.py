"""Rows, draws and norms: everything here has one example per row and never mixes rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import repeat
from typing import Any, TypeAlias

import torch
from torch import Tensor

# What a transform drew: tensors with first axis B, nested in tuples; None if deterministic.
Draw: TypeAlias = "Tensor | tuple[Draw, ...] | None"

# Entries that `in_pieces` works on at once: more would leave a core's caches; fewer idle a GPU.
PIECE_CPU = 1 << 20
PIECE_GPU = 1 << 25


def rows(v: Tensor, like: Tensor) -> Tensor:
    """`v` (B,) shaped to broadcast over `like` (B, ...)."""
    return v.reshape(-1, *([1] * (like.ndim - 1)))


def take(values: Any, index: Tensor | slice) -> Any:
    """The rows `index` of tensors with first axis B, however nested in tuples.

    NamedTuples keep their type; what is no tensor (None, a number) is kept as it is.
    """
    if isinstance(values, Tensor):
        return values[index]
    if not isinstance(values, tuple):
        return values
    parts = [take(v, index) for v in values]
    return type(values)(*parts) if hasattr(values, "_fields") else tuple(parts)


def fold_sum(x: Tensor) -> Tensor:
    """Sum over axis 1, (B, n, ...) -> (B, ...), with the same bits for any B, device and threads.

    torch.sum picks its order of additions by shape and thread count; halving pairwise is
    elementwise, so that a row's result never depends on its neighbours.

    >>> fold_sum(torch.tensor([[1.0, 2.0, 3.0]]))
    tensor([6.])
    """
    if x.shape[1] == 0:
        return x.new_zeros(len(x), *x.shape[2:])
    while (n := x.shape[1]) > 1:
        half = n // 2
        folded = x[:, :half] + x[:, half : 2 * half]
        x = torch.cat([folded, x[:, 2 * half :]], 1) if n % 2 else folded
    return x[:, 0]


def by_example(x: Tensor, n: int) -> Tensor:
    """Rows of n draws an example, (B * n, ...), as (B, n, ...)."""
    return x.reshape(-1, n, *x.shape[1:])


def row_sum(x: Tensor) -> Tensor:
    """Sum of each row, (B, ...) -> (B,); see `fold_sum`."""
    return fold_sum(x.flatten(1))


def l2(x: Tensor) -> Tensor:
    """Euclidean norm of each row, (B, ...) -> (B,)."""
    return row_sum(x * x).sqrt()


def linf(x: Tensor) -> Tensor:
    """Largest absolute entry of each row, (B, ...) -> (B,)."""
    return x.flatten(1).abs().amax(1)


def in_pieces(f: Callable[..., Tensor], *values: Tensor | None) -> Tensor:
    """f of tensors with first axis B (or None), some rows at a time, so that its memory is small.

    For an f that works on each row by itself; it is the same as f of the whole. Differentiable.

    >>> in_pieces(lambda x, y: x * 2, torch.arange(3.0), None)
    tensor([0., 2., 4.])
    """
    first = next(v for v in values if v is not None)
    room = PIECE_CPU if first.device.type == "cpu" else PIECE_GPU
    size = max(1, room // max(1, first[:1].numel()))
    if len(first) <= size:
        return f(*values)
    # One node a tensor in the backward pass, where slices would have one a piece, of full size.
    parts = (repeat(None) if v is None else torch.split(v, size) for v in values)
    return torch.cat([f(*part) for part in zip(*parts, strict=False)])


def chunks(
    total: int, size: int, device: torch.device | str = "cpu"
) -> Iterator[tuple[slice, Tensor]]:
    """Windows of exactly `size` row numbers: (the rows that count, all the numbers).

    The last window is filled up with row 0, because kernels round differently by shape: a model
    that always sees `size` rows gives an example the same bits in any batch.

    >>> [(s, i.tolist()) for s, i in chunks(3, 2)]
    [(slice(0, 2, None), [0, 1]), (slice(2, 3, None), [2, 0])]
    """
    for start in range(0, total, size):
        index = torch.arange(start, start + size, device=device)
        yield slice(start, min(start + size, total)), torch.where(index < total, index, 0)
