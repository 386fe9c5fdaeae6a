"""The radius at which an attack does the damage that a paper speaks of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from besiege.attacks.balls.euclidean import Dissimilarity
from besiege.attacks.search import Found
from besiege.core.errors import BadSetting
from besiege.core.key import Key
from besiege.study.siege import Siege


@dataclass(frozen=True)
class Strength:
    """A radius and what came of it; `tried` are (eps, mean dissimilarity) in the order asked."""

    siege: Siege  # with that radius
    found: Found
    dissimilarity: float
    tried: Sequence[tuple[float, float]]

    @property
    def eps(self) -> float:
        """The radius."""
        return self.siege.threat.ball.eps


def calibrated(
    siege: Siege,
    x: Tensor,
    goal: Tensor,
    key: Key,
    wanted: float = 0.06,
    *,
    most: float = 1.0,
    tolerance: float = 0.02,
    rounds: int = 20,
) -> Strength:
    """`siege` at the radius where the mean dissimilarity of its points is `wanted`.

    Guo et al. 2018 (arXiv:1711.00117), figures 4 and 5: attacks of unlike kinds are compared at one
    mean of ||x' - x|| / ||x|| over the images, pixels in [0, 1], which they reach by tuning each
    (0.06; 0 to 0.08 in steps). Here eps is halved in, between 0 and `most`.
    x: (B, C, H, W) in [0, 1], goal (B,), key of the images: as for `Siege.attack`.
    tolerance: share of `wanted` by which the mean may miss it. A search that drops examples at
        their first success keeps the mean below what its ball allows.
    Raises BadSetting where `most` does not suffice, or `rounds` do not.
    Cost: the attack, once a round.
    """
    if not wanted > 0 or not 0 < tolerance < 1:
        raise BadSetting(
            f"a wanted dissimilarity is > 0 and its tolerance in (0, 1), got {wanted:g}, "
            f"{tolerance:g}."
        )
    low, high, tried, eps = 0.0, most, list[tuple[float, float]](), most
    for _ in range(rounds):
        ball: Any = siege.threat.ball
        sized = replace(siege, threat=replace(siege.threat, ball=replace(ball, eps=eps)))
        found = sized.attack(x, goal, key)
        mean = float(Dissimilarity(1.0).size(found.x, x).double().mean())
        tried.append((eps, mean))
        if abs(mean - wanted) <= tolerance * wanted:
            return Strength(sized, found, mean, tuple(tried))
        if mean < wanted and eps == most:
            break
        low, high = (eps, high) if mean < wanted else (low, eps)
        eps = (low + high) / 2
    near = min(tried, key=lambda t: abs(t[1] - wanted))
    raise BadSetting(
        f"no eps up to {most:g} gave {siege.recipe.name} a mean dissimilarity of {wanted:g} in "
        f"{len(tried)} rounds; nearest is {near[1]:.4g} at eps {near[0]:.4g}. Raise most or "
        "tolerance."
    )
