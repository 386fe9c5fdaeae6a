"""Matrices by their singular values: truncated, projected and shrunk, batch after batch.

All comes from eigenvectors u of the smaller of x x^T and x^T x, a half to a third of the work of a
decomposition by singular values. It is exact to 1e-8 of the largest singular value at worst, as
results take u u^T x and not the smaller values themselves.

All is computed in float64 on matrices grown by zeros to sides divisible by 8: every matrix then
begins on a cache line, where the kernels of linear algebra give the same bits in any batch.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function

LINE = 8  # numbers of 8 bytes on a cache line of 64
GAP = 1e-6  # the least 1 - (s_j / s_i)^2 that a derivative divides by
NOISE = 1e-14  # squared singular values below this share of the largest are rounding


def truncated(x: Tensor, rank: int) -> Tensor:
    """The nearest matrix of rank at most `rank` to each matrix of x (..., m, n) in least squares.

    Its gradient is the true one, in closed form; differentiating the decomposition itself would
    divide by all differences of squared singular values, where only those between one that is kept
    and one that is not remain in the result. Where these two meet there is none, and 1 - (s_j /
    s_i)^2 is held above GAP. Not finite matrices become NaN.
    """
    if x.shape[-2] > x.shape[-1]:
        return truncated(x.mT, rank).mT
    out: Tensor = _Truncated.apply(x, rank)  # type: ignore[no-untyped-call]
    return out


def projected(x: Tensor, rank: int) -> Tensor:
    """P x Q, the projections on the `rank` first singular vectors of x held fixed.

    The value of `truncated`, as a linear map: (..., m, n) -> (..., m, n).
    """
    if x.shape[-2] > x.shape[-1]:
        return projected(x.mT, rank).mT
    y = _grown(x.detach())
    squares, u = _eigen(y)
    squares, u = squares[..., None, -rank:], u[..., -rank:]
    right = u.mT @ y  # s_i v_i^T
    weights = torch.where(squares > NOISE * squares[..., -1:], 1 / squares, 0.0)
    return _cut(u @ (u.mT @ _grown(x) @ right.mT * weights) @ right, x)


def shrunk(x: Tensor, amount: Tensor) -> Tensor:
    """Every singular value s of x (..., m, n), m <= n, as max(s - amount, 0); no gradient.

    amount (...). The minimiser of 1/2 ||y - x||^2 + amount ||y||_*.
    """
    with torch.no_grad():
        y = _grown(x)
        squares, u = _eigen(y)
        share = (1 - amount[..., None].double() / squares.sqrt().clamp_min(1e-300)).clamp_min(0)
        return _cut(u * share[..., None, :] @ u.mT @ y, x)


def largest(x: Tensor) -> Tensor:
    """The largest singular value of each matrix, (..., m, n) -> (...) float64; no gradient."""
    with torch.no_grad():
        gram, bad = _gram(_grown(x))
        squares: Tensor = torch.linalg.eigvalsh(gram)
        return squares[..., -1].clamp_min(0).sqrt().masked_fill(bad, torch.nan)


class _Truncated(Function):
    """See `truncated`; m <= n. The result is P x, P the projection on kept eigenvectors."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, rank: int) -> Tensor:
        y = _grown(x)
        squares, u = _eigen(y)
        ctx.save_for_backward(y, squares, u)
        ctx.rank = rank
        first = u[..., -rank:]
        return _cut(first @ (first.mT @ y), x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        y, squares, u = ctx.saved_tensors
        a, b = u.mT @ _grown(grad), u.mT @ y
        kept = torch.arange(u.shape[-1], device=u.device) >= u.shape[-1] - ctx.rank
        # dP = sum of u_j (u_j^T d(y y^T) u_i) u_i^T / (s_i^2 - s_j^2) and its transpose, over kept
        # i and lost j.
        mixed = a @ b.mT
        high, low = squares[..., :, None], squares[..., None, :]
        least = (GAP * high).maximum(NOISE * squares[..., -1:, None]).clamp_min(1e-300)
        share = (mixed + mixed.mT) / (high - low).maximum(least)
        share = share * (kept[:, None] & ~kept)
        y = u @ (kept[:, None] * a + (share + share.mT) @ b)
        return _cut(y, grad), None


def _eigen(y: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues (..., m) >= 0 of y y^T, ascending, and its eigenvectors (..., m, m)."""
    gram, bad = _gram(y)
    squares, u = torch.linalg.eigh(gram)
    return squares.clamp_min_(0), u.masked_fill_(bad[..., None, None], torch.nan)


def _gram(y: Tensor) -> tuple[Tensor, Tensor]:
    """y y^T, and where it is not finite; there it is 0, as LAPACK refuses such a batch."""
    gram = y @ y.mT
    bad = ~gram.diagonal(dim1=-2, dim2=-1).isfinite().all(-1)
    return gram.masked_fill_(bad[..., None, None], 0), bad


def _grown(x: Tensor) -> Tensor:
    height, width = x.shape[-2:]
    return F.pad(x.double(), (0, -width % LINE, 0, -height % LINE))


def _cut(y: Tensor, like: Tensor) -> Tensor:
    return y[..., : like.shape[-2], : like.shape[-1]].to(like.dtype)
