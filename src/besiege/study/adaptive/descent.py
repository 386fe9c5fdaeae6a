"""The descent test: does a step along a surrogate's gradient lead anywhere on the true defense?

A surrogate is a guess at a gradient. Its test needs no gradient: the defense itself, forward only,
on fresh draws, says whether one step along it is worth more than one at random.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from besiege.attacks.balls.ball import spelt
from besiege.attacks.loss import cross_entropy
from besiege.attacks.oracle import Meter, Oracle
from besiege.attacks.threat import Linf, Threat
from besiege.core.errors import BadSetting, unknown
from besiege.core.key import Key
from besiege.core.stats import Interval, share_interval
from besiege.defenses.defense import Deployed
from besiege.defenses.transform import Shape
from besiege.study.recipe import Recipe

RANDOM = "random"  # the name that random directions have among the surrogates


@dataclass(frozen=True)
class Step:
    """One surrogate at one size of step.

    share: of the examples, averaged over the random directions, on which the step gains more loss
    than the random one does; half of them by luck alone. gain: mean loss gained over the mean loss
    before, on fresh draws of the true defense; larger is better for the attacker.
    """

    surrogate: str
    size: float
    share: Interval
    gain: float

    @property
    def leads(self) -> bool:
        """Whether it beats a random direction beyond its interval: if not, check 7 warns."""
        return self.share.low > 0.5


@dataclass(frozen=True)
class Descent:
    """What the steps along each surrogate of one link are worth; RANDOM is one of them."""

    link: str
    steps: tuple[Step, ...]

    def gain(self, surrogate: str) -> float:
        """Of one surrogate, the mean over the sizes."""
        found = [step.gain for step in self.steps if step.surrogate == surrogate]
        if not found:
            names = {step.surrogate for step in self.steps}
            raise unknown("surrogate", surrogate, names, where=f"the descent test of {self.link}")
        return float(np.mean(found))

    @property
    def ranking(self) -> tuple[str, ...]:
        """Surrogates by their gain, the largest first; what ranks below RANDOM misleads."""
        names = dict.fromkeys(step.surrogate for step in self.steps)
        return tuple(sorted(names, key=self.gain, reverse=True))

    def __str__(self) -> str:
        rows = [
            f"  {s.surrogate:18} {spelt(s.size):>7}  {s.share!s:>22}  {s.gain:+8.2f}"
            f"{'' if s.leads or s.surrogate == RANDOM else '  no better than random'}"
            for s in self.steps
        ]
        return "\n".join(
            [f"{self.link}: step, better than random, loss gained over loss before", *rows]
        )


def descent(
    defense: Deployed,
    link: str,
    x: Tensor,
    y: Tensor,
    key: Key,
    *,
    surrogates: Sequence[str] = (),
    sizes: Sequence[float] = (1 / 255, 2 / 255, 4 / 255),
    draws: int = 8,
    fresh: int = 8,
    directions: int = 2,
    targeted: bool = False,
    micro_batch: int = 32,
) -> Descent:
    """Test surrogates of `link` in `defense` by single steps.

    x (B, C, H, W) in [0, 1]; y (B,) labels, or targets if `targeted`; key: of the examples.
    surrogates: names; all that the link has, and the identity where it keeps the shape, if empty.
    Other links are seen through their best surrogate. sizes: of the steps, linf. draws: that a
    gradient is the mean of. fresh: that the loss (cross-entropy) of each point is the mean of, the
    same for all points of an example and none of those before. directions: random ones, signs.

    A step is x + size sign(g), clipped to [0, 1]. Deterministic defenses take one draw.
    Raises UnknownName for a link or surrogate that is not there.
    Cost: for S surrogates and Z sizes (1 + (S + directions) Z) fresh + S draws forwards an example,
    and S draws backwards.
    """
    if min(draws, fresh, directions) < 1 or not sizes or min(sizes) <= 0:
        raise BadSetting("descent: draws, fresh, directions >= 1 and sizes > 0 are needed.")
    found = known_surrogates(defense, link, (x.shape[1], x.shape[2], x.shape[3]))
    names = tuple(surrogates) or found
    threat = Threat(Linf(max(sizes)), targeted=targeted)
    oracle = Oracle(defense, cross_entropy(), threat, Meter(None), draws, "loss", micro_batch)
    if not defense.is_random((x.shape[1], x.shape[2], x.shape[3])):
        oracle, fresh = replace(oracle, draws=1), 1

    def slope(surrogate: str) -> Tensor:
        """The mean gradient under a surrogate."""
        view = Recipe("descent", view={link: surrogate}).seen(defense)
        reading = replace(oracle, view=view)(x, y, key.fold("descent", "gradient"))
        assert reading.gradient is not None
        return reading.gradient

    def loss(point: Tensor) -> Tensor:
        """The true loss, (B,) float64."""
        reading = oracle(point, y, key.fold("descent", "fresh"), gradient=False, draws=fresh)
        assert reading.loss is not None
        return reading.loss.double()

    at_random = [
        key.fold("descent", "direction", i).normal(*x.shape[1:]) for i in range(directions)
    ]
    return Descent(link, tuple(_steps(x, loss, names, slope, at_random, sizes)))


def known_surrogates(defense: Deployed, link: str, image: Shape) -> tuple[str, ...]:
    """The names of a link's surrogates, and the identity where it keeps the shape.

    image: shape of what the defense is given. Raises UnknownName for a link that is not there.
    """
    for part in defense.parts:
        shape = image
        for one in part.links:
            out = one.out_shape(shape)
            if one.name == link:
                same = ["identity"] if out == shape else []
                return tuple(dict.fromkeys([*one.surrogates, *same]))
            shape = out
    raise unknown("link", link, [one.name for one in defense.links], where="the descent test")


def _steps(
    x: Tensor,
    loss: Callable[[Tensor], Tensor],
    names: Sequence[str],
    slope: Callable[[str], Tensor],
    at_random: Sequence[Tensor],
    sizes: Sequence[float],
) -> list[Step]:
    """A `Step` for each surrogate and size, and for the random directions."""
    before = loss(x)
    scale = float(before.abs().mean().clamp_min(1e-12))

    def gains(direction: Tensor, size: float) -> Tensor:
        ball = Linf(size)
        return loss(ball.project(x + size * ball.ascent(direction), x)) - before

    luck = {size: torch.stack([gains(d, size) for d in at_random]) for size in sizes}
    found = []
    for name in names:
        direction = slope(name)
        for size in sizes:
            own = gains(direction, size)
            found.append(_step(name, size, own[None], luck[size], scale))
    halves = [_step(RANDOM, size, luck[size], luck[size], scale) for size in sizes]
    return [*found, *halves]


def _step(name: str, size: float, own: Tensor, luck: Tensor, scale: float) -> Step:
    """own, luck: gains (directions, B). A draw counts half, so that equal gains are luck."""
    wins = (own > luck).double() + 0.5 * (own == luck).double()
    share = share_interval(wins.mean(0).cpu().numpy())
    return Step(name, size, share, float(own.mean()) / scale)
