"""The Square attack (Andriushchenko et al. 2020, arXiv:1912.00049): random search in squares."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from besiege.attacks.attack import EUCLIDEAN, Attack, Problem
from besiege.core.batch import l2, linf, row_sum, rows
from besiege.core.errors import BadSetting
from besiege.core.key import Key

# After these shares of the queries (of 10 000 in the paper) the squares' area is halved.
HALVED = (0.001, 0.005, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8)
TILES = 5  # a side, of the l2 start
TINY = 1e-30


class Squares(NamedTuple):
    """The best point yet, and the loss that it was read at."""

    x: Tensor  # (B, C, H, W)
    loss: Tensor  # (B,)


def square(area: float = 0.8) -> Attack:
    """Squares at random places, kept where they raise the loss: no gradient, one query a step.

    linf: from vertical stripes of +-eps; a step sets one square to +-eps, a sign a channel (all
    signs the other way where that would change nothing). l2: from bumps on a 5 x 5 grid; a step
    takes what one square holds, and what the ball has to spare, into a bump in another square. The
    squares' area is halved at 0.1, 0.5, 2, 5, 10, 20, 40, 60 and 80 % of the steps.
    area: of the first squares, as a share of the image; the paper has 0.8 for AutoAttack and
        targets, 0.05 (linf) and 0.1 (l2) for models that were not hardened.
    Every query is in the ball and in [0, 1]. On a random defense both points of a comparison meet
    the same fresh draws, where the released code keeps whatever was lucky once.
    Cost: one forward pass a draw and step, two on a random defense; 5000 steps are AutoAttack's.
    """
    if not 0 < area <= 1:
        raise BadSetting(f"attack square: area is a share of the image in (0, 1], got {area:g}.")

    def init(p: Problem) -> Squares:
        key = p.key.fold("start")
        x = _bumps(p, key) if _round(p) else _stripes(p, key)
        return Squares(x, p.x0.new_full((len(p.x0),), -torch.inf))

    def advance(p: Problem, s: Squares, t: int) -> Squares:
        if t == 0:
            return Squares(s.x, _loss(p, s.x, t))
        share = area * 0.5 ** sum(t >= h * p.steps for h in HALVED)
        key = p.key.fold("square", t)
        x = _bump(p, s.x, share, key) if _round(p) else _patch(p, s.x, share, key)
        held = _loss(p, s.x, t) if p.random else s.loss  # the same key: the same draws
        tried = _loss(p, x, t)
        better = tried > held
        return Squares(torch.where(rows(better, x), x, s.x), torch.where(better, tried, held))

    return Attack(init, advance, access="scores", balls=("linf", *EUCLIDEAN), loss="margin")


def _round(p: Problem) -> bool:
    return p.threat.ball.name in EUCLIDEAN


def _loss(p: Problem, x: Tensor, t: int) -> Tensor:
    loss = p.query(x, t).loss
    assert loss is not None
    return loss


def _signs(key: Key, like: Tensor, *shape: int) -> Tensor:
    """+-1, (B, *shape)."""
    return key.bernoulli(0.5, *shape).to(like.dtype) * 2 - 1


def _stripes(p: Problem, key: Key) -> Tensor:
    """The clean image with every column of every channel moved by +-eps."""
    _, c, _, w = p.x0.shape
    return p.threat.project(p.x0 + p.threat.ball.eps * _signs(key, p.x0, c, 1, w), p.x0)


def _patch(p: Problem, x: Tensor, share: float, key: Key) -> Tensor:
    """x with one square at +-eps."""
    _, c, h, w = x.shape
    side = max(1, min(round(math.sqrt(share * h * w)), h, w))
    inside = _offset(key, x, side)[2]
    move = p.threat.ball.eps * _signs(key.fold("sign"), x, c, 1, 1)
    there, back = (p.threat.project(torch.where(inside, p.x0 + m, x), p.x0) for m in (move, -move))
    return torch.where(rows(linf(there - x) > 0, x), there, back)


def _offset(key: Key, x: Tensor, side: int) -> tuple[Tensor, Tensor, Tensor]:
    """Where each pixel lies in a square at a random place: row, column, and whether it does.

    (B, 1, H, 1), (B, 1, 1, W) and (B, 1, H, W); those of pixels outside are the nearest edge's.
    """
    h, w = x.shape[2:]
    top = key.fold("row").integers(h - side + 1)
    left = key.fold("column").integers(w - side + 1)
    row = torch.arange(h, device=x.device)[None, :] - top[:, None]
    column = torch.arange(w, device=x.device)[None, :] - left[:, None]
    within = ((row >= 0) & (row < side))[:, :, None] & ((column >= 0) & (column < side))[:, None]
    row, column = row.clamp(0, side - 1)[:, :, None], column.clamp(0, side - 1)[:, None]
    return row[:, None], column[:, None], within[:, None]


def _ridge(side: int, like: Tensor) -> Tensor:
    """The paper's l2 pattern (equation 2), (side, side): two bumps of opposite sign, of size 1."""

    def bump(h: int, w: int) -> Tensor:
        reach = max(h // 2, w // 2)
        weight = 1 / torch.arange(1, reach + 2, dtype=torch.float64) ** 2
        total = weight.flip(0).cumsum(0).flip(0)  # squares of radius >= k around the middle
        row, column = (torch.arange(n) - n // 2 for n in (h, w))
        return total[torch.maximum(row.abs()[:, None], column.abs()[None, :])]

    upper = side // 2
    pattern = torch.cat([bump(upper, side), -bump(side - upper, side)])
    return pattern.div(pattern.square().sum().sqrt()).to(like)


def _radius(p: Problem) -> Tensor:
    """The ball's l2 radius, (B,), whatever its unit."""
    probe = torch.ones_like(p.x0)
    return p.threat.ball.eps * l2(probe) / p.threat.ball.size(p.x0 + probe, p.x0)


def _bumps(p: Problem, key: Key) -> Tensor:
    """The clean image with a pattern on every tile of a grid, on the ball's edge."""
    _, c, h, w = p.x0.shape
    side = max(1, min(h, w) // TILES)
    pattern = _ridge(side, p.x0)
    row, column = torch.arange(h, device=p.x0.device), torch.arange(w, device=p.x0.device)
    down, across = row[:, None] // side, column[None, :] // side
    upright = pattern[row[:, None] % side, column[None, :] % side]
    lying = pattern.T[row[:, None] % side, column[None, :] % side]
    tiles = (1 + (h - 1) // side, 1 + (w - 1) // side)
    turned = key.fold("turn").bernoulli(0.5, *tiles)[:, None, down, across]
    sign = _signs(key.fold("sign"), p.x0, c, *tiles)[:, :, down, across]
    move = sign * torch.where(turned, lying, upright)
    return p.threat.project(p.x0 + rows(_radius(p) / l2(move), move) * move, p.x0)


def _bump(p: Problem, x: Tensor, share: float, key: Key) -> Tensor:
    """x with the change in a second square, and the ball's spare room, made a bump in a first."""
    b, c, h, w = x.shape
    side = min(max(3, round(math.sqrt(share * h * w)) // 2 * 2 + 1), h, w)
    row, column, here = _offset(key.fold("to"), x, side)
    there = _offset(key.fold("from"), x, side)[2]
    pattern, turned = _ridge(side, x), rows(key.fold("turn").bernoulli(0.5), x)
    bump = torch.where(turned, pattern[column, row], pattern[row, column]) * here
    bump = bump * _signs(key.fold("sign"), x, c, 1, 1)

    def norm(change: Tensor) -> Tensor:
        square = row_sum((change**2).reshape(b * c, h, w))
        return square.sqrt().reshape(b, c, 1, 1)

    change = x - p.x0
    spare = (_radius(p) ** 2 - l2(change) ** 2).clamp_min(0)
    room = (norm(change * (here | there)) ** 2 + rows(spare, x) / c).sqrt()
    held = change * here
    new = bump + held / norm(held).clamp_min(TINY)
    new = room * new / norm(new).clamp_min(TINY)
    return p.threat.project(p.x0 + torch.where(here | there, new, change), p.x0)
