"""Total-variation completion of images, solved for a whole batch to a proven gap.

Everything is a fixed sequence of elementwise operations and halving sums, so that an image's bits
do not depend on its batch.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from besiege.core.batch import fold_sum, row_sum, rows
from besiege.core.errors import unknown

KINDS = ("isotropic", "anisotropic", "rows")
EVERY = 10  # iterations between two looks at the gap
RELAXED = 1.8  # over-relaxation of primal and dual, below 2
PIECE = 1 << 18  # entries worked on at once (measured): more would leave the caches
FAR = 1e30  # times a slope, beyond the range of pixels unless the slope is nothing
PRIMAL = 0.03  # primal step times weight over 1 / sqrt(8) (measured); "rows" times sqrt(length)
WHOLE = 0.008  # the same where every entry is kept: on photographs a third of the iterations


class Minimiser(NamedTuple):
    """What `minimise` found."""

    image: Tensor  # (B, C, H, W)
    value: Tensor  # (B,) the objective there
    gap: Tensor  # (B,) at most so far above the least value
    steps: Tensor  # (B,) int64 iterations


def differences(u: Tensor) -> tuple[Tensor, Tensor]:
    """Forward differences down and to the right, (B, C, H, W) each; 0 in the last row or column."""
    down, right = torch.zeros_like(u), torch.zeros_like(u)
    down[..., :-1, :] = u[..., 1:, :] - u[..., :-1, :]
    right[..., :-1] = u[..., 1:] - u[..., :-1]
    return down, right


def adjoint(down: Tensor, right: Tensor) -> Tensor:
    """The adjoint of `differences`, for arguments that are 0 in their last row or column."""
    q = -(down + right)
    q[..., 1:, :] += down[..., :-1, :]
    q[..., 1:] += right[..., :-1]
    return q


def grouped(kind: str, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Sums over groups of what belongs to the differences down (a) and right (b), to be broadcast.

    A group is what is under one root: both differences of an entry ("isotropic"; then one tensor,
    a itself, is returned twice), one of them ("anisotropic"), or a whole row or column of one
    channel ("rows"). Raises UnknownName for another kind.
    """
    if kind == "isotropic":
        return a.add_(b), a
    if kind == "anisotropic":
        return a, b
    if kind == "rows":
        return _sum_along(a, -1), _sum_along(b, -2)
    raise unknown("kind of total variation", kind, KINDS)


def variation(kind: str, u: Tensor) -> Tensor:
    """Total variation of each image, (B, C, H, W) -> (B,); channels are summed.

    >>> x = torch.tensor([[[[0.0, 0.0], [3.0, 7.0]]]])
    >>> [round(float(variation(kind, x)), 3) for kind in KINDS]
    [14.0, 14.0, 11.616]
    """
    a, b = grouped(kind, *(d.square_() for d in differences(u)))
    return row_sum(a.sqrt()) if kind == "isotropic" else row_sum(a.sqrt()) + row_sum(b.sqrt())


def objective(u: Tensor, f: Tensor, kept: Tensor, weight: float, kind: str) -> Tensor:
    """1/2 sum kept (u - f)^2 + weight * variation(u), (B,)."""
    return row_sum((u - f).square().mul_(kept)) / 2 + weight * variation(kind, u)


