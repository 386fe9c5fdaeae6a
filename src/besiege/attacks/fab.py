"""FAB, the fast adaptive boundary attack (Croce & Hein 2020, arXiv:1907.02044)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from besiege.attacks.attack import EUCLIDEAN, Attack, Problem, met, rivals, turn_of
from besiege.core.batch import l2, linf, row_sum, rows
from besiege.core.errors import BadSetting, one_of
from besiege.ops.planes import onto_plane

DUAL = {"linf": "l1", "l2": "l2", "l1": "linf"}
CENTRAL = 0.9  # of a success is kept: the rest goes back to the clean image
FINAL = 3  # readings on the line from the clean image to the best point, after the last step


class Border(NamedTuple):
    """A point near the border of the label's region, and the nearest success."""

    x: Tensor  # (B, C, H, W)
    scores: Tensor  # (B, K) of the last point asked
    best: Tensor  # (B, C, H, W)
    size: Tensor  # (B,) distance of `best`, infinite if there is none
    depth: Tensor  # (B,) loss of `best`, > 0
    clean: Tensor  # (B,) loss of the clean image
    aims: Tensor  # (B, T, K) differences of logits that are 0 on the borders looked at


def fab(
    classes: int = 9, bias: float = 0.1, overshoot: float = 1.05, start: str = "clean"
) -> Attack:
    """The nearest point of another class: on to the linearised border, biased to the clean image.

    Of the borders z_k - z_y = 0 to the `classes` next classes the nearest is taken as a plane; x
    goes to (1 - a) (x + o d) + a (x0 + o d0) with d and d0 the shortest ways to it from x and from
    x0 in [0, 1], a = |d| / (|d| + |d0|), at most `bias`. After a success x goes back by a tenth
    towards x0. At the end three readings refine the nearest success on its line to x0.
    classes: at the clean image; the paper takes all. A target has one border, to its best rival.
    bias, overshoot: a at most, and o.
    start: "clean", or "random" (half-way to a random point of the ball), which restarts need.
    Borders are those of the mean logits over the draws, successes those on more than half of them.
    The ball's radius is the furthest that it looks.
    Cost: `classes` backwards a draw and step, and two forwards.
    """
    return _attack("fab", classes, bias, overshoot, start, turns=False)


def fab_t(
    targets: int = 9, bias: float = 0.1, overshoot: float = 1.05, start: str = "clean"
) -> Attack:
    """As `fab`, on one border after the other: one backward a step however many classes.

    targets: the next classes at the clean image; each has an equal share of the steps.
    bias, overshoot, start: as for `fab`.
    Cost: two forwards and one backward pass a draw and step; 9 x 100 steps are AutoAttack's.
    """
    return _attack("fab-t", targets, bias, overshoot, start, turns=True)


def _attack(
    name: str, number: int, bias: float, overshoot: float, start: str, turns: bool
) -> Attack:
    one_of("start", start, ("clean", "random"), f"attack {name}")
    if number < 1 or not 0 <= bias <= 1 or overshoot < 1:
        raise BadSetting(
            f"attack {name}: takes 1 class or more, bias in [0, 1] and overshoot >= 1, got "
            f"{number}, {bias:g} and {overshoot:g}."
        )

    def begin(p: Problem, turn: int) -> Tensor:
        if start == "clean":
            return p.x0
        far = p.threat.ball.start(p.x0, p.key.fold("start", turn))
        return p.threat.project((far + p.x0) / 2, p.x0)

    def init(p: Problem) -> Border:
        none = p.x0.new_zeros((len(p.x0), 1))
        size, zero = torch.full_like(none[:, 0], torch.inf), none[:, 0]
        return Border(begin(p, 0), none, p.x0, size, zero, zero, none[:, None])

    def advance(p: Problem, s: Border, t: int) -> Border:
        if t == 0:
            s = _opened(p, s, min(number, p.steps) if turns else number)
        count = s.aims.shape[1] if turns and not p.threat.targeted else 1
        turn, _, end = turn_of(t, p.steps, count)
        if p.threat.targeted:
            aims = _difference(p.goal[:, None], rivals(s.scores, p.goal, 1)[:, 0], s.scores)
        else:
            aims = s.aims[:, turn : turn + 1] if turns else s.aims
        x = p.threat.project(_crossed(p, s.x, aims, t, bias, overshoot), p.x0)
        s = _tried(p, s, x, t)
        if t + 1 == p.steps:
            return _refined(p, s, t)
        return s._replace(x=begin(p, turn + 1)) if t + 1 == end else s

    balls = ("linf", "l1", *EUCLIDEAN)
    return Attack(init, advance, balls=balls, loss="margin", nearest=True)


