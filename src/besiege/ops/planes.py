"""The nearest point of a plane that lies in the box [0, 1], in l1, l2 and linf."""

from __future__ import annotations

import torch
from torch import Tensor

from besiege.core.batch import row_sum, rows

NORMS = ("l1", "l2", "linf")


def onto_plane(x: Tensor, normal: Tensor, gain: Tensor, norm: str) -> Tensor:
    """The point z in [0, 1] with <normal, z - x> = gain that is nearest to x in `norm`.

    x, normal: (B, ...), x in [0, 1]; gain: (B,), of any sign. Where the box has no such point, the
    one whose gain is nearest: every entry at its bound (entries of slope 0 stay).
    linf and l2: entry i moves by min(v s_i, room_i), s = 1 or |normal_i|; the gain is piecewise
    linear in v, so that v is found by sorting the entries by room / s. l1: entries move to their
    bound one after the other, the steepest first, and the last one in part. All in float64
    (Croce & Hein 2020, arXiv:1907.02044, section 3.1 and appendix).

    >>> onto_plane(torch.zeros(1, 2), torch.tensor([[1.0, 3.0]]), torch.tensor([1.5]), "l1")
    tensor([[0.0000, 0.5000]])
    """
    at, slope = x.double().flatten(1), normal.double().flatten(1)
    wanted = gain.double()
    slope = slope * torch.where(wanted < 0, -1, 1)[:, None]
    wanted = wanted.abs()[:, None]
    steep = slope.abs()
    room = torch.where(slope > 0, 1 - at, at)
    full = steep * room  # what an entry gains at its bound
    if norm == "l1":
        order = steep.argsort(dim=1, descending=True, stable=True)
        before = full.gather(1, order).cumsum(1) - full.gather(1, order)
        left = torch.zeros_like(full).scatter_(1, order, (wanted - before).clamp_min(0))
        move = torch.minimum(room, left / steep.clamp_min(1e-300))
    else:
        speed = steep if norm == "l2" else torch.ones_like(steep)
        ends = room / speed.clamp_min(1e-300)  # v at which an entry has reached its bound
        ends, order = ends.sort(dim=1, stable=True)
        rate, done = (steep * speed).gather(1, order), full.gather(1, order)
        # Before the k-th end: what the earlier ones have gained, and the slope of the others.
        done = done.cumsum(1) - done
        rate = rate.flip(1).cumsum(1).flip(1)
        reached = done + rate * ends >= wanted
        first = reached.to(torch.int8).argmax(1, keepdim=True)
        v = (wanted - done.gather(1, first)) / rate.gather(1, first).clamp_min(1e-300)
        v = torch.where(reached.any(1, keepdim=True), v.clamp_min(0), torch.inf)
        move = torch.minimum(room, torch.where(speed > 0, v * speed, 0))
    move = torch.where(steep > 0, move, 0)
    found = (at + slope.sign() * move).clamp(0, 1).reshape(x.shape)
    moved = rows(row_sum(steep) > 0, x)
    return torch.where(moved, found.to(x.dtype), x)
