"""The derivative of a total-variation minimiser with respect to the image that it completes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from besiege.core.batch import row_sum, rows
from besiege.ops.total_variation import adjoint, differences, grouped

SOFT = 1e-3  # differences well below it count as 0; measured against finite differences
STEPS = 200  # of conjugate gradients, at most
TOL = 1e-2  # residual, relative to the first, that ends them: smaller is no nearer to the truth


def attached(u: Tensor, f: Tensor, kept: Tensor, weight: float, kind: str) -> Tensor:
    """The values of u with the derivative of the minimiser of `minimise(f, kept, weight, kind)`.

    u (B, C, H, W) at or near the minimiser; kept bool. Where the norms of the variation are
    smoothed to sqrt(norm^2 + SOFT^2), kept (u - f) + weight * slope of the variation(u) = 0 defines
    u; differentiated, (kept + weight * Hessian) du = kept df. The system is symmetric, so a
    gradient g goes back as kept * (kept + weight * Hessian)^-1 g, solved by conjugate gradients
    with elementwise operations: rows do not depend on the batch.
    """
    out: Tensor = _Attached.apply(f, u, kept, weight, kind)  # type: ignore[no-untyped-call]
    return out


class _Attached(Function):
    @staticmethod
    def forward(ctx: Any, f: Tensor, u: Tensor, kept: Tensor, weight: float, kind: str) -> Tensor:
        ctx.save_for_backward(u, kept)
        ctx.settings = weight, kind
        return u.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        u, kept = ctx.saved_tensors
        weight, kind = ctx.settings
        return solved(u, kept, weight, kind, grad) * kept, None, None, None, None


def solved(u: Tensor, kept: Tensor, weight: float, kind: str, g: Tensor) -> Tensor:
    """(kept + weight * Hessian at u)^-1 g, (B, C, H, W)."""
    product, diagonal = _system(u, kept.to(u.dtype), weight, kind)
    x, r = torch.zeros_like(g), g
    z = r / diagonal
    p, rz = z, row_sum(r * z)
    end = TOL**2 * rz
    for _ in range(STEPS):
        on = rz > end
        if not bool(on.any()):
            break
        q = product(p)
        length = torch.where(on, rz / row_sum(p * q), 0)
        x = x + rows(length, x) * p
        r = r - rows(length, x) * q
        z = r / diagonal
        new = torch.where(on, row_sum(r * z), rz)
        p = torch.where(rows(on, x), z + rows(new / rz, x) * p, p)
        rz = new
    return x


def _system(
    u: Tensor, kept: Tensor, weight: float, kind: str
) -> tuple[Callable[[Tensor], Tensor], Tensor]:
    """The matrix as a function, and its diagonal but for terms between the two differences.

    The norm s of a group d has the Hessian (1 - n n^T) / s, with n = d / s.
    """
    down, right = differences(u)
    sizes = grouped(kind, torch.ones_like(u), torch.ones_like(u))
    norms = grouped(kind, down * down, right * right)
    a, b = (torch.sqrt(v + SOFT**2 * n) for v, n in zip(norms, sizes, strict=True))
    down, right = down / a, right / b
    curve_a, curve_b = weight / a, weight / b

    def product(v: Tensor) -> Tensor:
        vd, vr = differences(v)
        along_a, along_b = grouped(kind, down * vd, right * vr)
        return kept * v + adjoint((vd - down * along_a) * curve_a, (vr - right * along_b) * curve_b)

    below, beside = (1 - down * down) * curve_a, (1 - right * right) * curve_b
    diagonal = kept.clone()
    diagonal[..., :-1, :] += below[..., :-1, :]
    diagonal[..., 1:, :] += below[..., :-1, :]
    diagonal[..., :-1] += beside[..., :-1]
    diagonal[..., 1:] += beside[..., :-1]
    return product, diagonal
