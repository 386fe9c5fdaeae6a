"""SurFree (Maho et al. 2021, arXiv:2011.12807): by labels alone, without estimating gradients."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from besiege.attacks.attack import EUCLIDEAN, Attack, Problem
from besiege.attacks.decisions import admitted, bisected, meets, started
from besiege.core.batch import l2, row_sum, rows
from besiege.core.errors import BadSetting


class Arc(NamedTuple):
    """A point at the boundary, and how far along a circle the next ones are looked for."""

    x: Tensor  # (B, C, H, W)
    angle: Tensor  # (B,) radians
    done: Tensor  # (B,) bool: no start was found


def surfree(
    angle: float = 30.0,
    levels: int = 2,
    rounds: int = 3,
    images: int = 14,
    start_rounds: int = 10,
    repeats: int | None = None,
) -> Attack:
    """Turn towards random directions on circles whose every point but one is nearer.

    Let u lead from the clean image to the boundary point at distance d, and v be random, orthogonal
    to it. The points x0 + d cos a (cos a u + sin a v) lie on the half circle over that way, at
    distance d cos a. Each step asks +-a, +-a / 2, ... and bisects from the widest success outwards.
    angle: the widest a in degrees. It grows by 1.2 after a success at the widest, else shrinks by
        0.9; the paper keeps it at 30 degrees and tries one angle after another.
    levels: angles asked on either side. rounds: decisions of the bisection.
    images, start_rounds: random images of the start, at 6 blends each, and its bisection.
    repeats: draws of a decision, for random defenses; None for those of every reading.
    The directions are normal, not of low frequencies.
    Cost: 2 levels + rounds points a step; the first 6 images + start_rounds more. The limit of
    passes ends the search: give more steps than fit.
    """
    if min(levels, images, start_rounds) < 1 or rounds < 0 or not 0 < angle < 90:
        raise BadSetting(
            "attack surfree: levels, images and start_rounds are at least 1, rounds at least 0 "
            f"and angle in (0, 90), got {levels}, {images}, {start_rounds}, {rounds}, {angle:g}."
        )

    def init(p: Problem) -> Arc:
        first = p.x0.new_full((len(p.x0),), math.radians(angle))
        return Arc(p.x0, first, first < 0)

    def step(p: Problem, s: Arc, t: int) -> Arc:
        x, done = s.x, s.done
        if t == 0:
            found, x = started(p, images, repeats, t)
            x, done = bisected(p, x, start_rounds, repeats, t, "first"), ~found
        best, wide = _turned(p, x, s.angle, t, levels, rounds, repeats)
        factor = torch.where(wide, 1.2, 0.9).to(x.dtype)
        return Arc(best, (s.angle * factor).clamp(1e-3, math.radians(angle)), done)

    return Attack(init, step, access="labels", balls=EUCLIDEAN, nearest=True)


def _turned(
    p: Problem, x: Tensor, angle: Tensor, t: int, levels: int, rounds: int, repeats: int | None
) -> tuple[Tensor, Tensor]:
    """The nearest point found on one random half circle over the way to x, or x; if at the widest.

    angle: (B,) radians, the widest that is asked. Returns (B, C, H, W) and (B,) bool.
    """
    far = l2(x - p.x0)
    u = (x - p.x0) / rows(far.clamp_min(1e-12), x)
    v = p.key.fold("step", t, "side").normal(*x.shape[1:]).to(x.dtype)
    v = v - rows(row_sum(u * v), x) * u
    v = v / rows(l2(v), x)

    def at(turn: Tensor) -> Tensor:
        along = rows(turn.cos(), x) * u + rows(turn.sin(), x) * v
        return admitted(p, p.x0 + rows(far * turn.cos(), x) * along)

    sides = [sign * 0.5**i for i in range(levels) for sign in (1.0, -1.0)]
    turns = torch.stack([angle * side for side in sides], 1)
    asked = torch.stack([at(turn) for turn in turns.unbind(1)], 1)
    won = meets(p, asked, repeats, t, "sides")
    found, which = won.any(1), won.to(torch.int64).argmax(1)
    index = torch.arange(len(x), device=x.device)
    low = turns[index, which]  # known to meet the goal; the next one up is not, or was not asked
    high = torch.where(which < 2, 1.5 * low, 2 * low).clamp(-math.pi / 2, math.pi / 2)
    best = torch.where(rows(found, x), asked[index, which], x)
    for i in range(rounds):
        middle = (low + high) / 2
        here = at(middle)
        good = meets(p, here, repeats, t, "turn", i) & found
        best = torch.where(rows(good, x), here, best)
        low, high = torch.where(good, middle, low), torch.where(good, high, middle)
    return best, won[:, :2].any(1)
