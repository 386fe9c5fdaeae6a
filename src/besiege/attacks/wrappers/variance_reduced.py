"""Gradients of random defenses with less variance, by a control variate at an earlier point."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple, Unpack

import torch
from torch import Tensor

from besiege.attacks.attack import Attack, How, Problem, Wrapper
from besiege.attacks.oracle import Reading
from besiege.core.batch import row_sum, rows
from besiege.core.errors import BadSetting
from besiege.core.key import Key

FORGET = 0.7  # share of the past that each step keeps of the two moments


class Anchored(NamedTuple):
    """A search, an earlier point of it, and what is known about the draws there."""

    x: Tensor  # (B, C, H, W)
    inner: Any  # the state of the attack
    anchor: Tensor  # (B, C, H, W) the earlier point
    mean: Tensor  # (B, C, H, W) the gradient there, over many draws
    along: Tensor  # (B,) decayed sum of <g, d>: g a gradient, d what its draws add at the anchor
    square: Tensor  # (B,) decayed sum of <d, d>


def variance_reduced(every: int = 10, draws: int = 32) -> Wrapper:
    """The attack along g(x) - b (g(a) - m), with g(x) and g(a) under the same draws.

    a is the point of the search `every` steps ago at most, m the gradient there over `draws` draws.
    What a draw adds at a it mostly adds at x too, and so it is taken off. b is the regression of
    one on the other over the last steps, between 0 and 1, so that an anchor too far away does no
    harm. With b = 1 this is the estimate of Johnson & Zhang 2013, which Xiong et al. 2022 brought
    to ensembles of models; here the ensemble are the draws.
    On a defense without draws it is the attack as it was. Only gradients of the loss are changed.
    Cost: twice that of the attack, and draws / every forwards and backwards a step.
    """
    if every < 1 or draws < 1:
        raise BadSetting(f"variance-reduced: every and draws are >= 1, got {every} and {draws}.")

    def around(attack: Attack) -> Attack:
        def init(p: Problem) -> Anchored:
            inner, none = attack.init(p), p.x0.new_zeros(len(p.x0))
            return Anchored(inner.x, inner, inner.x, torch.zeros_like(p.x0), none, none)

        def advance(p: Problem, s: Anchored, t: int) -> Anchored:
            if not p.random:
                inner = attack.step(p, s.inner, t)
                return s._replace(x=inner.x, inner=inner)
            if t % every == 0:
                key = p.key.fold("step", t, "anchor")
                mean = p.oracle(s.x, p.goal, key, draws=draws).gradient
                assert mean is not None
                s = s._replace(anchor=s.x, mean=mean)
            moments = [torch.stack([s.along, s.square], 1)]
            inner = attack.step(_steadied(p, s, moments), s.inner, t)
            along, square = moments[-1].unbind(1)
            return s._replace(x=inner.x, inner=inner, along=along, square=square)

        return replace(attack, init=init, step=advance)

    return around


def _steadied(p: Problem, s: Anchored, moments: list[Tensor]) -> Problem:
    """The problem with steadier gradients; `moments` (B, 2) gets those after each of them."""

    def ask(x: Tensor, goal: Tensor, key: Key, **how: Unpack[How]) -> Reading:
        if not how.get("gradient", True) or how.get("weights") is not None:
            return p.oracle(x, goal, key, **how)
        past = p.oracle(s.anchor, goal, key, **how).gradient  # first: the search reads the last
        reading = p.oracle(x, goal, key, **how)
        assert reading.gradient is not None
        assert past is not None
        added = past - s.mean
        along, square = moments[-1].unbind(1)
        share = torch.where(square > 0, along / square.clamp_min(1e-30), 1).clamp(0, 1)
        now = torch.stack([row_sum(reading.gradient * added), row_sum(added * added)], 1)
        moments.append(FORGET * moments[-1] + now)
        return reading._replace(gradient=reading.gradient - rows(share, x) * added)

    return replace(p, oracle=ask)
