"""Split-Bregman solvers of published codes, faults and early stops included, for a whole batch.

Their Gauss-Seidel sweeps go over the pixels of a channel in reading order, each reading what the
one before has written. A pixel reads its four neighbours only, so all pixels of an anti-diagonal
can go at once without changing a result. Images are kept skewed here: diagonal first, row last.
"""

from __future__ import annotations

from math import prod
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from besiege.core.batch import row_sum, rows
from besiege.ops.border import reflect
from besiege.ops.total_variation import adjoint, differences

SWEEPS = 10  # of `nested`, an iteration
TINY = 1e-30  # below which a square is flat, so that the square root has a finite derivative


class Stopped(NamedTuple):
    """Where a solver stopped."""

    image: Tensor  # (B, C, H, W)
    steps: Tensor  # (B,) int64 outer iterations


class _Run:
    """Which images go on: until their root-mean-square change is at most `tol`."""

    def __init__(self, start: Tensor, tol: float) -> None:
        self.tol, self.image = tol, start
        self.on = torch.ones(len(start), dtype=torch.bool, device=start.device)
        self.steps = self.on.long() * 0

    def ended(self, u: Tensor, before: Tensor) -> bool:
        """Take an iteration's images for those that were still going on; True if none is left."""
        self.image = torch.where(rows(self.on, u), u, self.image)
        self.steps = self.steps + self.on
        change = row_sum((u - before).square()) / prod(u.shape[1:])
        self.on = self.on & (change.sqrt() > self.tol)
        return not bool(self.on.any())


def nested(
    f: Tensor, kept: Tensor, weight: float, kind: str, tol: float = 0.01, limit: int = 100
) -> Stopped:
    """The solver that Guo et al. 2018 released: 10 sweeps for u, then one update of the splitting.

    f (B, C, H, W); kept bool, of the same shape; weight: of the total variation; kind "isotropic"
    or "anisotropic". Differentiable by autograd. As released: entries start from f, a dropped one
    becomes the sum of its neighbours over 4 even where it has 2 or 3, and the isotropic shrinkage
    is smoothed.
    """
    mu = 2 / weight
    count = _neighbours(f)
    slope = torch.where(kept, mu / (1 / weight + count * mu), 0.25)
    given = torch.where(kept, f / weight / (1 / weight + count * mu), 0)
    u, split, bx, by = f, *(torch.zeros_like(f) for _ in range(3))
    run = _Run(f, tol)
    for _ in range(limit):
        before, u = u, _swept(u, slope, split * slope + given)
        down, right = differences(u)
        sx, sy = right + bx, down + by
        dx, dy = _shrunk(sx, sy, mu, kind)
        bx, by = sx - dx, sy - dy
        split = adjoint(dy - by, dx - bx)
        if run.ended(u, before):
            break
    return Stopped(run.image, run.steps)


