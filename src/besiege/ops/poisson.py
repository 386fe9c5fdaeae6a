"""Poisson counts from uniform numbers, by inversion."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from besiege.core.batch import in_pieces


def poisson_counts(rate: Tensor, u: Tensor) -> Tensor:
    """The least counts k with P(X <= k) > u for Poisson X of `rate`, both (B, ...) float64.

    rate: 0 to 700, above which exp(-rate) is no float; u: in [0, 1). Probabilities are summed from
    0 up, so a count depends on its own element. Cost: some rate + 12 sqrt(rate) + 30 passes over
    the tensor for the largest rate.

    >>> u = torch.tensor([0.0, 0.1353, 0.1354, 0.999], dtype=torch.float64)
    >>> poisson_counts(torch.full_like(u, 2.0), u)
    tensor([0., 0., 1., 8.], dtype=torch.float64)
    """
    return in_pieces(_summed, rate, u)


def _summed(rate: Tensor, u: Tensor) -> Tensor:
    most = float(rate.max()) if rate.numel() else 0.0
    chance = torch.exp(-rate)
    below, counts = chance.clone(), torch.zeros_like(u)
    # The rest above the last count is less than 2^-53: rounding, not chance, would go beyond.
    for k in range(1, math.ceil(most + 12 * math.sqrt(most) + 30)):
        more = u >= below
        if not bool(more.any()):
            break
        counts += more
        chance *= rate / k
        below += chance
    return counts
