"""Many targets in turn (Gowal et al. 2019, arXiv:1910.09338, section 3)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple, Unpack

from torch import Tensor
from torch.nn import functional

from besiege.attacks.attack import Attack, How, Problem, Turn, Wrapper, rivals, turn_of
from besiege.attacks.oracle import Reading
from besiege.core.batch import row_sum
from besiege.core.errors import BadSetting
from besiege.core.key import Key


class Aiming(NamedTuple):
    """A search for one target, and those that have their turns."""

    x: Tensor  # (B, C, H, W)
    inner: Any  # the state of the search for the target that has its turn
    aims: Tensor  # (B, T, K) sums of logits to be raised in turn; zeros before the first step


def multi_targeted(targets: int = 9) -> Wrapper:
    """The attack, towards one wrong class after the other: up z_t - z_y in place of its loss.

    The `targets` classes that come next at the clean image are reached for in turn, each by a
    search of its own of an equal share of the steps. Any wrong class counts, whichever has its
    turn. Where the threat is targeted there is one class to reach, and the attack is as it was.
    targets: at most all other classes, and no more than steps.
    Cost: that of the attack, and one forward a draw and target.
    """
    if targets < 1:
        raise BadSetting(f"multi-targeted: targets is a number of classes >= 1, got {targets}.")

    def around(attack: Attack) -> Attack:
        if attack.access == "labels":
            raise BadSetting("multi-targeted raises scores, but the attack asks for labels only.")

        def init(p: Problem) -> Aiming:
            inner = attack.init(_turned(p, 0))
            return Aiming(inner.x, inner, p.x0.new_zeros((len(p.x0), 1, 1)))

        def advance(p: Problem, s: Aiming, t: int) -> Aiming:
            if p.threat.targeted:
                inner = attack.step(p, s.inner, t)
                return s._replace(x=inner.x, inner=inner)
            if t == 0:
                s = s._replace(aims=_aims(p, min(targets, p.steps)))
            turn = turn_of(t, p.steps, s.aims.shape[1])
            here = _towards(p, s.aims[:, turn.number], turn)
            inner = attack.step(here, s.inner, t - turn.first)
            if t + 1 == turn.end < p.steps:
                here.query(inner.x, t, "end")  # else the last point of this turn is never read
                inner = attack.init(_turned(p, turn.number + 1))
            return s._replace(x=inner.x, inner=inner)

        return replace(attack, init=init, step=advance)

    return around


def _aims(p: Problem, number: int) -> Tensor:
    """z_t - z_y as weights of the logits, for the best rivals at the clean image, (B, T, K)."""
    scores = p.query(p.x0, 0, "rivals").scores
    assert scores is not None
    classes = scores.shape[1]
    near = functional.one_hot(rivals(scores, p.goal, number), classes)
    return (near - functional.one_hot(p.goal, classes)[:, None]).to(p.x0.dtype)


def _towards(p: Problem, aim: Tensor, turn: Turn) -> Problem:
    """The problem of one turn, whose loss is the sum of `aim` (B, K) times mean logits."""

    def ask(x: Tensor, goal: Tensor, key: Key, **how: Unpack[How]) -> Reading:
        if how.get("gradient", True) and how.get("weights") is None:
            how["weights"] = aim
        reading = p.oracle(x, goal, key, **how)
        assert reading.scores is not None
        weights = aim if x.ndim == 4 else aim[:, None]
        raised = row_sum((reading.scores * weights).flatten(0, -2))
        return reading._replace(loss=raised.reshape(reading.won.shape))

    return replace(_turned(p, turn.number), oracle=ask, steps=turn.end - turn.first)


def _turned(p: Problem, number: int) -> Problem:
    return replace(p, key=p.key.fold("turn", number))
