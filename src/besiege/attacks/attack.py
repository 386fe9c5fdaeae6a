"""The shape of every attack: a pair of pure functions that see an oracle and nothing else."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol, TypeAlias, TypedDict, Unpack

import torch
from torch import Tensor
from torch.nn import functional

from besiege.attacks.oracle import Reading
from besiege.attacks.threat import Threat
from besiege.core.key import Key


class How(TypedDict, total=False):
    """How an oracle is asked; see `Oracle`."""

    gradient: bool
    draws: int | None
    weights: Tensor | None


class Ask(Protocol):
    """What an attack may ask; see `Oracle`."""

    def __call__(self, x: Tensor, goal: Tensor, key: Key, **how: Unpack[How]) -> Reading:
        """A reading at x (B, C, H, W) for goal, or without gradient at (B, n, C, H, W)."""
        ...


class Gradients(Protocol):
    """Where gradients come from: from an oracle to the one that an attack asks in its place."""

    @property
    def estimates(self) -> bool:
        """Whether they are estimates from forward passes, so that none goes backward."""
        return False

    def __call__(self, oracle: Ask) -> Ask:
        """The oracle to ask in place of this one."""
        ...


@dataclass(frozen=True)
class Backward(Gradients):
    """Backward passes through the defense as the attacker sees it.

    Needs the access "gradients". Cost: as many backwards as forwards.
    """

    def __call__(self, oracle: Ask) -> Ask:
        """The oracle itself."""
        return oracle


class State(Protocol):
    """What an attack carries from step to step: a NamedTuple of tensors with first axis B."""

    @property
    def x(self) -> Tensor:
        """(B, C, H, W) the current point, always admitted by the threat."""
        ...


TOGETHER = 32  # points an example that are asked in one call, where there are many
EUCLIDEAN = ("l2", "rms", "dissimilarity")  # balls whose sizes are the l2 norm in some unit


def met(reading: Reading) -> Tensor:
    """Which goals are met: on more than half of the draws, (B,) bool."""
    return reading.won > 0.5


def rivals(scores: Tensor, label: Tensor, number: int) -> Tensor:
    """The classes with the largest scores (B, K) but the label's, best first: (B, n) int64.

    n is `number`, or K - 1 where there are no more.

    >>> rivals(torch.tensor([[1.0, 3.0, 2.0]]), torch.tensor([1]), 9)
    tensor([[2, 0]])
    """
    classes = scores.shape[1]
    hidden = functional.one_hot(label, classes).bool()
    return scores.masked_fill(hidden, -torch.inf).topk(min(number, classes - 1), 1).indices


class Turn(NamedTuple):
    """A share of the steps."""

    number: int
    first: int
    end: int  # one beyond its last step


def turn_of(step: int, steps: int, turns: int) -> Turn:
    """Which of `turns` equal shares of the steps a step is in.

    >>> [turn_of(t, 5, 2).number for t in range(5)], turn_of(3, 5, 2)
    ([0, 0, 0, 1, 1], Turn(number=1, first=3, end=5))
    """
    number = step * turns // steps
    return Turn(number, -(-number * steps // turns), -(-(number + 1) * steps // turns))


class Point(NamedTuple):
    """The state of an attack that carries nothing but its current point."""

    x: Tensor  # (B, C, H, W)


@dataclass(frozen=True)
class Problem:
    """One batch: clean images, goals, keys, and the oracle to ask."""

    x0: Tensor  # (B, C, H, W) in [0, 1]
    goal: Tensor  # (B,) true labels, or targets if the threat is targeted
    key: Key
    oracle: Ask
    threat: Threat
    steps: int  # how many the search will make, for schedules
    random: bool = False  # what the oracle asks draws: two readings of one point differ
    former: Tensor | None = None  # points like x0 that earlier searches have left

    def take(self, index: Tensor) -> Problem:
        """The problem of some rows."""
        former = None if self.former is None else self.former[index]
        x0, goal, key = self.x0[index], self.goal[index], self.key[index]
        return replace(self, x0=x0, goal=goal, key=key, former=former)

    def ask(self, x: Tensor, step: int, *parts: int | str) -> Reading:
        """The reading at x in step `step`; name further `parts` for a second one in that step.

        Gradients are not None here: the oracle raises where the threat grants none.
        """
        return self.oracle(x, self.goal, self.key.fold("step", step, *parts))

    def slope(self, x: Tensor, step: int, *parts: int | str) -> Tensor:
        """The gradient of `ask`."""
        gradient = self.ask(x, step, *parts).gradient
        assert gradient is not None
        return gradient

    def query(self, x: Tensor, step: int, *parts: int | str) -> Reading:
        """The reading at x (B, C, H, W), or at n points an example (B, n, C, H, W); no gradient."""
        return self.oracle(x, self.goal, self.key.fold("step", step, *parts), gradient=False)

    def survey(
        self, points: Callable[[slice], Tensor], number: int, step: int, *parts: int | str
    ) -> Reading:
        """The readings, (B, number), of points that are made only when they are asked.

        points: gives those of a window, (B, n, C, H, W); at most TOGETHER are held at once.
        """
        found = []
        for start in range(0, number, TOGETHER):
            window = points(slice(start, min(start + TOGETHER, number)))
            found.append(self.query(window, step, *parts, "window", start))
        loss, scores = (
            torch.cat([getattr(r, name) for r in found], 1) if found[0].loss is not None else None
            for name in ("loss", "scores")
        )
        return Reading(loss, None, torch.cat([r.won for r in found], 1), scores)

    def jacobian(self, x: Tensor, weights: Tensor, step: int, *parts: int | str) -> Reading:
        """The reading whose gradient is that of the sum of weights (B, K) times mean logits.

        Of weights (B, m, K) it is (B, m, C, H, W), for the forward passes of one.
        """
        key = self.key.fold("step", step, *parts)
        return self.oracle(x, self.goal, key, weights=weights)

    def distance(self, x: Tensor) -> Tensor:
        """Of each row from its clean image, in the ball's size, (B,)."""
        return self.threat.ball.size(x, self.x0)


