"""Auto-PGD (Croce & Hein 2020, arXiv:2003.01690), and its sparse form for l1 (arXiv:2103.01208)."""

from __future__ import annotations

import math
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from besiege.attacks.attack import Attack, Problem
from besiege.attacks.wrappers.multi_targeted import multi_targeted
from besiege.core.batch import row_sum, rows
from besiege.core.errors import BadSetting

FIRST, SHORTER, SHORTEST = 0.22, 0.03, 0.06  # of the intervals between checkpoints, of all steps
RISING = 0.75  # share of steps that have to raise the loss, or the step is halved
PERIOD = 0.04  # l1: between checkpoints, of all steps
MOVED, THINNER = 0.2, 1.5  # l1: share of the entries moved at first; what its support is divided by
SETTLED = 0.95  # l1: a support that shrinks by less is at rest, and the step is shortened
LEAST = 0.1  # l1: shortest step, in units of eps


class Climb(NamedTuple):
    """A point, its past, and the step that is being fitted to it."""

    x: Tensor  # (B, C, H, W)
    before: Tensor  # (B, C, H, W) the point before
    best: Tensor  # (B, C, H, W) where the loss was largest
    best_slope: Tensor  # (B, C, H, W)
    best_loss: Tensor  # (B,)
    last_loss: Tensor  # (B,) at `before`
    checked: Tensor  # (B,) best loss at the last checkpoint
    rises: Tensor  # (B,) steps since then that raised the loss
    size: Tensor  # (B,) of a step, in units of eps
    shortened: Tensor  # (B,) bool: at the last checkpoint
    support: Tensor  # (B,) l1: changed entries of the best point at the last checkpoint
    share: Tensor  # (B,) l1: of the entries, moved by a step


@cache
def checkpoints(steps: int) -> tuple[int, ...]:
    """Steps at which the step size is looked at, w_j = ceil(p_j n) of section 3.1.

    >>> checkpoints(100)
    (22, 41, 57, 70, 80, 87, 93, 99)
    """
    shares, gap = [FIRST], FIRST
    while shares[-1] < 1:
        gap = max(gap - SHORTER, SHORTEST)
        shares.append(shares[-1] + gap)
    return tuple(sorted({math.ceil(round(s * steps, 6)) for s in shares if s < 1} - {0}))


@cache
def _sparse_checkpoints(steps: int) -> tuple[int, ...]:
    period = max(1, math.floor(PERIOD * steps))
    return tuple(range(period, steps, period))


def apgd(momentum: float = 0.75) -> Attack:
    """Steps along the steepest ascent of the cross-entropy that halve themselves; nothing to tune.

    z = P(x + h eps a(x)) and x' = P(x + m (z - x) + (1 - m) (x - x_before)) from a random start,
    h = 2 at first. At checkpoints (after 22 % of the steps, then ever more often) h is halved, and
    the search goes on from the best point, where fewer than 75 % of the steps since the last one
    raised the loss, or neither the best loss nor h have changed.
    momentum: m.
    In l1 there is no momentum: a step moves those entries by which the loss rises most, all alike
    and h eps together, from 20 % of them down to what the best point changes over 1.5; h is 1,
    divided by 1.5 down to 0.1 where the support is at rest, and 1 again where it shrinks by more
    than 5 %. Entries at a bound of [0, 1] that they would leave are not counted among those moved;
    the first rounds in larger balls are left out, as no point outside the ball may be asked.
    On a random defense losses are means over the reading's draws: take `draws` of 8 or more.
    Cost: one forward and one backward pass a draw and step.
    """
    return _attack("cross-entropy", momentum)


def apgd_dlr(momentum: float = 0.75) -> Attack:
    """As `apgd`, up the difference of logits ratio: also where the cross-entropy is flat.

    Where the threat is targeted, its targeted form. It rises along the margin: see loss `dlr`.
    momentum: of the former move.
    Cost: one forward and one backward pass a draw and step.
    """
    return _attack("dlr", momentum)


def apgd_t(targets: int = 9, momentum: float = 0.75) -> Attack:
    """As `apgd`, towards one wrong class after the other: `multi-targeted of apgd-dlr`.

    100 steps for each of nine targets is AutoAttack's budget. What rises is z_t - z_y, the
    numerator of the targeted ratio: its direction is all that a step takes, and the ratio's own,
    through its denominator, is 0 along z. Where the threat is targeted this is `apgd-dlr`.
    targets: at most all other classes, and no more than steps.
    momentum: of the former move.
    Cost: one forward and one backward pass a draw and step, and one forward a draw and target.
    """
    return multi_targeted(targets)(_attack("dlr", momentum))


