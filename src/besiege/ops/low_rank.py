"""Matrices by their singular values: truncated, projected and shrunk, batch after batch.

All is computed in float64 on matrices grown by zeros to sides divisible by 8: every matrix then
begins on a cache line, where the kernels of linear algebra give the same bits in any batch.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.linalg
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function

LINE = 8  # numbers of 8 bytes on a cache line of 64
GAP = 1e-6  # the least 1 - (s_j / s_i)^2 that a derivative divides by


def truncated(x: Tensor, rank: int) -> Tensor:
    """The nearest matrix of rank at most `rank` to each matrix of x (..., m, n) in least squares.

    Its gradient is the true one, in closed form; differentiating the decomposition itself would
    divide by all differences of squared singular values, where only those between one that is kept
    and one that is not remain in the result. Where these two meet there is none, and 1 - (s_j /
    s_i)^2 is held above GAP. Not finite matrices become NaN.
    """
    out: Tensor = _Truncated.apply(x, rank)  # type: ignore[no-untyped-call]
    return out


def projected(x: Tensor, rank: int) -> Tensor:
    """P x Q, the projections on the `rank` first singular vectors of x held fixed.

    The value of `truncated`, as a linear map: (..., m, n) -> (..., m, n).
    """
    u, s, v = svd(x.detach())
    kept = _first(rank, s)
    y = (u * kept) @ (u.mT @ _grown(x) @ v.mT * kept) @ v
    return _cut(y, x)


def shrunk(x: Tensor, amount: Tensor) -> Tensor:
    """Every singular value s of x (..., m, n), m <= n, as max(s - amount, 0); no gradient.

    amount (...). The minimiser of 1/2 ||y - x||^2 + amount ||y||_*. By the eigenvectors of x x^T,
    which is half the work; small values, where that is inexact, vanish or matter little.
    """
    with torch.no_grad():
        y = _grown(x)
        squares, u = torch.linalg.eigh(y @ y.mT)
        s = squares.clamp_min(0).sqrt()
        share = (1 - amount[..., None].double() / s.clamp_min(1e-300)).clamp_min(0)
        return _cut((u * share[..., None, :]) @ (u.mT @ y), x)


def largest(x: Tensor) -> Tensor:
    """The largest singular value of each matrix, (..., m, n) -> (...) float64; no gradient."""
    with torch.no_grad():
        y = _grown(x)
        squares: Tensor = torch.linalg.eigvalsh(y @ y.mT)
        return squares[..., -1].clamp_min(0).sqrt()


def svd(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """U (..., M, K), s (..., 1, K) and V^T (..., K, N) in float64, M and N grown, K the smaller.

    Should LAPACK's fast driver not converge on a matrix, that matrix alone is done by the slow one.
    """
    y = _grown(x)
    bad = ~y.isfinite().flatten(-2).all(-1)
    y = torch.where(bad[..., None, None], 0.0, y)
    try:
        u, s, v = torch.linalg.svd(y, full_matrices=False)
    except torch.linalg.LinAlgError:  # type: ignore[attr-defined]
        u, s, v = _one_by_one(y)
    return u, torch.where(bad[..., None], torch.nan, s)[..., None, :], v


class _Truncated(Function):
    """See `truncated`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, rank: int) -> Tensor:
        u, s, v = svd(x)
        kept = _first(rank, s)
        ctx.save_for_backward(u, s, v, kept)
        return _cut(u * (s * kept) @ v, x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        u, s, v, kept = ctx.saved_tensors
        g = _grown(grad)
        a = u.mT @ g @ v.mT
        # Between a kept i and a lost j: (s_i^2 a_ij + s_i s_j a_ji) / (s_i^2 - s_j^2), and the same
        # with j, i. With r = s_j / s_i <= 1 that is (a_ij + r a_ji) / (1 - r^2).
        low, high = torch.minimum(s, s.mT), torch.maximum(s, s.mT)
        ratio = low / high.clamp_min(1e-300)
        mixed = (a + ratio * a.mT) / (1 - ratio**2).clamp_min(GAP)
        both = kept * kept.mT
        either = kept + kept.mT - 2 * both
        inner = both * a + either * mixed
        y = u @ inner @ v
        # What lies beyond the shorter side meets singular values that are 0.
        y = y + (g - u @ (u.mT @ g)) @ (v.mT * kept) @ v
        y = y + (u * kept) @ (u.mT @ (g - g @ v.mT @ v))
        return _cut(y, grad), None


def _one_by_one(y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Each matrix by the fast driver where that converges, so that its bits do not change."""
    parts: tuple[list[Tensor], ...] = ([], [], [])
    for matrix in y.reshape(-1, *y.shape[-2:]):
        try:
            found = torch.linalg.svd(matrix, full_matrices=False)
        except torch.linalg.LinAlgError:  # type: ignore[attr-defined]
            array: Any = np.ascontiguousarray(matrix.cpu().numpy())
            slow = scipy.linalg.svd(array, full_matrices=False, lapack_driver="gesvd")
            found = tuple(torch.from_numpy(part).to(y) for part in slow)
        for part, one in zip(parts, found, strict=True):
            part.append(one)
    u, s, v = (torch.stack(part) for part in parts)
    lead = y.shape[:-2]
    return u.reshape(*lead, *u.shape[1:]), s.reshape(*lead, -1), v.reshape(*lead, *v.shape[1:])


def _first(rank: int, s: Tensor) -> Tensor:
    """1 for the first `rank` singular values, else 0, of the shape of s."""
    return (torch.arange(s.shape[-1], device=s.device) < rank).to(s).expand_as(s)


def _grown(x: Tensor) -> Tensor:
    height, width = x.shape[-2:]
    return F.pad(x.double(), (0, -width % LINE, 0, -height % LINE))


def _cut(y: Tensor, like: Tensor) -> Tensor:
    return y[..., : like.shape[-2], : like.shape[-1]].to(like.dtype)
