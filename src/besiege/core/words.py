"""Random words to floats, by operations that round alike everywhere.

Library logarithms and sines differ between vector and scalar code, and between devices; on some
processors square roots do, too. Here are only additions, products and bit operations on single
elements, each correctly rounded by IEEE 754 and none fused, and a square root taken in float64:
that of a float32 is never so near the middle between two float32 that its last bits could matter.
So the bits depend on the word alone. The polynomials are minimax fits of our own in relative error.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

SIGN = -(1 << 31)

# log(1 + f) / f on [sqrt(1/2) - 1, sqrt(2) - 1], relative error 3e-8.
LOG = (1.0, -0.49999988, 0.33334187, -0.25002074, 0.19956833, -0.16562393, 0.14952266,
       -0.14366843, 0.08722355)  # fmt: skip
# sin(pi x / 2) / x in x squared on [0, 1], relative error 6e-9.
SINE = (1.5707964, -0.6459637, 0.07968968, -0.0046737664, 0.00015148513)
ROOT_HALF = 0x3F3504F3  # the bits of the float32 next to sqrt(1/2)


def _horner(x: Tensor, coefficients: Sequence[float]) -> Tensor:
    """The polynomial at `x`, lowest coefficient first, rounded after each step."""
    *rest, last = coefficients
    y = x * last
    for c in reversed(rest[1:]):
        y.add_(c).mul_(x)
    return y.add_(rest[0])


def exponential(words: Tensor) -> Tensor:
    """Standard exponential from the upper 30 bits k of int32 words, float32 of the same shape.

    -log(u) for u = (2k + 1) / 2^31, relative error below 3e-7; lies in [2^-31, 31 log 2 = 21.49].
    """
    v = words.bitwise_right_shift(1).bitwise_and_(0x7FFFFFFF).bitwise_or_(1)
    # v = 2^e (1 + f) with 1 + f in [sqrt(1/2), sqrt(2)]. The difference v - 2^e is taken in
    # integers: f and so the result keep their relative accuracy where u is near 1.
    e = v.to(torch.float32).view(torch.int32).sub_(ROOT_HALF).bitwise_right_shift_(23)
    f = v.sub_(torch.bitwise_left_shift(1, e)).to(torch.float32)
    f.mul_((127 - e).bitwise_left_shift_(23).view(torch.float32))
    log = _horner(f, LOG).mul_(f)
    return e.neg_().add_(31).to(torch.float32).mul_(math.log(2)).sub_(log)


def uniform32(words: Tensor) -> Tensor:
    """Uniform in [0, 1) from the upper 24 bits of int32 words, float32 of the same shape."""
    bits = words.bitwise_right_shift(8).bitwise_and_(0xFFFFFF)
    return bits.to(torch.float32).mul_(2.0**-24)


def uniform64(words: Tensor) -> Tensor:
    """Uniform in [0, 1) from the upper 53 bits of int64 words, float64 of the same shape."""
    bits = words.bitwise_right_shift(11).bitwise_and_((1 << 53) - 1)
    return bits.to(torch.float64).mul_(2.0**-53)


def laplace(words: Tensor) -> Tensor:
    """Standard Laplace from int32 words: exponential of 30 bits, sign of the last."""
    size = exponential(words)
    size.view(torch.int32).bitwise_xor_(words.bitwise_left_shift(31))
    return size


def normal(pairs: Tensor) -> Tensor:
    """Standard normals (2, ...) float32 from int32 words (2, ...): Box and Muller (1958), eq. 1.

    Row 0 gives the radius, row 1 the angle: 31 bits for half a turn and a sign for the other
    half. The cosine is the sine of the complement, taken exactly in integers, so both keep
    their relative accuracy near zero. The largest |z| is sqrt(62 log 2) = 6.55.
    """
    radius = exponential(pairs[0]).mul_(2.0).double().sqrt_().float()
    radius.view(torch.int32).bitwise_xor_(pairs[1].bitwise_and(SIGN))
    angle = torch.empty_like(pairs)
    torch.bitwise_left_shift(pairs[1], 1, out=angle[1])
    angle[1] >>= 1  # 31 bits with sign: -2^30 is minus a quarter turn
    torch.abs(angle[1], out=angle[0])
    angle[0].neg_().add_(1 << 30)
    x = angle.to(torch.float32).mul_(2.0**-30)
    return _horner(x * x, SINE).mul_(x).mul_(radius)