def minimise(
    f: Tensor, kept: Tensor, weight: float, kind: str, tol: float = 1e-4, limit: int = 10_000
) -> Minimiser:
    """The u of least 1/2 sum kept (u - f)^2 + weight * variation(u), channel by channel.

    f (B, C, H, W) in [0, 1]; kept bool, of the same shape or with 1 channel; weight > 0.
    An image is done when its duality gap, a bound on how far its value is above the least, is at
    most `tol` times the value, or a quarter of the dtype's rounding an entry (which counts on
    images that are almost flat), or after `limit` iterations.
    Over-relaxed primal-dual iterations, after Chambolle and Pock 2011 and Condat 2013.
    """
    f, kept = f.contiguous(), kept.expand(f.shape).contiguous()
    piece = max(1, PIECE // f.shape[1:].numel())
    parts = [
        _minimise(a, k, weight, kind, tol, limit)
        for a, k in zip(torch.split(f, piece), torch.split(kept, piece), strict=True)
    ]
    return Minimiser(*(torch.cat(part) for part in zip(*parts, strict=True)))


class _State(NamedTuple):
    """The examples that are not done yet; `down` and `right` are the dual variable * 8 * step.

    step is the primal one.
    """

    place: Tensor  # (n,) row numbers in the batch
    f: Tensor
    kept: Tensor
    radius: Tensor  # (n, 1, 1, 1) weight * 8 * step, of the balls of the dual variable
    pull: Tensor  # 1 / (1 + step * kept)
    push: Tensor  # step * kept * f * pull
    low: Tensor  # (n, C, 1, 1) the least kept entry of a channel, and `high` the largest
    high: Tensor
    reach: Tensor  # 1 where kept, else FAR
    u: Tensor
    down: Tensor
    right: Tensor


class _Work(NamedTuple):
    """What an iteration writes: a feasible point before relaxation, and room."""

    u: Tensor  # in [0, 1]
    down: Tensor  # in its balls, and so is `right`
    right: Tensor
    ahead: Tensor
    room: Tensor


def _minimise(
    f: Tensor, kept: Tensor, weight: float, kind: str, tol: float, limit: int
) -> Minimiser:
    rounding = torch.finfo(f.dtype).eps / 4 * f.shape[1:].numel()
    s = _start(f, kept, weight, kind)
    value = f.new_empty(len(f))
    done = Minimiser(torch.empty_like(f), value, value.clone(), torch.empty_like(s.place))
    work = _Work(*torch.zeros(5, *f.shape).to(f))
    for t in range(1, limit + 1):
        _iterate(s, work, kind)
        if t % EVERY and t < limit:
            continue
        value = objective(work.u, s.f, s.kept, weight, kind)
        q = adjoint(work.down, work.right).mul_(weight / s.radius)
        gap = value - _dual_value(q, s)
        ended = (gap <= (tol * value).clamp_min(rounding)) | (t >= limit)
        if bool(ended.any()):
            at = s.place[ended]
            done.image[at], done.value[at], done.gap[at] = work.u[ended], value[ended], gap[ended]
            done.steps[at] = t
            s, work = _State(*(v[~ended] for v in s)), _Work(*(v[~ended] for v in work))
        if not len(s.place):
            break
    return done


def _start(f: Tensor, kept: Tensor, weight: float, kind: str) -> _State:
    """Dropped entries start at the mean of the kept ones."""
    short = torch.where(kept.flatten(1).all(1), WHOLE, PRIMAL).to(f.dtype) / weight / 8**0.5
    step = rows(short * max(f.shape[-2:]) ** 0.5 if kind == "rows" else short, f)
    kept = kept.to(f.dtype)
    missing, given = 1 - kept, f * kept
    mean = row_sum(given) / row_sum(kept).clamp_min(1)
    high = given.amax((2, 3), keepdim=True)
    pull, zero = 1 / (1 + step * kept), torch.zeros_like(f)
    return _State(
        place=torch.arange(len(f), device=f.device),
        f=f,
        kept=kept,
        radius=8 * weight * step,
        pull=pull,
        push=given * step * pull,
        low=torch.minimum((given + missing).amin((2, 3), keepdim=True), high),
        high=high,
        reach=kept.add(missing, alpha=FAR),
        u=given + missing * rows(mean, f),
        down=zero,
        right=zero.clone(),
    )


def _iterate(s: _State, w: _Work, kind: str) -> None:
    """One iteration, in place."""
    torch.add(s.down, s.right, out=w.u)
    w.u[..., 1:, :] -= s.down[..., :-1, :]
    w.u[..., 1:] -= s.right[..., :-1]
    torch.add(s.u, w.u, alpha=0.125, out=w.u).mul_(s.pull).add_(s.push).clamp_(0, 1)
    torch.lerp(s.u, w.u, 2, out=w.ahead)
    s.u.lerp_(w.u, RELAXED)
    torch.sub(w.ahead[..., 1:, :], w.ahead[..., :-1, :], out=w.down[..., :-1, :])
    torch.sub(w.ahead[..., 1:], w.ahead[..., :-1], out=w.right[..., :-1])
    w.down.add_(s.down)
    w.right.add_(s.right)
    torch.mul(w.down, w.down, out=w.ahead)
    a, b = grouped(kind, w.ahead, torch.mul(w.right, w.right, out=w.room))
    w.down.mul_(_cut(a, s.radius))
    w.right.mul_(a if b is a else _cut(b, s.radius))
    s.down.lerp_(w.down, RELAXED)
    s.right.lerp_(w.right, RELAXED)


def _cut(square: Tensor, radius: Tensor) -> Tensor:
    """What projects a group onto the ball: min(1, radius / norm), in place."""
    return torch.div(radius, torch.maximum(square.sqrt_(), radius, out=square), out=square)


def _dual_value(q: Tensor, s: _State) -> Tensor:
    """The least of 1/2 sum kept (u - f)^2 + <q, u> over what u may be, (B,): a lower bound.

    Some minimiser lies between the least and the largest kept entry of a channel, since cutting u
    there raises neither term. (No torch.where: on random masks it takes as long as 30 products.)
    """
    u = torch.maximum(torch.minimum(s.f - q * s.reach, s.high), s.low)
    return row_sum((u - s.f).square_().mul_(s.kept).div_(2).add_(u.mul_(q)))


def _sum_along(x: Tensor, axis: int) -> Tensor:
    """Sum along an axis of (B, C, H, W), kept with length 1."""
    return fold_sum(x.movedim(axis, 1)).unsqueeze(axis)
