"""The 8x8 block cosine transform of JPEG, in elementwise additions and multiplications only.

A matrix product may round differently with the number of its rows, and a quantiser turns the last
bit of a coefficient into a whole step. Here every output is a fixed sequence of correctly rounded
operations: a block's bits do not depend on the batch, the threads or the device.

Blocks are tensors (8, 8, B, C, h, w): row and column within the block, then which block.
The flow graph is that of Arai, Agui and Nakajima 1988, "A fast DCT-SQ scheme for images": five
multiplications for eight numbers, and one scale per coefficient at the end.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

SIDE = 8
PIECE = 2048  # blocks worked on at once: half a megabyte of float32, so that all stays in cache

_C2, _C4, _C6 = (math.cos(k * math.pi / 16) for k in (2, 4, 6))


def split(x: Tensor) -> Tensor:
    """(B, C, 8h, 8w) -> blocks (8, 8, B, C, h, w)."""
    b, c, height, width = x.shape
    parts = x.reshape(b, c, height // SIDE, SIDE, width // SIDE, SIDE)
    return parts.permute(3, 5, 0, 1, 2, 4).contiguous()


def join(blocks: Tensor) -> Tensor:
    """The inverse of `split`: blocks (8, 8, B, C, h, w) -> (B, C, 8h, 8w)."""
    _, _, b, c, h, w = blocks.shape
    return blocks.permute(2, 3, 4, 0, 5, 1).reshape(b, c, SIDE * h, SIDE * w)


def dct(blocks: Tensor) -> Tensor:
    """Orthonormal DCT-II of each block: C X C^T with C C^T = 1.

    The coefficients with basis +-1/8 are exact for whole numbers below 2^18, so that ties of a
    quantiser are ties there on every machine.

    >>> dct(torch.ones(8, 8, 1, 1, 1, 1))[:2, :2].flatten()
    tensor([8., 0., 0., 0.])
    """
    return _forward(_forward(blocks, 0), 1) * _scale(blocks)


def idct(coefficients: Tensor) -> Tensor:
    """The inverse of `dct`: C^T Y C."""
    return _transposed(_transposed(coefficients * _scale(coefficients), 0), 1)


def requantised(x: Tensor, table: Tensor, rounding: Callable[[Tensor], Tensor]) -> Tensor:
    """Every block's coefficients in whole steps: C^T (Q rounding(C X C^T / Q)) C.

    x (B, C, 8h, 8w) in grey levels; table Q (8, 8) in the same unit; rounding, for instance
    torch.round (half to even). Differentiable in x as far as the rounding is.

    >>> requantised(torch.full((1, 1, 8, 8), 14.0), torch.full((8, 8), 80.0), torch.round).max()
    tensor(10.)
    """
    b, c, height, width = x.shape
    table = table.to(x)[..., None, None, None, None]
    scale = _scale(table)
    steps, back = table / scale, table * scale
    strips = x.reshape(b * c * height // SIDE, 1, SIDE, width)
    done = []
    for piece in torch.split(strips, max(1, PIECE * SIDE // width)):
        y = _forward(_forward(split(piece), 0), 1) / steps
        done.append(join(_transposed(_transposed(rounding(y) * back, 0), 1)))
    return torch.cat(done).reshape(x.shape)


def _forward(x: Tensor, axis: int) -> Tensor:
    """The DCT-II along `axis` but for a factor of each output; see `_scale`."""
    v = x.unbind(axis)
    s0, s1, s2, s3 = (v[i] + v[7 - i] for i in range(4))
    d0, d1, d2, d3 = (v[i] - v[7 - i] for i in range(4))

    outer, inner, rest = s0 + s3, s1 + s2, s0 - s3
    turn = (s1 - s2 + rest) * _C4

    a, b, c = d3 + d2, (d2 + d1) * _C4, d1 + d0
    both = (a - c) * _C6
    low, high = a * (_C2 - _C6) + both, c * (_C2 + _C6) + both
    plus, minus = d0 + b, d0 - b
    even = outer + inner, rest + turn, outer - inner, rest - turn
    odd = plus + high, minus - low, minus + low, plus - high
    return torch.stack([y for pair in zip(even, odd, strict=True) for y in pair], axis)


def _transposed(y: Tensor, axis: int) -> Tensor:
    """`_forward` with its flow graph turned round: the transposed matrix."""
    v = y.unbind(axis)
    outer, inner, rest = v[0] + v[4], v[0] - v[4], v[2] + v[6]
    turn = (v[2] - v[6]) * _C4
    rest = rest + turn
    s = outer + rest, inner + turn, inner - turn, outer - rest

    plus, high, minus, low = v[1] + v[7], v[1] - v[7], v[5] + v[3], v[5] - v[3]
    both = (low + high) * _C6
    a, b, c = low * (_C2 - _C6) + both, (plus - minus) * _C4, high * (_C2 + _C6) - both
    d = plus + minus + c, b + c, a + b, a
    ends = zip(s, d, strict=True)
    first, last = zip(*((p + q, p - q) for p, q in ends), strict=True)
    return torch.stack([*first, *reversed(last)], axis)


def _scale(like: Tensor) -> Tensor:
    """(8, 8, 1, ...): what makes the two sums of `_forward` orthonormal."""
    k = torch.arange(SIDE, dtype=torch.float64)
    one = 1 / (16 * (k * math.pi / 16).cos() ** 2)
    one[0] = one[4] = 0.125
    two = (one[:, None] * one).sqrt().to(like)
    return two.reshape(SIDE, SIDE, *([1] * (like.ndim - 2)))
