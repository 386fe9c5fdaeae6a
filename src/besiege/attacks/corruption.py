"""The weakest common corruption that does it: contrast, noise, salt and pepper, blur."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from besiege.attacks.attack import Attack, Problem
from besiege.attacks.decisions import admitted, meets
from besiege.core.batch import by_example, rows
from besiege.core.errors import BadSetting, one_of
from besiege.core.key import Key
from besiege.ops.blur import gaussian_blur


def _contrast(x: Tensor, strength: Tensor, key: Key) -> Tensor:
    return x + rows(strength, x) * (0.5 - x)


def _gaussian_noise(x: Tensor, strength: Tensor, key: Key) -> Tensor:
    return x + rows(strength, x) * key.normal(*x.shape[1:]).to(x.dtype)


def _uniform_noise(x: Tensor, strength: Tensor, key: Key) -> Tensor:
    return x + rows(strength, x) * (2 * key.uniform(*x.shape[1:], dtype=x.dtype) - 1)


def _salt_and_pepper(x: Tensor, strength: Tensor, key: Key) -> Tensor:
    u, half = key.uniform(1, *x.shape[2:], dtype=x.dtype), rows(strength, x) / 2
    return torch.where(u < half, 0, torch.where(u >= 1 - half, 1, x))


def _blur(x: Tensor, strength: Tensor, key: Key) -> Tensor:
    return gaussian_blur(x, strength * (max(x.shape[-2:]) / 4))


# Image (B, C, H, W), strength (B,) in [0, 1] and key -> image that may leave [0, 1].
KINDS: Mapping[str, Callable[[Tensor, Tensor, Key], Tensor]] = {
    "contrast": _contrast,
    "gaussian-noise": _gaussian_noise,
    "uniform-noise": _uniform_noise,
    "salt-and-pepper": _salt_and_pepper,
    "blur": _blur,
}


NOISES = ("gaussian-noise", "uniform-noise", "salt-and-pepper")  # kinds with a pattern
GOLDEN = (5**0.5 - 1) / 2  # whose multiples, modulo 1, divide their gaps most evenly


class Line(NamedTuple):
    """The best point so far that meets the goal, and a strength below it that does not."""

    x: Tensor  # (B, C, H, W)
    low: Tensor  # (B,)
    high: Tensor  # (B,) its strength
    size: Tensor  # (B,) its distance, or strength if there are no patterns; infinite before one
    pattern: Tensor  # (B,) int64 values of the key of its noise


def corruption(kind: str = "contrast", points: int = 16, repeats: int | None = None) -> Attack:
    """Search for the least strength s in [0, 1] of one corruption that meets the goal.

    kind: "contrast" x + s (1/2 - x); "gaussian-noise" x + s z with z normal; "uniform-noise"
        x + s u with u in [-1, 1]; "salt-and-pepper": a share s of the pixels, all their channels,
        black or white; "blur": Gaussian of s max(H, W) / 4 pixels.
    points: strengths a step: the first step asks s = 1/n, 2/n, ..., 1, each later one n strengths
        between the weakest success and the strength below it, or others of [0, 1] where there is no
        success. Of noise one point keeps the pattern; the others have one each of their own, at
        half to all of the strength, and the nearest success of all goes on: take few points and
        more steps (5 and 20). Before a success all have their own, but in the first step.
    repeats: draws of a decision; None for those of every reading.
    Foolbox 1.8 (as P4 ran it) tries 1000 strengths in a row, which is what 16 x 17 x 4 come to in
    three steps. Success need not be monotone in s: weaker ones between two points are not seen.
    Cost: points forward passes a draw and step.
    """
    one_of("kind", kind, KINDS, "attack corruption")
    if points < 1:
        raise BadSetting(f"attack corruption: points is at least 1, got {points}.")
    fresh = points - 1 if kind in NOISES else 0
    old = points - fresh

    def init(p: Problem) -> Line:
        low = p.x0.new_zeros(len(p.x0))
        pattern = p.key.fold("pattern").values
        return Line(p.x0, low, torch.ones_like(low), low + torch.inf, pattern)

    def step(p: Problem, s: Line, t: int) -> Line:
        strength, pattern = _tried(p, s, t, old, fresh)
        each = torch.arange(len(s.x), device=s.x.device)
        some = each.repeat_interleave(points)
        noise = Key(pattern.flatten(), p.key.origins[some])
        asked = admitted(p, by_example(KINDS[kind](p.x0[some], strength.flatten(), noise), points))
        won = meets(p, asked, repeats, t)
        size = strength
        if kind in NOISES:
            size = by_example(p.take(some).distance(asked.flatten(0, 1)), points)
        least, at = size.masked_fill(~won, torch.inf).min(1)
        better = least < s.size
        new = better & (pattern[each, at] != s.pattern)
        below = torch.cat([s.low[:, None], strength], 1)[each, at]
        # Without a success the weakest known is stronger than all of its pattern.
        low = torch.where(s.size.isfinite(), strength[:, old - 1], s.low)
        low = torch.where(new, 0, torch.where(better, below, low))
        return Line(
            torch.where(rows(better, s.x), asked[each, at], s.x),
            low,
            torch.where(better, strength[each, at], s.high),
            torch.where(better, least, s.size),
            torch.where(better, pattern[each, at], s.pattern),
        )

    return Attack(init, step, access="labels", nearest=True)


def _tried(p: Problem, s: Line, t: int, old: int, fresh: int) -> tuple[Tensor, Tensor]:
    """Strengths, and values of the keys of patterns, (B, old + fresh).

    old: how many keep the pattern after a success; they come first.
    """
    points = old + fresh
    index = torch.arange(points, device=s.x.device, dtype=s.x.dtype)
    # A grid that no earlier step asked, as evenly between those as can be; the first ends in 1.
    wide = (index + (1 - t * GOLDEN) % 1 + (t == 0)) / points
    fine = s.low[:, None] + (s.high - s.low)[:, None] * (index[:old] + 1) / (old + 1)
    weaker = s.high[:, None] * (1 - (index[:fresh] + 0.5) / (2 * max(fresh, 1)))
    found = s.size.isfinite()[:, None]
    strength = torch.where(found, torch.cat([fine, weaker], 1), wide)
    own = by_example(p.key.fold("pattern", t).spread("point", points).values, points)
    kept = torch.where(found, index < old, t == 0 or fresh == 0)
    return strength, torch.where(kept, s.pattern[:, None], own)
