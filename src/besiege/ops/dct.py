"""The 8x8 block cosine transform of JPEG, in elementwise additions and multiplications only.

A matrix product may round differently with the number of its rows, and a quantiser turns the last
bit of a coefficient into a whole step. Here every output is a fixed sequence of correctly rounded
operations: a block's bits do not depend on the batch, the threads or the device.

The flow graph is that of Arai, Agui and Nakajima 1988, "A fast DCT-SQ scheme for images": five
multiplications for eight numbers, and one scale per coefficient at the end.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

SIDE = 8
PIECE = 6000  # blocks worked on at once (measured): more would leave the caches, fewer cost calls

_C2, _C4, _C6 = (math.cos(k * math.pi / 16) for k in (2, 4, 6))


def dct(x: Tensor) -> Tensor:
    """Orthonormal DCT-II of each block, C X C^T with C C^T = 1.

    x (B, C, 8h, 8w) -> (8, 8, B, C, h, w): row and column of the coefficient, then which block.
    The coefficients with basis +-1/8 are exact for whole numbers below 2^18, so that ties of a
    quantiser are ties there on every machine.

    >>> dct(torch.ones(1, 1, 8, 8))[:2, :2].flatten()
    tensor([8., 0., 0., 0.])
    """
    b, c, height, width = x.shape
    sums = _Analysis.apply(x.reshape(b * c * height // SIDE, SIDE, width))  # type: ignore[no-untyped-call]
    scaled: Tensor = sums * _scale(sums)
    return scaled.reshape(SIDE, SIDE, b, c, height // SIDE, width // SIDE)


def idct(coefficients: Tensor) -> Tensor:
    """The inverse of `dct`: C^T Y C, (8, 8, B, C, h, w) -> (B, C, 8h, 8w)."""
    _, _, b, c, h, w = coefficients.shape
    y = coefficients.reshape(SIDE, SIDE, b * c * h, w)
    x: Tensor = _Synthesis.apply(y * _scale(y))  # type: ignore[no-untyped-call]
    return x.reshape(b, c, SIDE * h, SIDE * w)


def requantised(
    x: Tensor, table: Tensor, rounding: Callable[[Tensor], Tensor], white: float = 1.0
) -> Tensor:
    """Every block's coefficients in whole steps: C^T (Q rounding(C X C^T / Q)) C.

    x (B, C, 8h, 8w), of which 1 is `white` grey levels; table Q in grey levels, (8, 8) or
    (8, 8, B); rounding, for instance torch.round (half to even). Differentiable in x as far as the
    rounding is.

    >>> requantised(torch.full((1, 1, 8, 8), 14.0), torch.full((8, 8), 80.0), torch.round).max()
    tensor(10.)
    """
    b, c, height, width = x.shape
    strips = x.reshape(b * c * height // SIDE, SIDE, width)
    if table.ndim == 3:  # a table for each strip
        table = table.repeat_interleave(c * height // SIDE, 2)
    table = table.reshape(SIDE, SIDE, -1, 1).to(x)
    scale = _scale(table)
    steps = (table / scale).expand(-1, -1, len(strips), -1)
    back = (table * scale / white).expand(-1, -1, len(strips), -1)
    if x.requires_grad and torch.is_grad_enabled():
        y = rounding(_Analysis.apply(strips * white) / steps)  # type: ignore[no-untyped-call]
        out: Tensor = _Synthesis.apply(y * back)  # type: ignore[no-untyped-call]
        return out.reshape(x.shape)
    out = torch.empty_like(strips)
    rows = max(1, PIECE * SIDE // width)
    pieces = (torch.split(t, rows, i) for t, i in ((strips, 0), (steps, 2), (back, 2), (out, 0)))
    for piece, step, factor, done in zip(*pieces, strict=True):
        y = rounding(_analysed(piece * white).div_(step))
        _synthesise(y.mul_(factor), done)
    return out.reshape(x.shape)


class _Analysis(Function):
    """`_analysed` with its gradient."""

    @staticmethod
    def forward(ctx: Any, strips: Tensor) -> Tensor:
        return _analysed(strips)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        return _Synthesis.apply(grad)  # type: ignore[no-untyped-call]


class _Synthesis(Function):
    """`_synthesise` with its gradient."""

    @staticmethod
    def forward(ctx: Any, y: Tensor) -> Tensor:
        _, _, count, w = y.shape
        strips = y.new_empty(count, SIDE, w * SIDE)
        _synthesise(y, strips)
        return strips

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        return _Analysis.apply(grad)  # type: ignore[no-untyped-call]


def _analysed(strips: Tensor) -> Tensor:
    """Cosine sums over each block but for `_scale`: strips (R, 8, 8w) -> (8, 8, R, w)."""
    count, _, width = strips.shape
    half = strips.new_empty(SIDE, count, width)
    _sums(strips.unbind(1), half.unbind(0))
    out = strips.new_empty(SIDE, SIDE, count, width // SIDE)
    _sums(half.reshape(SIDE, count, width // SIDE, SIDE).unbind(3), out.unbind(1))
    return out


def _synthesise(y: Tensor, strips: Tensor) -> None:
    """The transpose of `_analysed`, (8, 8, R, w), into strips (R, 8, 8w)."""
    _, _, count, w = y.shape
    half = y.new_empty(SIDE, count, w, SIDE)
    _transposed(y.unbind(1), half.unbind(3))
    _transposed(half.reshape(SIDE, count, w * SIDE).unbind(0), strips.unbind(1))


def _sums(v: Sequence[Tensor], out: Sequence[Tensor]) -> None:
    """The DCT-II of eight numbers but for a factor of each output; in place where it can be."""
    s0, s1, s2, s3 = (v[i] + v[7 - i] for i in range(4))
    d0, d1, d2, d3 = (v[i] - v[7 - i] for i in range(4))

    outer, inner, rest = s0 + s3, s1 + s2, s0.sub_(s3)
    turn = s1.sub_(s2).add_(rest).mul_(_C4)
    torch.add(outer, inner, out=out[0])
    torch.sub(outer, inner, out=out[4])
    torch.add(rest, turn, out=out[2])
    torch.sub(rest, turn, out=out[6])

    a, b, c = d3.add_(d2), d2.add_(d1).mul_(_C4), d1.add_(d0)
    both = (a - c).mul_(_C6)
    low, high = a.mul_(_C2 - _C6).add_(both), c.mul_(_C2 + _C6).add_(both)
    plus, minus = d0 + b, d0.sub_(b)
    torch.add(plus, high, out=out[1])
    torch.sub(plus, high, out=out[7])
    torch.add(minus, low, out=out[5])
    torch.sub(minus, low, out=out[3])


def _transposed(v: Sequence[Tensor], out: Sequence[Tensor]) -> None:
    """`_sums` with its flow graph turned round: the transposed matrix."""
    outer, inner, rest = v[0] + v[4], v[0] - v[4], v[2] + v[6]
    turn = (v[2] - v[6]).mul_(_C4)
    rest.add_(turn)
    s = outer + rest, inner + turn, inner.sub_(turn), outer.sub_(rest)

    plus, high, minus, low = v[1] + v[7], v[1] - v[7], v[5] + v[3], v[5] - v[3]
    both = (low + high).mul_(_C6)
    b = (plus - minus).mul_(_C4)
    a, c = low.mul_(_C2 - _C6).add_(both), high.mul_(_C2 + _C6).sub_(both)
    d = plus.add_(minus).add_(c), c.add_(b), b.add_(a), a

    for i in range(4):
        torch.add(s[i], d[i], out=out[i])
        torch.sub(s[i], d[i], out=out[7 - i])


def _scale(like: Tensor) -> Tensor:
    """(8, 8, 1, 1): what makes the two sums of a block orthonormal."""
    k = torch.arange(SIDE, dtype=torch.float64)
    one = 1 / (16 * (k * math.pi / 16).cos() ** 2)
    one[0] = one[4] = 0.125
    return (one[:, None] * one).sqrt().to(like)[:, :, None, None]
