"""The linf attack of Carlini & Wagner 2017 (arXiv:1608.04644), section VI C."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from besiege.attacks.attack import Attack, Problem, met
from besiege.core.batch import linf, rows
from besiege.core.errors import BadSetting
from besiege.ops.adam import Moments, adam


class Tightening(NamedTuple):
    """A point, and the bound tau under which a success is looked for; rows are rounds apart."""

    x: Tensor  # (B, C, H, W)
    moments: Moments  # their age is that of the round
    tau: Tensor  # (B,)
    low: Tensor  # (B,) the largest tau that failed, or 0
    high: Tensor  # (B,) size of the nearest success, infinite before one
    c: Tensor  # (B,)


def cw_linf(
    rate: float = 0.02,
    tau: float = 0.1,
    shrink: float = 0.9,
    c: float = 0.1,
    patience: int = 20,
) -> Attack:
    """Adam on c max(-margin, 0) + sum_i max(|x_i - x0_i| - tau, 0), tau falling with each success.

    The largest change alone has a gradient in one pixel only; the sum has one in all beyond tau.
    rate: of Adam, in units of tau, so that steps shrink with it.
    tau: of the first round, or the ball's radius if that is less.
    shrink: a success of size s sets tau to shrink s, or halfway from the largest tau that failed to
        s if that is more; the next round begins there, clipped to tau.
    c: doubled when a round fails without any success so far.
    patience: steps of a round. Once it failed below a success, tau goes halfway up to that.
    As published, tau begins at 1, falls by 0.9 and the search ends at its first failure; c begins
    anew in each round. Bisection goes on from there, and steps in units of tau need no doubling of
    c by many orders. Pixels are moved and clipped (no tanh).
    Cost: one forward and one backward pass a draw and step.
    """
    if not (rate > 0 and tau > 0 and 0 < shrink < 1 and c > 0 and patience >= 1):
        raise BadSetting(
            "attack cw-linf takes rate > 0, tau > 0, 0 < shrink < 1, c > 0 and patience >= 1, got "
            f"{rate:g}, {tau:g}, {shrink:g}, {c:g} and {patience}."
        )

    def init(p: Problem) -> Tightening:
        each = p.x0.new_ones(len(p.x0))
        first = min(tau, p.threat.ball.eps)
        none = Moments.none(p.x0)
        return Tightening(p.x0, none, first * each, 0 * each, torch.inf * each, c * each)

    def advance(p: Problem, s: Tightening, t: int) -> Tightening:
        reading = p.ask(s.x, t)
        assert reading.loss is not None
        assert reading.gradient is not None
        shift = s.x - p.x0
        size, success = linf(shift), met(reading)
        better = success & (size < s.high)
        high = torch.where(better, size, s.high)
        failed = ~better & (s.moments.age + 1 >= patience)
        low = torch.where(failed & high.isfinite(), torch.maximum(s.low, s.tau), s.low)
        low = torch.minimum(low, high)
        middle = (low + high) / 2
        bound = torch.where(better, torch.maximum(shrink * high, middle), s.tau)
        bound = torch.where(failed & high.isfinite(), middle, bound)
        strength = torch.where(failed & high.isinf(), 2 * s.c, s.c)
        beyond = (shift.abs() > rows(bound, shift)) * shift.sign()
        push = rows(s.c * (reading.loss <= 0), shift) * reading.gradient
        moments = s.moments.forget(better | failed)
        step, moments = adam(moments, beyond - push)
        reach = rows(torch.where(better, bound, torch.inf), shift)
        begun = p.x0 + shift.clamp(-reach, reach)
        x = (begun - rate * rows(bound, shift) * step).clamp(0, 1)
        return Tightening(p.threat.project(x, p.x0), moments, bound, low, high, strength)

    return Attack(init, advance, balls=("linf", "box"), loss="margin", nearest=True)