def interleaved(
    f: Tensor, kept: Tensor, weight: float, kind: str, tol: float = 1e-3, limit: int = 100
) -> Stopped:
    """scikit-image's `denoise_tv_bregman`, with the mask of the code of Athalye et al. 2018.

    Arguments as in `nested`. Differentiable by autograd. One sweep an iteration, in which each
    pixel updates its own part of the splitting too; beyond the border lies the mirror image of f,
    which is never updated, and the differences to it are shrunk as the others.
    """
    mu = 2 / weight
    slope = torch.where(kept, mu / (1 / weight + 4 * mu), 0.25)
    given = torch.where(kept, f / weight / (1 / weight + 4 * mu), 0)
    start, edge = reflect(f, (1, 1), (1, 1)), (1, 1, 1, 1)
    frame = F.pad(torch.zeros_like(f), edge, value=1)
    inside = _skewed(1 - frame)[..., 1:-1].unbind()
    a = _skewed(F.pad(slope, edge))[..., 1:-1].unbind()
    c = _skewed(frame * start + F.pad(given, edge)).unbind()
    u = list(_skewed(start).unbind())
    zero = torch.zeros_like(u[0])
    b = [(zero[..., 1:-1], zero[..., 1:-1])] * len(u)  # of the splitting, (right, down)
    e = [(zero, zero)] * len(u)  # its d - b
    run, image = _Run(f, tol), f
    for _ in range(limit):
        for d in range(2, len(u) - 2):
            old, right, down = u[d][..., 1:-1], u[d + 1][..., 1:-1], u[d + 1][..., 2:]
            around = right + down + u[d - 1][..., 1:-1] + u[d - 1][..., :-2]
            around = around + e[d - 1][0][..., 1:-1] + e[d - 1][1][..., :-2]
            around = around - (e[d][0] + e[d][1])[..., 1:-1]
            u[d] = F.pad(around * a[d], (1, 1)) + c[d]
            sx, sy = (right - old) * inside[d] + b[d][0], (down - old) * inside[d] + b[d][1]
            dx, dy = _shrunk(sx, sy, mu, kind)
            b[d] = sx - dx, sy - dy
            e[d] = F.pad(2 * dx - sx, (1, 1)), F.pad(2 * dy - sy, (1, 1))
        before, image = image, _straight(torch.stack(u), f.shape[-2] + 2)[..., 1:-1, 1:-1]
        if run.ended(image, before):
            break
    return Stopped(run.image, run.steps)


def _swept(u: Tensor, slope: Tensor, shift: Tensor) -> Tensor:
    """SWEEPS sweeps of u <- slope * (sum of neighbours) + shift.

    While sweep 0 does diagonal t, sweep k does t - 2 k: every second diagonal is written, the
    others are read.
    """
    a, c = _skewed(slope), _skewed(shift)
    s = F.pad(_skewed(u), (1, 1, 0, 0, 0, 0, 1, 1))
    last = len(a) - 1
    for t in range(last + 2 * SWEEPS - 1):
        first, final = max(t - 2 * (SWEEPS - 1), t % 2), min(t, last - (last - t) % 2)
        now = slice(first, final + 1, 2)
        before, after = s[now], s[first + 2 : final + 3 : 2]
        around = before[..., :-2] + after[..., 2:] + before[..., 1:-1] + after[..., 1:-1]
        s[first + 1 : final + 2 : 2, ..., 1:-1] = around * a[now] + c[now]
    return _straight(s[1:-1, ..., 1:-1], u.shape[-2])


def _shrunk(x: Tensor, y: Tensor, mu: float, kind: str) -> tuple[Tensor, Tensor]:
    """The splitting's d. Exact for "anisotropic"; "isotropic" is scikit-image's, smoothed."""
    if kind == "anisotropic":
        return x - x.clamp(-1 / mu, 1 / mu), y - y.clamp(-1 / mu, 1 / mu)
    s = mu * (x * x + y * y).clamp_min(TINY).sqrt()
    s = s / (s + 1)
    return x * s, y * s


def _neighbours(f: Tensor) -> Tensor:
    """How many neighbours each pixel has, (H, W)."""
    one = F.pad(f.new_ones(f.shape[-2:]), (1, 1, 1, 1))
    return one[:-2, 1:-1] + one[2:, 1:-1] + one[1:-1, :-2] + one[1:-1, 2:]


def _skewed(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (H + W - 1, B, C, H): pixel (i, j) goes to diagonal i + j, row i; else 0."""
    height, width = x.shape[-2:]
    row = torch.arange(height, device=x.device)
    column = torch.arange(height + width - 1, device=x.device)[:, None] - row
    inside = (column >= 0) & (column < width)
    out = x[..., row, column.clamp(0, width - 1)] * inside
    return out.movedim(2, 0).contiguous()


def _straight(s: Tensor, height: int) -> Tensor:
    """The inverse of `_skewed`."""
    row = torch.arange(height, device=s.device)[:, None]
    column = torch.arange(len(s) - height + 1, device=s.device)
    return s.movedim(0, 2)[..., row + column, row]