@dataclass(frozen=True)
class Attack:
    """`init(problem)` gives the state before the first step, `step(problem, state, t)` the next.

    access: the least that it needs, "gradients", "scores" or "labels".
    balls: the kinds of ball that it is made for; empty for any.
    loss: what it ascends unless the recipe names another, a spec of the loss catalog.
    nearest: it looks for the nearest point that meets the goal, not for the worst of the ball: no
        example is dropped at its first success, and of two successes the nearer one counts.
    least: of those, only successes whose loss is at least this count: a margin that they need.
    whole: of an attack of another library, which runs to its end by itself: problem -> points
        (B, C, H, W), in the ball or not; `init` and `step` are then not called.
    """

    init: Callable[[Problem], Any]
    step: Callable[[Problem, Any, int], Any]
    access: str = "gradients"
    balls: tuple[str, ...] = ()
    loss: str = "cross-entropy"
    nearest: bool = False
    least: float = -math.inf
    whole: Callable[[Problem], Tensor] | None = None

    @property
    def traits(self) -> Mapping[str, str]:
        """What a user has to know before it is chosen, in words.

        >>> for trait in Attack(lambda p: Point(p.x0), lambda p, s, t: s).traits.items():
        ...     print(*trait, sep=": ")
        access: gradients
        balls: any
        looks for: worst in the ball
        loss: cross-entropy
        """
        return {
            "access": self.access,
            "balls": ", ".join(self.balls) or "any",
            "looks for": "nearest" if self.nearest else "worst in the ball",
            "loss": self.loss,
        }


# What makes another attack of one, "smallest of pgd".
Wrapper: TypeAlias = Callable[[Attack], Attack]
