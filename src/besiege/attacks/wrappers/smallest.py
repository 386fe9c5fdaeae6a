"""The smallest radius at which an attack of a ball succeeds, by bisection for each example."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Unpack

import torch
from torch import Tensor

from besiege.attacks.attack import Attack, How, Problem, Turn, Wrapper, turn_of
from besiege.attacks.oracle import Reading
from besiege.attacks.threat import Ball
from besiege.core.batch import by_example, rows
from besiege.core.errors import BadSetting
from besiege.core.key import Key

LEAST = 1e-6  # share of the radius below which no search looks


class Narrowing(NamedTuple):
    """A search in a smaller ball, and the radii between which the smallest lies, by row."""

    x: Tensor  # (B, C, H, W)
    inner: Any  # the state of the search in this round's ball
    share: Tensor  # (B,) radius of this round, as all here a share of the threat's
    low: Tensor  # (B,) the largest at which a round failed, or 0
    high: Tensor  # (B,) the smallest at which the goal was met, or infinity
    met: Tensor  # (B,) bool: in this round


@dataclass(frozen=True)
class _Within(Ball):
    """A ball whose radius is a share of another's, by row; eps stands for that share."""

    ball: Ball
    share: Tensor  # (B,) > 0

    @property
    def eps(self) -> float:  # type: ignore[override]
        """The other's: sizes and steps are brought to its scale."""
        return self.ball.eps

    @property
    def name(self) -> str:
        return self.ball.name

    @property
    def sparse(self) -> bool:
        return self.ball.sparse

    def size(self, x: Tensor, x0: Tensor) -> Tensor:
        return self.ball.size(x, x0) / self.share

    def onto(self, x: Tensor, x0: Tensor, radius: Tensor) -> Tensor:
        return self.ball.onto(x, x0, radius * self.share)

    def rounded(self, x: Tensor, x0: Tensor) -> Tensor:
        return self.ball.rounded(x, x0)  # the judge's, who knows the whole ball only

    def ascent(self, gradient: Tensor) -> Tensor:
        step = self.ball.ascent(gradient)
        return step * rows(self.share, step) if self.ball.convex else step

    def start(self, x0: Tensor, key: Key) -> Tensor:
        x = self.ball.start(x0, key)
        return self.project(x0 + rows(self.share, x0) * (x - x0) if self.ball.convex else x, x0)


def smallest(rounds: int = 8) -> Wrapper:
    """The attack at ever other radii, halfway between the largest that failed and the smallest hit.

    Each example has radii of its own. The first round is at the threat's, the outer limit; where it
    fails, it is tried again there with other draws. A point met well inside its ball lowers the
    smallest radius to its size at once. Dziedzic & Krishnan 2020 compare FGSM, BIM in l1 and PGD
    at such radii; so does Foolbox wherever no radius is given.
    rounds: into which the steps are divided; the radius is found to 2^(1 - rounds) of the limit.
    For attacks that do not look for the nearest point by themselves.
    Cost: that of the attack, and one forward a draw and round.
    """
    if rounds < 1:
        raise BadSetting(f"smallest: rounds is at least 1, got {rounds}.")

    def around(attack: Attack) -> Attack:
        if attack.nearest:
            raise BadSetting("smallest: this attack looks for the nearest point by itself.")

        def init(p: Problem) -> Narrowing:
            full = p.x0.new_ones(len(p.x0))
            inner = attack.init(_at(p, full, Turn(0, 0, 1)))
            none = torch.zeros_like(full)
            return Narrowing(inner.x, inner, full, none, none + torch.inf, none.bool())

        def advance(p: Problem, s: Narrowing, t: int) -> Narrowing:
            turn = turn_of(t, p.steps, min(rounds, p.steps))
            hits = [s.high]
            here = _at(p, s.share, turn, hits)
            inner = attack.step(here, s.inner, t - turn.first)
            over = t + 1 == turn.end
            if over:
                here.query(inner.x, t, "end")
            high = torch.stack(hits, 1).amin(1)
            s = s._replace(x=inner.x, inner=inner, high=high, met=s.met | (high < s.high))
            if not over or t + 1 == p.steps:
                return s
            s = _halved(s)
            inner = attack.init(_at(p, s.share, Turn(turn.number + 1, 0, 1)))
            return s._replace(x=inner.x, inner=inner)

        return replace(attack, init=init, step=advance, nearest=True)

    return around


def _at(p: Problem, share: Tensor, turn: Turn, hits: list[Tensor] | None = None) -> Problem:
    """The problem of one round; sizes of points that met the goal go to `hits`, (B,) each."""

    def ask(x: Tensor, goal: Tensor, key: Key, **how: Unpack[How]) -> Reading:
        reading = p.oracle(x, goal, key, **how)
        if hits is not None:
            hits.append(_smallest_hit(p, x, reading.won))
        return reading

    threat = replace(p.threat, ball=_Within(p.threat.ball, share))
    key = p.key.fold("round", turn.number)
    return replace(p, oracle=ask, threat=threat, key=key, steps=turn.end - turn.first)


def _smallest_hit(p: Problem, x: Tensor, won: Tensor) -> Tensor:
    """Of points (B, ...) or (B, n, ...) that met the goal, the smallest size over eps; (B,)."""
    points = x if x.ndim == 5 else x[:, None]
    x0 = p.x0.repeat_interleave(points.shape[1], 0)
    size = by_example(p.threat.ball.size(points.flatten(0, 1), x0), points.shape[1])
    size = size / max(p.threat.ball.eps, 1e-30)
    return size.masked_fill(won.reshape(size.shape) <= 0.5, torch.inf).amin(1)


def _halved(s: Narrowing) -> Narrowing:
    """The radii of the next round."""
    low = torch.where(s.met | (s.high.isinf()), s.low, s.share)
    low = torch.where(low < s.high, low, 0)  # met below a radius that failed
    middle = torch.where(s.high.isfinite(), (low + s.high) / 2, 1).clamp_min(LEAST)
    return s._replace(share=middle, low=low, met=torch.zeros_like(s.met))