def _attack(loss: str, momentum: float) -> Attack:
    if not 0 < momentum <= 1:
        raise BadSetting(f"attack apgd: momentum lies in (0, 1], got {momentum:g}.")

    def advance(p: Problem, s: Climb, t: int) -> Climb:
        reading = p.ask(s.x, t)
        assert reading.loss is not None
        assert reading.gradient is not None
        s = _noted(s, reading.loss, reading.gradient, first=t == 0)
        s, slope = _looked(p, s, reading.gradient, t)
        return _moved(p, s, slope, 1.0 if t == 0 else momentum)

    return Attack(_begin, advance, loss=loss)


def _begin(p: Problem) -> Climb:
    x = p.threat.ball.start(p.x0, p.key.fold("start"))
    low = p.x0.new_full((len(x),), -torch.inf)
    size = torch.full_like(low, 1.0 if p.threat.ball.sparse else 2.0)
    return Climb(
        x=x,
        before=x,
        best=x,
        best_slope=torch.zeros_like(x),
        best_loss=low,
        last_loss=low,
        checked=low,
        rises=torch.zeros_like(low),
        size=size,
        shortened=torch.zeros_like(low, dtype=torch.bool),
        support=torch.full_like(low, x[0].numel()),
        share=torch.full_like(low, MOVED),
    )


def _noted(s: Climb, loss: Tensor, slope: Tensor, first: bool) -> Climb:
    """What is known after the reading at s.x."""
    better = loss > s.best_loss
    return s._replace(
        best=torch.where(rows(better, s.x), s.x, s.best),
        best_slope=torch.where(rows(better, s.x), slope, s.best_slope),
        best_loss=torch.where(better, loss, s.best_loss),
        rises=s.rises if first else s.rises + (loss > s.last_loss),
        checked=loss if first else s.checked,
        last_loss=loss,
    )


def _looked(p: Problem, s: Climb, slope: Tensor, t: int) -> tuple[Climb, Tensor]:
    """After a checkpoint: steps fitted, and rows that go on from their best point there."""
    sparse = p.threat.ball.sparse
    stops = _sparse_checkpoints(p.steps) if sparse else checkpoints(p.steps)
    if t not in stops:
        return s, slope
    if sparse:
        support = row_sum((s.best != p.x0).to(slope.dtype))
        back = support < SETTLED * s.support
        size = torch.where(back, 1.0, (s.size / THINNER).clamp_min(LEAST))
        share = support / (THINNER * slope[0].numel())
        s = s._replace(size=size, support=support, share=share)
    else:
        since = t - ([0, *stops])[stops.index(t)]
        stuck = ~s.shortened & (s.checked >= s.best_loss)
        back = (s.rises < RISING * since) | stuck
        s = s._replace(
            size=torch.where(back, s.size / 2, s.size),
            shortened=back,
            checked=s.best_loss,
            rises=torch.zeros_like(s.rises),
        )
    return s._replace(
        x=torch.where(rows(back, s.x), s.best, s.x),
        last_loss=torch.where(back, s.best_loss, s.last_loss),
    ), torch.where(rows(back, slope), s.best_slope, slope)


def _moved(p: Problem, s: Climb, slope: Tensor, momentum: float) -> Climb:
    """One step from s.x."""
    ball, length = p.threat.ball, rows(s.size * p.threat.ball.eps, s.x)
    if ball.sparse:
        x = p.threat.project(s.x + length * _sparse(s, slope), p.x0)
    else:
        ahead = p.threat.project(s.x + length * ball.ascent(slope), p.x0)
        drift = momentum * (ahead - s.x) + (1 - momentum) * (s.x - s.before)
        x = ahead if momentum == 1 else p.threat.project(s.x + drift, p.x0)
    return s._replace(x=x, before=s.x)


def _sparse(s: Climb, slope: Tensor) -> Tensor:
    """Signs of the steepest entries that can move, brought to an l1 size of 1."""
    able = torch.where(slope > 0, s.x < 1, s.x > 0)
    size = torch.where(able, slope.abs(), 0).flatten(1)
    entries = size.shape[1]
    number = (s.share * entries).round().long().clamp(1, entries)
    least = size.sort(dim=1, descending=True).values.gather(1, number[:, None] - 1)[:, 0]
    kept = (size >= least[:, None]) & (size > 0)
    step = torch.where(kept.reshape(slope.shape), slope.sign(), 0)
    return step / rows(row_sum(step.abs()).clamp_min(1), slope)
