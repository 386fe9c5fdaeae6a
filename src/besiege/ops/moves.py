"""Many single pixels moved one after another in place, resolved at once."""

from __future__ import annotations

import torch
from torch import Tensor


def sources(target: Tensor, source: Tensor, size: int) -> Tensor:
    """Where each of `size` places gets its value from once all moves are made in order.

    Move i of a row sets place target[i] to what source[i] then holds, (B, n) int64 each, n >= 1.
    Returns (B, size) int64: x.gather(1, sources(...)) is the row after all moves, with the exact
    adjoint as its backward pass.

    A move whose source was written before copies what the last such move copied. That move is found
    for all by one sort, and chains of copies are followed in log2(n) doublings, where a loop takes
    n steps.

    >>> sources(torch.tensor([[1, 2, 1]]), torch.tensor([[0, 1, 3]]), 4)
    tensor([[0, 3, 0, 3]])
    """
    count = target.shape[1]
    order = torch.arange(count, device=target.device)
    written = (target * count + order).sort(1).values  # by place, then by time

    def last(place: Tensor, before: Tensor) -> Tensor:
        """The last move before time `before` that writes `place`; -1 where there is none."""
        at = torch.searchsorted(written, place * count + before) - 1
        found = written.gather(1, at.clamp(min=0))
        return torch.where((at >= 0) & (found // count == place), found % count, -1)

    parent = last(source, order.expand_as(source))
    first = parent < 0
    parent = torch.where(first, order, parent)
    for _ in range(count.bit_length()):
        parent = parent.gather(1, parent)
    origin = source.gather(1, parent)
    places = torch.arange(size, device=target.device).expand(len(target), -1)
    winner = last(target, torch.full_like(target, count))  # so that double targets agree
    return places.scatter(1, target, origin.gather(1, winner))
