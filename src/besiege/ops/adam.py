"""Adam's step for rows that are each as old as they are (Kingma & Ba 2015, arXiv:1412.6980)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from besiege.core.batch import linf, rows

FIRST, SECOND, TINY = 0.9, 0.999, 1e-8


class Moments(NamedTuple):
    """Decayed means of a gradient and of its square, of rows that took `age` steps."""

    first: Tensor  # (B, ...)
    second: Tensor  # (B, ...)
    age: Tensor  # (B,) float

    @classmethod
    def none(cls, x: Tensor) -> Moments:
        """Of rows like x that took no step."""
        return cls(torch.zeros_like(x), torch.zeros_like(x), x.new_zeros(len(x)))

    def forget(self, which: Tensor) -> Moments:
        """The rows `which`, (B,) bool, begin anew."""
        keep = ~which
        return Moments(*(part * rows(keep, part) for part in self))


def adam(moments: Moments, gradient: Tensor) -> tuple[Tensor, Moments]:
    """The step to subtract, at rate 1, and the new moments.

    Adam's constant 1e-8 stands by itself; here it is relative to the row's largest entry, so that
    scaled losses move alike.

    >>> x = torch.tensor([[3.0], [0.0]])
    >>> adam(Moments.none(x), x)[0].round()
    tensor([[1.],
            [0.]])
    """
    first = FIRST * moments.first + (1 - FIRST) * gradient
    second = SECOND * moments.second + (1 - SECOND) * gradient**2
    age = moments.age + 1
    mean = first / rows(1 - FIRST**age, gradient)
    spread = (second / rows(1 - SECOND**age, gradient)).sqrt()
    floor = (TINY * linf(spread)).clamp_min(1e-30)
    return mean / (spread + rows(floor, spread)), Moments(first, second, age)
