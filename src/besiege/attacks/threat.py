"""What the attacker may do: a ball around the clean image, a goal, and what it may ask."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from besiege.core.batch import l2, linf, rows
from besiege.core.entry import Catalog, Entry
from besiege.core.errors import BadSetting, unknown
from besiege.core.key import Key

ACCESS = ("gradients", "scores", "labels")


class Ball(Protocol):
    """All images at most `eps` away from the clean one, inside [0, 1]."""

    eps: float  # radius, in the units of the pixels

    @property
    def name(self) -> str:
        """Name of the norm."""
        ...

    def size(self, x: Tensor, x0: Tensor) -> Tensor:
        """Distance of each row of x from x0, (B, ...) -> (B,)."""
        ...

    def project(self, x: Tensor, x0: Tensor) -> Tensor:
        """The nearest image to x that is in the ball and in [0, 1]."""
        ...

    def ascent(self, gradient: Tensor) -> Tensor:
        """The step of size 1 in this norm that ascends steepest; zero where the gradient is."""
        ...

    def start(self, x0: Tensor, key: Key) -> Tensor:
        """A random admitted image."""
        ...


def _radius(eps: float, name: str) -> None:
    if not (math.isfinite(eps) and eps >= 0):
        raise BadSetting(f"ball {name}: eps is a radius >= 0 on the [0, 1] pixel scale, got {eps}.")
    if eps > 1:
        raise BadSetting(
            f"ball {name}: eps={eps:g} is larger than the whole pixel range [0, 1]; "
            f'for grey levels write "{eps:g}/255".'
        )


@dataclass(frozen=True)
class Linf(Ball):
    """Every entry may move by at most eps.

    >>> Linf(0.25).project(torch.ones(1, 1, 1, 2), torch.zeros(1, 1, 1, 2))
    tensor([[[[0.2500, 0.2500]]]])
    """

    eps: float

    def __post_init__(self) -> None:
        _radius(self.eps, self.name)

    @property
    def name(self) -> str:
        """linf."""
        return "linf"

    def size(self, x: Tensor, x0: Tensor) -> Tensor:
        """Largest change of an entry."""
        return linf(x - x0)

    def project(self, x: Tensor, x0: Tensor) -> Tensor:
        """Clamp to the box."""
        return x.clamp(x0 - self.eps, x0 + self.eps).clamp(0, 1)

    def ascent(self, gradient: Tensor) -> Tensor:
        """The sign; 0 where the gradient is 0."""
        return gradient.sign()

    def start(self, x0: Tensor, key: Key) -> Tensor:
        """Uniform in the box, then clipped to [0, 1]."""
        u = key.uniform(*x0.shape[1:], dtype=x0.dtype)
        return self.project(x0 + self.eps * (2 * u - 1), x0)


@dataclass(frozen=True)
class RmsL2(Ball):
    """Root mean square over all C*H*W entries at most eps: l2 as Qiu et al. 2020 measure it.

    The plain l2 norm is sqrt(C*H*W) times as large: 0.05 at 299 x 299 x 3 is 25.9.
    """

    eps: float

    def __post_init__(self) -> None:
        _radius(self.eps, self.name)

    @property
    def name(self) -> str:
        """rms."""
        return "rms"

    def size(self, x: Tensor, x0: Tensor) -> Tensor:
        """l2 distance divided by sqrt(C*H*W)."""
        return l2(x - x0) / math.sqrt(x0[0].numel())

    def project(self, x: Tensor, x0: Tensor) -> Tensor:
        """Scale the change back, then clip: clipping only moves x nearer to x0."""
        shift = x - x0
        size = l2(shift) / math.sqrt(x0[0].numel())
        factor = (self.eps / size.clamp_min(1e-30)).clamp_max(1)
        return (x0 + rows(factor, x0) * shift).clamp(0, 1)

    def ascent(self, gradient: Tensor) -> Tensor:
        """The gradient brought to root mean square 1."""
        size = l2(gradient) / math.sqrt(gradient[0].numel())
        return gradient / rows(torch.where(size > 0, size, 1), gradient)

    def start(self, x0: Tensor, key: Key) -> Tensor:
        """Uniform direction, uniform radius in [0, eps]."""
        direction = self.ascent(key.fold("direction").normal(*x0.shape[1:]).to(x0.dtype))
        radius = self.eps * key.fold("radius").uniform(dtype=x0.dtype)
        return self.project(x0 + rows(radius, x0) * direction, x0)


BALLS: Catalog[Ball] = Catalog(
    "ball",
    [
        Entry("linf", Linf, "Goodfellow et al. 2015 (arXiv:1412.6572)", cases=({"eps": 0.03},)),
        Entry("rms", RmsL2, "Qiu et al. 2020, equation 2", cases=({"eps": 0.05},)),
    ],
)


@dataclass(frozen=True)
class Threat:
    """A ball, a goal, and the access that the attacker has.

    targeted: the goal is a given label, not just any wrong one.
    access: "gradients" (all), "scores" (no gradients) or "labels".
    eight_bit: images are rounded to 8 bit before they are judged.
    passes: forward and backward passes an example that a search may spend; None for no limit.
    """

    ball: Ball
    targeted: bool = False
    access: str = "gradients"
    eight_bit: bool = False
    passes: int | None = None

    def __post_init__(self) -> None:
        if self.access not in ACCESS:
            raise unknown("access", self.access, ACCESS, where="a threat")
        if self.passes is not None and self.passes < 1:
            raise BadSetting(f"a threat's limit of passes is at least 1, got {self.passes}.")

    @property
    def name(self) -> str:
        """Ball and radius, in 255ths where that is a round number.

        >>> Threat(Linf(8 / 255)).name, Threat(RmsL2(0.05)).name
        ('linf 8/255', 'rms 0.05')
        """
        levels = self.ball.eps * 255
        short = abs(levels - round(levels)) < 1e-6 and levels >= 0.5
        return (
            f"{self.ball.name} {round(levels)}/255"
            if short
            else f"{self.ball.name} {self.ball.eps:g}"
        )

    def project(self, x: Tensor, x0: Tensor) -> Tensor:
        """The nearest admitted image."""
        return self.ball.project(x, x0)

    def submitted(self, x: Tensor) -> Tensor:
        """The image as the judge gets it: rounded to 8 bit if the threat says so."""
        return (x * 255).round() / 255 if self.eight_bit else x

    def admits(self, x: Tensor, x0: Tensor) -> Tensor:
        """Which rows are in the ball and in [0, 1], (B,) bool.

        The ball's edge is eps (1 + 1e-6) plus 6e-8, half a unit in the last place of a float32
        pixel: x0 + eps itself rounds by that much.
        """
        inside = ((x >= 0) & (x <= 1)).flatten(1).all(1)
        size = self.ball.size(x.double(), x0.double())
        return inside & (size <= self.ball.eps * (1 + 1e-6) + 6e-8)
