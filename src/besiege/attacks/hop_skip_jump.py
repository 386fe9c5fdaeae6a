"""HopSkipJump (Chen et al. 2020, arXiv:1904.02144): along the boundary, by labels alone."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from besiege.attacks.attack import EUCLIDEAN, Attack, Problem
from besiege.attacks.decisions import (
    admitted,
    bisected,
    is_euclidean,
    meets,
    pieces,
    reach,
    started,
)
from besiege.core.batch import by_example, fold_sum, l2, rows
from besiege.core.errors import BadSetting


class Hop(NamedTuple):
    """A point at the boundary, and whether there is none."""

    x: Tensor  # (B, C, H, W)
    done: Tensor  # (B,) bool: no start was found


def hop_skip_jump(
    directions: int = 25,
    probe: float | None = 0.15,
    rounds: int = 8,
    halvings: int = 4,
    images: int = 14,
    repeats: int | None = None,
) -> Attack:
    """Walk along the decision boundary: estimate its normal, jump along it, and go back to it.

    From the nearest of the blends with random images that meets the goal, brought to the boundary
    by bisection, each step asks the labels at `directions` random points around x, takes the mean
    of their directions, each with the sign of its label and their mean sign taken off, for the
    slope, moves by distance / sqrt(t + 1) along it (the sign of it under linf), halved until the
    point meets the goal, and bisects the way back to the clean image.
    directions: of the first step; sqrt(t + 1) times as many in step t, as in the paper (100 there).
    probe: l2 length of a direction in units of that of the change; None for the paper's, 1 / (C H
        W), which needs about 18 rounds to be told from the boundary's own error.
    rounds: decisions of a bisection; what is left of the way is 2^-rounds of it.
    halvings: jumps that are asked, all at once; x stays where none meets the goal.
    images: random images that a start is looked for with, at 6 blends each.
    repeats: draws of a decision, for random defenses; None for those of every reading. The points
        around x are asked on those of the reading: more directions are worth more than more draws.
    On CIFAR-10, ResNet-20, 1000 queries, 25 directions and 0.15 find a mean l2 of 0.33, 100 and
    0.05 one of 0.41 (12 images).
    Every row makes the same queries, so that none waits and none sees its batch. Give a ball that
    is generous: it bounds every query. An example without a start is lost.
    Foolbox scales all gradients of a batch by one common norm, so that its steps shrink with the
    batch.
    Cost: step t asks directions sqrt(t + 1) + halvings + rounds points; the first 6 images + rounds
    more. The limit of passes ends the search: give more steps than fit.
    """
    if min(directions, rounds, halvings, images) < 1 or not (probe is None or probe > 0):
        raise BadSetting(
            "attack hop-skip-jump: directions, rounds, halvings and images are at least 1 and "
            f"probe > 0, got {directions}, {rounds}, {halvings}, {images} and {probe}."
        )

    def init(p: Problem) -> Hop:
        return Hop(p.x0, torch.zeros(len(p.x0), dtype=torch.bool, device=p.x0.device))

    def step(p: Problem, s: Hop, t: int) -> Hop:
        x, done = s.x, s.done
        if t == 0:
            found, x = started(p, images, repeats, t)
            x, done = bisected(p, x, rounds, repeats, t, "first"), ~found
        slope = _slope(p, x, t, math.ceil(directions * math.sqrt(t + 1)), probe)
        x = _jump(p, x, slope, t, halvings, repeats)
        return Hop(bisected(p, x, rounds, repeats, t, "back"), done)

    return Attack(init, step, access="labels", balls=(*EUCLIDEAN, "linf"), nearest=True)


def _slope(p: Problem, x: Tensor, t: int, directions: int, probe: float | None) -> Tensor:
    """Estimate, up to a factor, of the direction in which the boundary is left."""
    entries = x[0].numel()
    length = (1 / entries if probe is None else probe) * l2(x - p.x0)
    along, plain = torch.zeros_like(x), torch.zeros_like(x)
    total = torch.zeros_like(length)
    for start, end in pieces(p, directions):
        u = _units(p, t, start, end - start)
        asked = admitted(p, x[:, None] + rows(length, u) * u)
        u = (asked - x[:, None]) / rows(length.clamp_min(1e-12), u)
        won = p.query(asked, t, "direction", start).won.to(x.dtype)
        sign = 2 * won - 1
        along = along + fold_sum(sign.reshape(*sign.shape, 1, 1, 1) * u)
        plain = plain + fold_sum(u)
        total = total + fold_sum(sign)
    mean = total / directions
    one_sided = rows(mean.abs() == 1, x)  # nothing is left once the mean is taken off
    return torch.where(one_sided, along, along - rows(mean, x) * plain)


def _units(p: Problem, t: int, start: int, n: int) -> Tensor:
    """n random directions an example of l2 length 1, (B, n, C, H, W)."""
    shape = p.x0.shape[1:]
    key = p.key.fold("step", t, "unit", start).spread("direction", n)
    if is_euclidean(p):
        u = key.normal(*shape).to(p.x0.dtype)
    else:
        u = 2 * key.uniform(*shape, dtype=p.x0.dtype) - 1
    return by_example(u / rows(l2(u), u), n)


def _jump(
    p: Problem, x: Tensor, slope: Tensor, t: int, halvings: int, repeats: int | None
) -> Tensor:
    """The longest of the steps 1, 1/2, 1/4, ... times the first that meets the goal, or x."""
    if is_euclidean(p):
        size = l2(slope)
        unit = slope / rows(torch.where(size > 0, size, 1), slope)
    else:
        unit = slope.sign()
    first = reach(p, x) / math.sqrt(t + 1)
    share = 0.5 ** torch.arange(halvings, device=x.device, dtype=x.dtype)
    move = rows(first, x)[:, None] * share.reshape(1, -1, 1, 1, 1) * unit[:, None]
    asked = admitted(p, x[:, None] + move)
    won = meets(p, asked, repeats, t, "jump")
    which = won.to(torch.int64).argmax(1)  # the first of them
    each = torch.arange(len(x), device=x.device)
    return torch.where(rows(won.any(1), x), asked[each, which], x)
