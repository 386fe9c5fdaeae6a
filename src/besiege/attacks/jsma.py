"""Saliency maps (Papernot et al. 2016, arXiv:1511.07528): two entries a step, by the Jacobian."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from besiege.attacks.attack import Attack, Problem
from besiege.core.batch import rows
from besiege.core.errors import BadSetting, one_of

SIGNS: Mapping[str, tuple[int, ...]] = {"up": (1,), "down": (-1,), "either": (1, -1)}


class Salient(NamedTuple):
    """An image, the entries that may still move, and the label to reach or leave."""

    x: Tensor  # (B, C, H, W)
    open: Tensor  # (B, C * H * W) bool
    wanted: Tensor  # (B, K) 1 there, or -1 if it is to be left; (B, 0) before the first step


class Choice(NamedTuple):
    """Entries to move, and how they were found."""

    rank: Tensor  # (B,) 2 as the paper has it, 1 by the way out, 0 where nothing is left
    value: Tensor  # (B,) among those of its rank
    moved: Tensor  # (B, C * H * W) 1 or -1 for the entries that move, else 0


def jsma(
    theta: float = 1.0, direction: str = "up", pairs: bool = True, candidates: int = 256
) -> Attack:
    """Moves the two entries that raise the wanted logit most while the others fall.

    With a the slope of the wanted logit and b that of the sum of all others, the pair (p, q) with
    the largest -(a_p + a_q)(b_p + b_q) of those where the first factor rises and the second falls
    (algorithm 3). Where there is no such pair, the paper gives up; here the pair counts that raises
    the wanted logit most over the mean of the others, as long as one does.
    theta: by how much an entry moves, on the [0, 1] pixel scale; one that meets a bound is done.
    direction: "up", the paper's, "down", or "either", whichever sign has the better pair (Wiyatno &
        Xu 2018, arXiv:1808.07945).
    pairs: two entries a step; else one.
    candidates: the pair is the best among that many entries, those that raise the wanted logit most
        over that mean: memory grows with its square and not with that of the image (224 x 224 x 3
        have 10^10 pairs). With as many candidates as entries the pair is the paper's.
    Untargeted, the true label's logit is to fall while the sum of the others rises (NT-JSMA of the
    same). The paper's gamma is the ball: in l0, which counts pixels, other entries of a changed
    pixel are free. Slopes are those of logits, which the softmax of the paper flattens out.
    Cost: one forward and two backwards a draw and step; one forward more in the first.
    """
    one_of("direction", direction, SIGNS, "attack jsma")
    if theta <= 0 or candidates < 2:
        raise BadSetting(
            f"attack jsma takes theta > 0 and candidates >= 2, got {theta:g} and {candidates}."
        )

    def init(p: Problem) -> Salient:
        x = p.x0
        return Salient(x, torch.ones_like(x, dtype=torch.bool).flatten(1), x.new_zeros(len(x), 0))

    def advance(p: Problem, s: Salient, t: int) -> Salient:
        wanted = s.wanted
        if t == 0:
            scores = p.query(s.x, t, "first").scores
            assert scores is not None
            wanted = functional.one_hot(p.goal, scores.shape[1]).to(s.x)
            wanted = wanted if p.threat.targeted else -wanted
        rest = (1 if p.threat.targeted else -1) - wanted
        slopes = p.jacobian(s.x, torch.stack([wanted, rest], 1), t).gradient
        assert slopes is not None
        rise, fall = slopes.flatten(2).unbind(1)
        fall = fall / (wanted.shape[1] - 1)
        choice = None
        for sign in SIGNS[direction]:
            free = s.open & ((s.x < 1) if sign > 0 else (s.x > 0)).flatten(1)
            own = _choose(p, s.x, sign * rise, sign * fall, free, candidates, pairs)
            own = own._replace(moved=sign * own.moved)
            choice = own if choice is None else _better(own, choice)
        assert choice is not None
        move = theta * choice.moved.reshape(s.x.shape)
        x = p.threat.project((s.x + move).clamp(0, 1), p.x0)
        short = (choice.moved != 0) & ((x - s.x).abs().flatten(1) < theta * (1 - 1e-6))
        return Salient(x, s.open & ~short, wanted)

    return Attack(init, advance, balls=("l0", "linf", "box"))


def _better(a: Choice, b: Choice) -> Choice:
    """Of each row the choice of higher rank, then of higher value; `b` if they are even."""
    first = (a.rank > b.rank) | ((a.rank == b.rank) & (a.value > b.value))
    return Choice(*(torch.where(rows(first, m), m, n) for m, n in zip(a, b, strict=True)))


def _choose(
    p: Problem, x: Tensor, rise: Tensor, fall: Tensor, free: Tensor, number: int, pairs: bool
) -> Choice:
    """Which entries to increase, given both slopes (B, D) and which entries may move."""
    ball = p.threat.ball
    room = ball.eps - p.distance(x) if not ball.convex else x.new_full((len(x),), torch.inf)
    fresh = (x == p.x0).all(1, keepdim=True).expand_as(x).flatten(1)
    merit = (rise - fall).masked_fill(~free, -torch.inf)
    merit = merit.masked_fill(fresh & (room < 1)[:, None], -torch.inf)
    top = merit.argsort(dim=1, descending=True, stable=True)[:, :number]  # (B, k)
    a, b, gain, new = (v.gather(1, top) for v in (rise, fall, merit, fresh))
    pixel = top % x[0, 0].numel()
    both = new[:, :, None] & new[:, None] & (pixel[:, :, None] != pixel[:, None])
    same = torch.eye(top.shape[1], dtype=torch.bool, device=x.device)
    allowed = (gain > -torch.inf)[:, :, None] & (gain > -torch.inf)[:, None]
    allowed &= ~(both & (room < 2)[:, None, None])
    allowed &= torch.ones_like(same) if pairs else same

    def total(v: Tensor) -> Tensor:
        return torch.where(same, v[:, None], v[:, :, None] + v[:, None])

    up, down = total(a), total(b)
    right = allowed & (up > 0) & (down < 0) & (~same if pairs else same)
    saliency = (-up * down).masked_fill(~right, -torch.inf).flatten(1).max(1)
    way_out = total(gain).masked_fill(~allowed, -torch.inf).flatten(1).max(1)
    exact = saliency.values > -torch.inf
    rank = torch.where(exact, 2, (way_out.values > 0).long())
    value = torch.where(exact, saliency.values, way_out.values)
    at = torch.where(exact, saliency.indices, way_out.indices)
    entries = torch.stack([at // top.shape[1], at % top.shape[1]], 1)
    moved = torch.zeros_like(rise).scatter_(1, top.gather(1, entries), 1)
    return Choice(rank, value, torch.where(rows(rank > 0, moved), moved, 0))
