"""Matrices of low rank from some of their entries: what is missing is filled in.

a (..., m, n), m <= n, are the entries, kept (..., m, n) bool tells which of them are known. Each
matrix stops by itself, so that its numbers do not depend on the others.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from besiege.core.batch import row_sum
from besiege.ops.low_rank import largest, shrunk, truncated

# One matrix a row: (x, rows) -> the next x of these rows, and whether each of them is done.
Step = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def usvt(a: Tensor, kept: Tensor, share: Tensor, values: int) -> Tensor:
    """The first `values` singular values of a with 0 for what is missing, over the known `share`.

    share (..., 1, 1) in (0, 1]. Differentiable. Universal singular value thresholding (Chatterjee
    2015, arXiv:1212.1247) as ME-Net's code has it: a number of values in place of a threshold.
    """
    return truncated(torch.where(kept, a, 0.0), values) / share


def soft_impute(a: Tensor, kept: Tensor, steps: int = 100, within: float = 1e-3) -> Tensor:
    """The known entries as they are, the missing ones by repeated shrinking; no gradient.

    From 0, the missing entries become those of x with its singular values shrunk by 1/50 of the
    first x's largest, until they change by less than `within` of their norm. Mazumder et al. 2010,
    "Spectral regularization", as the package fancyimpute has it.
    Cost: up to `steps` eigendecompositions, m x m.
    """
    known = kept.flatten(0, -3)
    start = torch.where(kept, a, 0.0).double().flatten(0, -3)
    amount = largest(start) / 50

    def step(x: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        y = torch.where(known[rows], x, shrunk(x, amount[rows]))
        before = row_sum(torch.where(known[rows], 0.0, x) ** 2).sqrt()
        moved = row_sum((y - x) ** 2).sqrt()
        return y, (moved < within * before) | known[rows].flatten(1).all(1)

    return _until_done(start, step, steps).reshape(a.shape).to(a.dtype)


def nuclear(
    a: Tensor, kept: Tensor, weight: float = 1.0, steps: int = 2000, within: float = 1e-6
) -> Tensor:
    """The x of least weight ||x||_* + sum over the known entries of (x - a)^2; no gradient.

    Candes and Recht 2009 (arXiv:0805.4471) with noise, by accelerated proximal gradient steps (Beck
    and Teboulle 2009, "FISTA") that begin anew where they turn back (O'Donoghue and Candes 2015,
    arXiv:1204.3982), until x moves by less than `within` of its norm.
    Cost: some 100 eigendecompositions, m x m.
    """
    known = kept.flatten(0, -3)
    data = torch.where(kept, a, 0.0).double().flatten(0, -3)
    ahead = data.clone()
    time = data.new_ones(len(data))
    amount = data.new_full((len(data),), weight / 2)

    def step(x: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        seen, t = ahead[rows], time[rows]
        y = shrunk(torch.where(known[rows], data[rows], seen), amount[rows])
        back = row_sum((seen - y) * (y - x)) > 0
        later = torch.where(back, 1.0, (1 + (1 + 4 * t**2).sqrt()) / 2)
        speed = torch.where(back, 0.0, (t - 1) / later)
        ahead[rows] = y + speed[:, None, None] * (y - x)
        time[rows] = later
        moved = row_sum((y - x) ** 2).sqrt()
        return y, moved <= within * row_sum(y**2).sqrt()

    return _until_done(data, step, steps).reshape(a.shape).to(a.dtype)


def _until_done(x: Tensor, step: Step, steps: int) -> Tensor:
    """x (R, m, n) after at most `steps` steps, of the rows alone that are not done."""
    with torch.no_grad():
        x, rows = x.clone(), torch.arange(len(x), device=x.device)
        for _ in range(steps):
            if len(rows) == 0:
                break
            x[rows], done = step(x[rows], rows)
            rows = rows[~done]
        return x
