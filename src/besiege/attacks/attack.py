"""The shape of every attack: a pair of pure functions that see an oracle and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol, TypeAlias

from torch import Tensor

from besiege.attacks.oracle import Reading
from besiege.attacks.threat import Threat
from besiege.core.key import Key


class Ask(Protocol):
    """What an attack may ask; see `Oracle`."""

    def __call__(
        self, x: Tensor, goal: Tensor, key: Key, *, gradient: bool = True, draws: int | None = None
    ) -> Reading:
        """A reading at x for goal."""
        ...


# Where gradients come from: from an oracle to the one that an attack asks in its place.
Gradients: TypeAlias = Callable[[Ask], Ask]


def backward() -> Gradients:
    """Backward passes through the defense as the attacker sees it.

    Needs the access "gradients". Cost: as many backwards as forwards.
    """
    return lambda oracle: oracle


class State(Protocol):
    """What an attack carries from step to step: a NamedTuple of tensors with first axis B."""

    @property
    def x(self) -> Tensor:
        """(B, C, H, W) the current point, always admitted by the threat."""
        ...


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

    def take(self, index: Tensor) -> Problem:
        """The problem of some rows."""
        return replace(self, x0=self.x0[index], goal=self.goal[index], key=self.key[index])

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


@dataclass(frozen=True)
class Attack:
    """`init(problem)` gives the state before the first step, `step(problem, state, t)` the next."""

    init: Callable[[Problem], Any]
    step: Callable[[Problem, Any, int], Any]