def _norm(p: Problem) -> str:
    return "l2" if p.threat.ball.name in EUCLIDEAN else p.threat.ball.name


def _length(x: Tensor, norm: str) -> Tensor:
    """Norm of each row, (B,)."""
    return {"l1": lambda v: row_sum(v.abs()), "l2": l2, "linf": linf}[norm](x)


def _difference(up: Tensor, down: Tensor, scores: Tensor) -> Tensor:
    """z_up - z_down as weights of the logits: classes (B, n) and (B,) to (B, n, K)."""
    classes = scores.shape[1]
    plus, minus = (functional.one_hot(i, classes) for i in (up, down[:, None]))
    return (plus - minus).to(scores.dtype)


def _opened(p: Problem, s: Border, number: int) -> Border:
    """The clean image's scores and the borders next to it."""
    reading = p.query(p.x0, 0, "clean")
    assert reading.scores is not None
    assert reading.loss is not None
    near = rivals(reading.scores, p.goal, number)
    aims = _difference(near, p.goal, reading.scores)
    return s._replace(scores=reading.scores, clean=reading.loss, aims=aims)


def _crossed(p: Problem, x: Tensor, aims: Tensor, t: int, bias: float, overshoot: float) -> Tensor:
    """x moved over the nearest of its linearised borders."""
    norm = _norm(p)
    nearest, normal, gain = torch.full_like(x[:, 0, 0, 0], torch.inf), x, x[:, 0, 0, 0]
    reading = p.jacobian(x, aims, t)  # a backward pass each
    assert reading.scores is not None
    assert reading.gradient is not None
    for aim, slope in zip(aims.unbind(1), reading.gradient.unbind(1), strict=True):
        short = -row_sum(reading.scores * aim)
        away = short.abs() / _length(slope, DUAL[norm]).clamp_min(1e-30)
        nearer = away < nearest
        nearest = torch.where(nearer, away, nearest)
        normal = torch.where(rows(nearer, x), slope, normal)
        gain = torch.where(nearer, short, gain)
    here = onto_plane(x, normal, gain, norm) - x
    whole = gain.double() + row_sum(normal.double() * (x.double() - p.x0.double()))
    there = onto_plane(p.x0, normal, whole, norm) - p.x0
    from_x, from_clean = _length(here, norm), _length(there, norm)
    a = rows((from_x / (from_x + from_clean).clamp_min(1e-30)).clamp_max(bias), x)
    return (1 - a) * (x + overshoot * here) + a * (p.x0 + overshoot * there)


def _kept(p: Problem, s: Border, x: Tensor, won: Tensor, loss: Tensor) -> Border:
    """With x for the best where it is a nearer success."""
    size = p.distance(x)
    nearer = won & (size < s.size)
    return s._replace(
        best=torch.where(rows(nearer, x), x, s.best),
        size=torch.where(nearer, size, s.size),
        depth=torch.where(nearer, loss, s.depth),
    )


def _tried(p: Problem, s: Border, x: Tensor, t: int) -> Border:
    """After a reading at x: from a success back towards the clean image."""
    reading = p.query(x, t, "try")
    assert reading.loss is not None
    assert reading.scores is not None
    won = met(reading)
    s = _kept(p, s, x, won, reading.loss)
    back = p.threat.project(p.x0 + CENTRAL * (x - p.x0), p.x0)
    return s._replace(x=torch.where(rows(won, x), back, x), scores=reading.scores)


def _refined(p: Problem, s: Border, t: int) -> Border:
    """The border on the line from the clean image to the best point, by false position."""
    far, low, low_loss = s.best, torch.zeros_like(s.size), s.clean
    high, high_loss, some = torch.ones_like(low), s.depth, s.size.isfinite()
    for i in range(FINAL):
        rise = (high_loss - low_loss).clamp_min(1e-30)
        share = low + (high - low) * (-low_loss / rise).clamp(0.05, 0.95)
        x = p.threat.project(p.x0 + rows(share, far) * (far - p.x0), p.x0)
        reading = p.query(torch.where(rows(some, x), x, s.x), t, "final", i)
        assert reading.loss is not None
        won, loss = met(reading), reading.loss
        s = _kept(p, s, x, won & some, loss)
        low, low_loss = torch.where(won, low, share), torch.where(won, low_loss, loss)
        high, high_loss = torch.where(won, share, high), torch.where(won, loss, high_loss)
    return s._replace(x=torch.where(rows(some, s.x), s.best, s.x))
