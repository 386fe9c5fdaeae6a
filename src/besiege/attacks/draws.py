"""How many draws a step needs: the gradient noise scale, turned into a cosine."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from besiege.attacks.attack import Problem
from besiege.core.batch import by_example, fold_sum, row_sum
from besiege.core.errors import BadSetting


def draws_for(
    problem: Problem,
    x: Tensor | None = None,
    *,
    cosine: float = 0.9,
    pilots: int = 8,
    most: int = 64,
) -> Tensor:
    """Draws after which the mean gradient at x has this cosine with the true mean, (B,) int64.

    x: (B, C, H, W); the clean images if None. cosine: in (0, 1). pilots: >= 2 single-draw gradients
    to judge by. most: the answer where more, or no number of draws, would do.
    A mean of n draws is m + e with E|e|^2 = S / n, where m is the true mean gradient and S the
    trace of the draws' covariance. Noise in many dimensions is all but orthogonal to m, so the
    cosine is |m| / sqrt(|m|^2 + S / n), and n = S / |m|^2 * c^2 / (1 - c^2). The ratio S / |m|^2 is
    the simple noise scale of McCandlish et al. 2018 (arXiv:1812.06162). From N
    pilots g: S = sum |g - mean|^2 / (N - 1) and |m|^2 = |mean|^2 - S / N, both without bias.
    Cost: `pilots` forward and backward passes. Raises BudgetSpent, and BadSetting where the threat
    grants no gradients.
    """
    if not 0 < cosine < 1:
        raise BadSetting(f"draws_for: cosine lies between 0 and 1, both excluded, got {cosine:g}.")
    if pilots < 2 or most < 1:
        raise BadSetting(
            f"draws_for: pilots >= 2 and most >= 1 are needed, got {pilots} and {most}."
        )
    here = problem.x0 if x is None else x
    slopes = []
    for i in range(pilots):
        reading = problem.oracle(here, problem.goal, problem.key.fold("pilot", i), draws=1)
        assert reading.gradient is not None
        slopes.append(reading.gradient.double().flatten(1))
    pilot = torch.stack(slopes, 1)  # (B, N, D)
    mean = by_example(fold_sum(pilot) / pilots, 1)
    scatter = row_sum((pilot - mean) ** 2) / (pilots - 1)
    signal = row_sum(mean**2) - scatter / pilots
    need = scatter / signal.clamp_min(1e-300) * cosine**2 / (1 - cosine**2)
    need = torch.where(signal > 0, need, torch.where(scatter > 0, math.inf, 0.0))
    return need.ceil().clamp(1, most).long()
