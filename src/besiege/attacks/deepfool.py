"""DeepFool (Moosavi-Dezfooli et al. 2016, arXiv:1511.04599, algorithm 2)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from besiege.attacks.attack import EUCLIDEAN, Attack, Problem, rivals
from besiege.core.batch import fold_sum, row_sum, rows
from besiege.core.errors import BadSetting

TINY = 1e-6  # of a logit: what a point exactly on the border still has to go
FARTHEST = 1e6  # size of a step where the slope is next to nothing


class Linearised(NamedTuple):
    """A point, and the steps that led to it."""

    x: Tensor  # (B, C, H, W)
    moved: Tensor  # (B, C, H, W) the sum of the steps, before overshoot and bounds
    scores: Tensor  # (B, K) mean of the readings at x; (B, 0) before the first
    crossed: Tensor  # (B,) bool: x met the goal on most of them
    done: Tensor  # (B,) bool: so it did, and nothing is drawn that could undo it


def deepfool(candidates: int = 9, overshoot: float = 0.02, sure: int = 3) -> Attack:
    """Steps onto the nearest border of the linearised classifier, until it is crossed.

    With f_k = z_k - z_label and slopes w_k: of the candidates the one of least |f_k| / ||w_k||*
    (the dual norm: of w_k along the steepest step of size 1) is stepped to; the point asked is the
    clean image plus (1 + overshoot) times the sum of steps. Targeted: the border between the target
    and the class that wins now.
    candidates: the likeliest other classes at the present point, all if there are fewer. Of a
        thousand classes the paper takes the ten that are likeliest at the clean image.
    overshoot: share by which the sum of steps is exceeded.
    sure: readings of a point on a random defense, each on fresh draws, whose mean decides whether
        it meets the goal (then it stays) and how far it is to a border; it is read again in the
        next step, and moves on if it met the goal by luck. Where nothing is drawn a point is read
        once, and left for good if it meets the goal.
    Slopes are of mean logits, for all candidates over the same draws. The label is the true one,
    where the paper has the predicted one: an image that is wrong already stays as it is. (The
    release of Guo et al. 2018 steps by gradients averaged over B copies as if they were sums, and
    leaves classes without one: neither here.)
    Cost: one forward and as many backwards a draw and step as candidates (one if targeted), and
    `sure` forwards more (one); those twice in the first step.
    """
    if candidates < 1 or sure < 1 or overshoot < 0:
        raise BadSetting(
            "attack deepfool takes candidates >= 1, sure >= 1 and overshoot >= 0, got "
            f"{candidates}, {sure} and {overshoot:g}."
        )

    def init(p: Problem) -> Linearised:
        no = torch.zeros_like(p.goal).bool()
        return Linearised(p.x0, torch.zeros_like(p.x0), p.x0.new_zeros(len(p.x0), 0), no, no)

    def look(p: Problem, s: Linearised, t: int, *parts: str) -> Linearised:
        count = sure if p.random else 1
        reading = p.query(s.x[:, None].expand(-1, count, *s.x.shape[1:]), t, *parts)
        assert reading.scores is not None
        crossed = fold_sum(reading.won) / count > 0.5
        done = crossed & (not p.random)
        return s._replace(scores=fold_sum(reading.scores) / count, crossed=crossed, done=done)

    def advance(p: Problem, s: Linearised, t: int) -> Linearised:
        if t == 0:
            s = look(p, s, t, "clean")
        raised = _raised(s.scores, p.goal, p.threat.targeted, candidates)
        slopes = p.jacobian(s.x, raised, t).gradient
        assert slopes is not None
        least, step = s.x.new_full((len(s.x),), torch.inf), torch.zeros_like(s.x)
        for aim, slope in zip(raised.unbind(1), slopes.unbind(1), strict=True):
            direction = p.threat.ball.ascent(slope)
            gain = row_sum(direction * slope).clamp_min(torch.finfo(slope.dtype).tiny)
            short = row_sum(s.scores * aim).abs() + TINY
            size = (short / gain).clamp_max(FARTHEST)
            step = torch.where(rows(size < least, step), rows(size, step) * direction, step)
            least = torch.minimum(least, size)
        moved = torch.where(rows(s.crossed, step), s.moved, s.moved + step)
        x = p.threat.project(p.x0 + (1 + overshoot) * moved, p.x0)
        return look(p, s._replace(x=x, moved=moved), t)

    return Attack(init, advance, balls=("linf", "box", *EUCLIDEAN), loss="margin", nearest=True)


def _raised(scores: Tensor, goal: Tensor, targeted: bool, number: int) -> Tensor:
    """Weights (B, m, K) of the logit differences to raise: the goal's and its likeliest rivals'."""
    classes = scores.shape[1]
    own = functional.one_hot(goal, classes)[:, None]
    other = functional.one_hot(rivals(scores, goal, 1 if targeted else number), classes)
    return (own - other if targeted else other - own).to(scores)
