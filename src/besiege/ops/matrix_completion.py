"""Matrices of low rank from some of their entries: what is missing is filled in.

a (..., m, n), m <= n, are the entries, kept (..., m, n) bool tells which of them are known. Each
matrix stops by itself, so that its numbers do not depend on the others.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from besiege.core.batch import row_sum, take
from besiege.ops.low_rank import largest, shrunk, truncated

Parts = tuple[Tensor, ...]  # first axis R, a matrix a row
Step = Callable[[Parts], tuple[Parts, Tensor]]  # the next parts, and which rows are done (R,)


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
    data, missing = _split(a, kept)

    def step(parts: Parts) -> tuple[Parts, Tensor]:
        guess, data, missing, amount = parts
        new = shrunk(data + guess, amount).mul_(missing)
        moved, before = row_sum((new - guess) ** 2).sqrt(), row_sum(guess**2).sqrt()
        return (new, data, missing, amount), moved <= within * before

    start = torch.zeros_like(data), data, missing, largest(data) / 50
    return (data + _until_done(start, step, steps)).reshape(a.shape).to(a.dtype)


def nuclear(
    a: Tensor, kept: Tensor, weight: float = 1.0, steps: int = 2000, within: float = 1e-6
) -> Tensor:
    """The x of least weight ||x||_* + sum over the known entries of (x - a)^2; no gradient.

    Candes and Recht 2009 (arXiv:0805.4471) with noise, by accelerated proximal gradient steps (Beck
    and Teboulle 2009, "FISTA") that begin anew where they turn back (O'Donoghue and Candes 2015,
    arXiv:1204.3982), until x moves by less than `within` of its norm.
    Cost: some 100 eigendecompositions, m x m.
    """
    data, missing = _split(a, kept)

    def step(parts: Parts) -> tuple[Parts, Tensor]:
        x, seen, t, data, missing = parts
        y = shrunk(torch.addcmul(data, missing, seen), t.new_full(t.shape, weight / 2))
        back = row_sum((seen - y) * (y - x)) > 0
        later = torch.where(back, 1.0, (1 + (1 + 4 * t**2).sqrt()) / 2)
        speed = torch.where(back, 0.0, (t - 1) / later)
        seen = y + speed[:, None, None] * (y - x)
        moved = row_sum((y - x) ** 2).sqrt()
        return (y, seen, later, data, missing), moved <= within * row_sum(y**2).sqrt()

    start = data, data, data.new_ones(len(data)), data, missing
    return _until_done(start, step, steps).reshape(a.shape).to(a.dtype)


def _split(a: Tensor, kept: Tensor) -> Parts:
    """The known entries, 0 for others, and 1 for what is missing, each (R, m, n) float64."""
    known, entries = kept.flatten(0, -3), a.detach().flatten(0, -3)
    return torch.where(known, entries, 0.0).double(), (~known).double()


def _until_done(parts: Parts, step: Step, steps: int) -> Tensor:
    """The first part after at most `steps` steps, of the rows alone that are not done."""
    with torch.no_grad():
        out, rows = parts[0].clone(), torch.arange(len(parts[0]), device=parts[0].device)
        for _ in range(steps):
            if len(rows) == 0:
                break
            parts, done = step(parts)
            if bool(done.any()):
                out[rows[done]] = parts[0][done]
                parts, rows = take((parts, rows), ~done)
        out[rows] = parts[0]
        return out
