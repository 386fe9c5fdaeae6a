"""Many single pixels moved one after another in place, resolved at once."""

from __future__ import annotations

import torch
from torch import Tensor


def moved(x: Tensor, target: Tensor, source: Tensor) -> Tensor:
    """x (B, C, P) after all moves in order: move i sets place target[i] to what source[i] holds.

    target, source: (B, n) int64 places, n >= 1, the same in all channels. The backward pass is the
    exact adjoint.

    >>> moved(torch.tensor([[[5, 6, 7, 8]]]), torch.tensor([[1, 2, 1]]), torch.tensor([[0, 1, 3]]))
    tensor([[[5, 8, 5, 8]]])
    """
    origin, wins = _resolved(target, source)
    to, come = (at[:, None].expand(-1, x.shape[1], -1) for at in (target, origin))
    values = x.gather(2, come)
    # Moves to one place write one value; its gradient goes back once.
    values = torch.where(wins[:, None], values, values.detach())
    return x.scatter(2, to, values)


def _resolved(target: Tensor, source: Tensor) -> tuple[Tensor, Tensor]:
    """For each move: the first place of what its target holds in the end; if it is the last there.

    A move whose source was written before copies what the last such move copied. That move is found
    for all by one sort, and chains of n copies are followed in log2(n) doublings; a loop takes
    as many steps as there are moves.
    """
    count = target.shape[1]
    order = torch.arange(count, device=target.device)
    written = (target * count + order).sort(1).values  # by place, then by time

    at = torch.searchsorted(written, source * count + order) - 1
    before = written.gather(1, at.clamp(min=0))
    parent = torch.where((at >= 0) & (before // count == source), before % count, order)
    while not torch.equal(above := parent.gather(1, parent), parent):
        parent = above
    # Sought in order of places, which is faster.
    end = torch.searchsorted(written, (written // count + 1) * count) - 1
    winner = torch.empty_like(target).scatter_(1, written % count, written.gather(1, end) % count)
    return source.gather(1, parent).gather(1, winner), winner == order
