"""The Boundary attack (Brendel et al. 2018, arXiv:1712.04248): a walk along the boundary."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from besiege.attacks.attack import EUCLIDEAN, Attack, Problem
from besiege.attacks.decisions import admitted, bisected, each, meets, started
from besiege.core.batch import by_example, l2, row_sum, rows
from besiege.core.errors import BadSetting
from besiege.core.key import Key

GROW, LEAST = 1.5, 1e-6  # factor by which step sizes change, and the smallest of them


class Walk(NamedTuple):
    """A point that meets the goal, and the lengths of the next steps in units of its distance."""

    x: Tensor  # (B, C, H, W)
    around: Tensor  # (B,) on the sphere about the clean image
    inwards: Tensor  # (B,) towards the clean image
    done: Tensor  # (B,) bool: no start was found


def boundary(
    around: float = 0.1,
    inwards: float = 0.1,
    tries: int = 4,
    images: int = 14,
    rounds: int = 10,
    repeats: int | None = None,
) -> Attack:
    """Random steps on the sphere about the clean image, then inwards, wherever the goal stays met.

    around, inwards: first lengths of the two steps, in units of the distance (0.01 in the paper,
        whose walk takes tens of thousands of queries). Both are adapted after each step.
    tries: random directions a step; each is asked on the sphere and after the step inwards, and x
        moves to the first that meets the goal after both. More than half of the former met: the
        sphere step grows by 1.5, fewer than a fifth: it shrinks; likewise the step inwards, by a
        quarter and a tenth of the latter.
    images, rounds: random images of the start, at 6 blends each, and its bisection.
    repeats: draws of a decision, for random defenses; None for those of every reading.
    The published loop adapts over a window of past queries; all tries of a step are known at once
    here, so that no history is needed.
    Cost: 2 tries points a step; the first 6 images + rounds more. The limit of passes ends the
    search: give more steps than fit. HopSkipJump finds nearer points with fewer queries.
    """
    if min(tries, images, rounds) < 1 or min(around, inwards) <= 0 or max(around, inwards) >= 1:
        raise BadSetting(
            "attack boundary: tries, images and rounds are at least 1, around and inwards in "
            f"(0, 1), got {tries}, {images}, {rounds}, {around:g} and {inwards:g}."
        )

    def init(p: Problem) -> Walk:
        one = p.x0.new_ones(len(p.x0))
        return Walk(p.x0, around * one, inwards * one, one < 0)

    def step(p: Problem, s: Walk, t: int) -> Walk:
        x, done = s.x, s.done
        if t == 0:
            found, x = started(p, images, repeats, t)
            x, done = bisected(p, x, rounds, repeats, t, "first"), ~found
        spheres = _around(p, x, s.around, p.key.fold("step", t, "side"), tries)
        x0 = p.x0[:, None]
        nearer = x0 + (spheres - x0) * rows(1 - s.inwards, spheres)
        asked = admitted(p, torch.cat([spheres, nearer], 1))
        won = meets(p, asked, repeats, t)
        stays, comes = won[:, :tries], won[:, :tries] & won[:, tries:]
        index = torch.arange(len(x), device=x.device)
        best = asked[index, tries + comes.to(torch.int64).argmax(1)]
        x = torch.where(rows(comes.any(1), x), best, x)
        return Walk(
            x,
            _adapted(s.around, stays, 0.2, 0.5),
            _adapted(s.inwards, comes, 0.1, 0.25),
            done,
        )

    return Attack(init, step, access="labels", balls=EUCLIDEAN, nearest=True)


def _around(p: Problem, x: Tensor, length: Tensor, key: Key, n: int) -> Tensor:
    """n points an example at x's distance from the clean image, (B, n, C, H, W)."""
    many = x[:, None].expand(-1, n, -1, -1, -1)
    own, flat = each(p, many), many.flatten(0, 1)
    far = l2(flat - own.x0).clamp_min(1e-12)
    u = (flat - own.x0) / rows(far, flat)
    side = key.spread("try", n).normal(*x.shape[1:]).to(x.dtype)
    side = side - rows(row_sum(u * side), side) * u
    side = side * rows(length.repeat_interleave(n) / l2(side), side)
    moved = (u + side) / rows((1 + length**2).sqrt().repeat_interleave(n), side)
    return by_example(own.x0 + rows(far, moved) * moved, n)


def _adapted(length: Tensor, won: Tensor, least: float, most: float) -> Tensor:
    """Longer where more than `most` of the tries won, shorter where fewer than `least`."""
    share = won.to(length.dtype).mean(1)
    factor = torch.where(share > most, GROW, torch.where(share < least, 1 / GROW, 1.0))
    return (length * factor).clamp(LEAST, 0.9)
