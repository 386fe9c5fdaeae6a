"""Box-constrained L-BFGS (Szegedy et al. 2014, arXiv:1312.6199, section 4.1)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from besiege.attacks.attack import EUCLIDEAN, Attack, Problem, met
from besiege.core.batch import row_sum, rows
from besiege.core.errors import BadSetting

ENOUGH = 1e-4  # of the decrease that the slope promises: Armijo's
FIRST = 0.1  # l2 length of a step along the plain gradient
CURVED = 1e-10  # s.y at least this much of y.y, else the pair is not kept
SHORTEST = 1e-3  # of a direction: beyond that a trial is taken as it is; noise may have misled it
GROWTH = 10.0  # of a c that never met the goal
LARGEST = 1e10


class Curved(NamedTuple):
    """The trial point, the point that it set out from, and the search over c."""

    x: Tensor  # (B, C, H, W) the trial
    base: Tensor  # (B, C, H, W)
    slope: Tensor  # (B, C, H, W) of the objective at base
    value: Tensor  # (B,) objective at base, infinite at the start of a search
    direction: Tensor  # (B, C, H, W)
    scale: Tensor  # (B,) of the direction in the trial
    moves: Tensor  # (B, m, C, H, W) latest last; zero where there is none
    turns: Tensor  # (B, m, C, H, W) changes of the slope
    age: Tensor  # (B,) int64 readings in this search
    c: Tensor  # (B,)
    low: Tensor  # (B,)
    high: Tensor  # (B,)
    hit: Tensor  # (B,) bool: base meets the goal, not just a trial


def l_bfgs(c: float = 1.0, searches: int = 5, memory: int = 5) -> Attack:
    """Projected L-BFGS on ||x - x0||_2^2 - c loss, and a search for the smallest c.

    The loss is cross-entropy, as published; each trial is a point base + s d, clipped to [0, 1],
    with d from the last `memory` moves; s is halved until Armijo's condition holds.
    c: of the first search; ten times as much after each that fails, then halfway between the
        largest that failed and the smallest that met the goal. Each example has its own.
    searches: into which the steps are divided, each from the clean image.
    memory: moves from which the curvature is taken.
    As published it is targeted; here untargeted as well. Theirs moves one image at a time by
    Fortran's L-BFGS-B; here the bounds are held by projection, for all examples at once.
    Cost: one forward and one backward pass a draw and step.
    """
    if not (c > 0 and searches >= 1 and memory >= 1):
        raise BadSetting(
            "attack l-bfgs takes c > 0, searches >= 1 and memory >= 1, got "
            f"{c:g}, {searches} and {memory}."
        )

    def init(p: Problem) -> Curved:
        zero, each = torch.zeros_like(p.x0), p.x0.new_ones(len(p.x0))
        history = p.x0.new_zeros(len(p.x0), memory, *p.x0.shape[1:])
        return Curved(
            p.x0, p.x0, zero, torch.inf * each, zero, each, history, history,
            torch.zeros_like(p.goal), c * each, 0 * each, torch.inf * each, each < 0,
        )  # fmt: skip

    def advance(p: Problem, s: Curved, t: int) -> Curved:
        reading = p.ask(s.x, t)
        assert reading.loss is not None
        assert reading.gradient is not None
        value = row_sum((s.x - p.x0) ** 2) - s.c * reading.loss
        slope = 2 * (s.x - p.x0) - rows(s.c, s.x) * reading.gradient
        fall = row_sum(s.slope * (s.x - s.base))
        good = (value <= s.value + ENOUGH * fall) | (s.scale < SHORTEST)
        s = s._replace(hit=torch.where(good, met(reading), s.hit), age=s.age + 1)
        accepted = _take(s, good, value, slope)
        x = p.threat.project(accepted.base + rows(accepted.scale, s.x) * accepted.direction, p.x0)
        return _next_search(p, accepted._replace(x=x), p.steps // searches, searches > 1)

    return Attack(init, advance, balls=EUCLIDEAN, nearest=True)


def _take(s: Curved, good: Tensor, value: Tensor, slope: Tensor) -> Curved:
    """The good trials become the base and get a new direction; others try half as far."""
    wide = rows(good, s.x)
    move, turn = s.x - s.base, slope - s.slope
    kept = good & s.value.isfinite() & (row_sum(move * turn) > CURVED * row_sum(turn**2))
    moves, turns = (
        torch.where(rows(kept, old), torch.cat([old[:, 1:], new[:, None]], 1), old)
        for old, new in ((s.moves, move), (s.turns, turn))
    )
    # An entry at its bound that would leave it stays out of the step.
    free = ((s.x > 0) | (slope < 0)) & ((s.x < 1) | (slope > 0))
    way = -_inverse(slope * free, moves, turns) * free
    return s._replace(
        base=torch.where(wide, s.x, s.base),
        slope=torch.where(wide, slope, s.slope),
        value=torch.where(good, value, s.value),
        direction=torch.where(wide, way, s.direction),
        scale=torch.where(good, 1, s.scale / 2),
        moves=moves,
        turns=turns,
    )


def _inverse(slope: Tensor, moves: Tensor, turns: Tensor) -> Tensor:
    """The inverse Hessian of the pairs times the slope: two loops over the pairs.

    Without a pair the slope is brought to length `FIRST`.
    """
    q, shares = slope, []
    weights = [row_sum(a * b) for a, b in zip(moves.unbind(1), turns.unbind(1), strict=True)]
    weights = [torch.where(w > 0, 1 / w.clamp_min(1e-30), 0) for w in weights]
    for i in reversed(range(len(weights))):
        shares.append(weights[i] * row_sum(moves[:, i] * q))
        q = q - rows(shares[-1], q) * turns[:, i]
    bend = weights[-1] * row_sum(turns[:, -1] ** 2)
    plain = FIRST / row_sum(slope**2).sqrt().clamp_min(1e-30)
    q = q * rows(torch.where(bend > 0, 1 / bend.clamp_min(1e-30), plain), q)
    for i, share in enumerate(reversed(shares)):
        q = q + rows(share - weights[i] * row_sum(turns[:, i] * q), q) * moves[:, i]
    return q


def _next_search(p: Problem, s: Curved, length: int, more: bool) -> Curved:
    """Rows whose search is over begin the next one, at the clean image."""
    over = (s.age >= max(1, length)) & more
    low = torch.where(over & ~s.hit, torch.maximum(s.low, s.c), s.low)
    high = torch.where(over & s.hit, torch.minimum(s.high, s.c), s.high)
    following = torch.where(high.isfinite(), (low + high) / 2, (s.c * GROWTH).clamp_max(LARGEST))
    keep, clean = ~over, rows(over, s.x)
    return s._replace(
        x=torch.where(clean, p.x0, s.x),
        base=torch.where(clean, p.x0, s.base),
        value=s.value.masked_fill(over, torch.inf),
        moves=s.moves * rows(keep, s.moves),
        turns=s.turns * rows(keep, s.turns),
        age=s.age * keep,
        c=torch.where(over, following, s.c),
        low=low,
        high=high,
        hit=s.hit & keep,
    )
