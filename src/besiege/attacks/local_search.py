"""Greedy local search over pixels (Narodytska & Kasiviswanathan 2017, arXiv:1612.06299)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from besiege.attacks.attack import Attack, Problem
from besiege.core.errors import BadSetting, one_of
from besiege.ops.paint import paint


class Trail(NamedTuple):
    """An image, and the pixels around those changed last."""

    x: Tensor  # (B, C, H, W)
    near: Tensor  # (B, H * W) bool: where the next candidates are


def local_search(
    candidates: int = 128,
    best: int = 5,
    radius: int = 5,
    factor: float = 1.5,
    move: str = "cyclic",
) -> Attack:
    """Tries pixels at their extremes, keeps the best few, and looks around them next.

    Each step tries up to `candidates` pixels, picked at random among those near the last changes
    (anywhere at first), each alone and at the extreme of its own side, 0 or 1 by channel; the
    `best` of them change. Once the ball is full, only pixels that have changed are tried.
    best: t, pixels changed in a step. radius: d, half the side of the square that is near.
    move: "cyclic", the paper's: a chosen pixel's distance from mid grey times `factor`, by way of
        the other end where that leaves [0, 1]. That is another image than the one that was tried.
        "tried" leaves it at its extreme: better at first, but a full ball is the end of it.
    factor: r of that move, in (0, 2].
    Cost: `candidates` forwards a draw and step, or as many as there are pixels.
    """
    one_of("move", move, ("tried", "cyclic"), "attack local-search")
    if min(candidates, best) < 1 or radius < 0 or not 0 < factor <= 2:
        raise BadSetting(
            "attack local-search takes candidates, best >= 1, radius >= 0 and factor in (0, 2], "
            f"got {candidates}, {best}, {radius} and {factor:g}."
        )

    def init(p: Problem) -> Trail:
        return Trail(p.x0, torch.ones_like(p.x0[:, 0], dtype=torch.bool).flatten(1))

    def advance(p: Problem, s: Trail, t: int) -> Trail:
        flat = s.x.flatten(2)
        changed = (s.x != p.x0).any(1).flatten(1)
        full = changed.sum(1, keepdim=True) >= p.threat.ball.eps
        open_ = torch.where(full, changed, s.near)
        lot = torch.where(open_, p.key.fold("lot", t).uniform(open_.shape[1]), -1)
        place = lot.argsort(dim=1, descending=True, stable=True)[:, :candidates]
        allowed = open_.gather(1, place)
        index = place[:, None].expand(-1, flat.shape[1], -1)
        old = flat.gather(2, index)  # (B, C, n)
        tried = torch.where(allowed[:, None], (old >= 0.5).to(old), old)
        colour = tried.transpose(1, 2)[:, :, None]
        found = p.survey(
            lambda part: paint(s.x, place[:, part, None], colour[:, part]), place.shape[1], t
        )
        assert found.loss is not None
        loss = found.loss.masked_fill(~allowed, -torch.inf)
        chosen = loss.argsort(dim=1, descending=True, stable=True)[:, :best]
        taken = allowed.gather(1, chosen)
        place = place.gather(1, chosen)
        index = chosen[:, None].expand(-1, flat.shape[1], -1)
        new = tried.gather(2, index)
        if move == "cyclic":
            new = _cyclic(old.gather(2, index), factor)
            new = torch.where(taken[:, None], new, old.gather(2, index))
        x = paint(s.x, place[:, None], new.transpose(1, 2)[:, None])[:, 0]
        near = _around(place, taken, s.x.shape[2], s.x.shape[3], radius)
        return Trail(p.threat.project(x, p.x0), near)

    return Attack(init, advance, access="scores", balls=("l0",))


def _cyclic(x: Tensor, factor: float) -> Tensor:
    """factor times the distance from mid grey; beyond an end of [0, 1] it comes in at the other."""
    moved = 0.5 + factor * (x - 0.5)
    return torch.where(moved < 0, moved + 1, torch.where(moved > 1, moved - 1, moved))


def _around(place: Tensor, taken: Tensor, height: int, width: int, radius: int) -> Tensor:
    """Which pixels are within `radius` rows and columns of a taken place, (B, H * W) bool."""
    row = torch.arange(height, device=place.device)
    column = torch.arange(width, device=place.device)
    down = ((place // width)[:, :, None] - row).abs() <= radius  # (B, t, H)
    across = ((place % width)[:, :, None] - column).abs() <= radius
    near = down[:, :, :, None] & across[:, :, None] & taken[:, :, None, None]
    return near.any(1).flatten(1)
