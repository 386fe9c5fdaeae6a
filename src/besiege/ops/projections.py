"""Exact Euclidean projections onto a ball around an image, cut with the box [0, 1].

Scaling into the ball and then clipping gives an admitted image, but not the nearest one: what
clipping takes away, other entries could have kept. Here the one multiplier of the ball's constraint
is found, a root of a monotone, piecewise smooth function of each row. All is done in float64, and
rounded towards the clean image, so that a float32 result is in the ball as well.
"""

from __future__ import annotations

import torch
from torch import Tensor

from besiege.core.batch import l2, row_sum, rows

NEWTON = 64  # steps at most; see `onto_l2`
BRACKETED = 128  # of which every other one halves the interval: 64 bits


def onto_l2(x: Tensor, x0: Tensor, radius: Tensor) -> Tensor:
    """The image nearest to x with ||. - x0||_2 <= radius and entries in [0, 1].

    x, x0: (B, ...), x0 in [0, 1]; radius: (B,) >= 0. A row that is in the ball is only clipped.
    The solution is x0 + clip(s (x - x0)) with s in [0, 1]; u = s^2 solves
    sum min(u d^2, room^2) = radius^2, whose left side is concave and piecewise linear. Newton's
    iterates rise from the left and end exactly; each shrinks residual times slope fourfold at
    least (Cominetti, Mascarenhas & Silva 2014), and each is in the ball.
    """
    out = (l2(x.double() - x0.double()) > radius.double()).nonzero()[:, 0]
    inside = x.clamp(0, 1)
    if len(out) == 0:
        return inside
    if len(out) < len(x):
        return inside.index_copy(0, out, onto_l2(x[out], x0[out], radius[out]))
    shift, clean = (x.double() - x0.double()), x0.double()
    room = torch.where(shift > 0, 1 - clean, clean) ** 2
    square, bound = shift**2, radius.double() ** 2
    u = torch.zeros_like(bound)
    for _ in range(NEWTON):
        free = (rows(u, x) * square < room) | (rows(u, x) == 0)
        slope = row_sum(square * free)
        rest = (bound - row_sum(torch.where(free, 0, room))).clamp_min(0)
        # Where nothing is free, or nothing moves, the whole step is in the ball.
        better = torch.where(slope > 0, rest / slope.clamp_min(1e-300), 1).clamp(u, u.new_ones(()))
        if torch.equal(better, u):
            break
        u = better
    moved = (clean + rows(u.sqrt(), x) * shift).clamp(0, 1)
    return _result(moved, x, x0, inside=u >= 1)


def onto_l1(x: Tensor, x0: Tensor, radius: Tensor) -> Tensor:
    """The image nearest to x with ||. - x0||_1 <= radius and entries in [0, 1].

    x, x0: (B, ...), x0 in [0, 1]; radius: (B,) >= 0. A row that is in the ball is only clipped.
    Each entry moves by clip(|d| - t, 0, room); the sum of that falls with t, piecewise linearly.
    Newton's step is exact on the piece where it lands, which shows in that it repeats itself; every
    second step halves the interval that holds t, which ends the search in any case.
    """
    shift, clean = (x.double() - x0.double()), x0.double()
    room = torch.where(shift > 0, 1 - clean, clean)
    length, bound = shift.abs(), radius.double()
    inside = row_sum(length.minimum(room)) <= bound
    low, high = torch.zeros_like(bound), length.flatten(1).amax(1)
    t, done = low.clone(), inside.clone()
    for step in range(BRACKETED):
        rest = (length - rows(t, x)).clamp_min(0)
        free = (rest > 0) & (rest < room)
        number = row_sum(free.double())
        full = row_sum(torch.where(free, length, rest.minimum(room)))
        sharp = torch.where(number > 0, (full - bound) / number.clamp_min(1), t)
        over = row_sum(rest.minimum(room)) > bound
        done |= (number > 0) & (sharp == t)
        if bool(done.all()):
            break
        low, high = torch.where(over, t, low), torch.where(over, high, t)
        useful = (sharp > low) & (sharp < high) & (step % 2 == 0)
        t = torch.where(done, t, torch.where(useful, sharp, (low + high) / 2))
    t = torch.where(done, t, high)
    moved = (length - rows(t, x)).clamp_min(0).minimum(room)
    # Of entries many radii away, length - t is rounded: what is left over is scaled away.
    moved = moved * rows((bound / row_sum(moved).clamp_min(1e-300)).clamp_max(1), x)
    return _result((clean + shift.sign() * moved).clamp(0, 1), x, x0, inside)


def _result(moved: Tensor, x: Tensor, x0: Tensor, inside: Tensor) -> Tensor:
    """`moved` in the type of x; the rows that are inside are x, clipped and nothing else."""
    cast = moved.to(x.dtype)
    further = (cast.double() - x0.double()).abs() > (moved - x0.double()).abs()
    cast = torch.where(further, cast.nextafter(x0.to(x.dtype)), cast)
    return torch.where(rows(inside, x), x.clamp(0, 1), cast)


def onto_levels(x: Tensor, x0: Tensor, radius: Tensor, power: int) -> Tensor:
    """An 8-bit image near x (B, ...) in [0, 1] with (sum |. - x0|^power)^(1/power) <= radius (B,).

    Rows that plain rounding leaves in the ball are rounded. In the others entries go one level
    towards x0, those first that cost least distance to x per size gained. For power 1 and an 8-bit
    x0 the result is the nearest such image, since every level gains the same; for power 2 it is
    the greedy solution of a knapsack. Rows for which one level an entry does not suffice (no 8-bit
    image in reach is in the ball) come back as x0.
    """
    level = (x.double() * 255).round()
    side = (level - x0.double() * 255).sign()
    near, inner = ((k / 255).to(x.dtype) for k in (level, level - side))

    def size(y: Tensor) -> Tensor:
        return ((y.double() - x0.double()).abs() ** power).flatten(1)

    def gap(y: Tensor) -> Tensor:
        return ((y.double() - x.double()) ** 2).flatten(1)

    gain, cost = size(near) - size(inner), gap(inner) - gap(near)
    ratio = torch.where(gain > 0, cost / gain.clamp_min(1e-300), torch.inf)
    order = ratio.argsort(dim=1, stable=True)
    excess = (row_sum(size(near)) - radius.double() ** power)[:, None]
    useful = gain.clamp_min(0).gather(1, order)
    before = useful.cumsum(1) - useful
    chosen = torch.zeros_like(gain, dtype=torch.bool)
    chosen.scatter_(1, order, (before < excess) & (useful > 0))
    found = torch.where(chosen.reshape(x.shape), inner, near)
    fits = row_sum(size(found)) <= radius.double() ** power
    return torch.where(rows(fits, x), found, x0.to(x.dtype))
