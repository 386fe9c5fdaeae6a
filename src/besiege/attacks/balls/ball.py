"""What a ball is: the images that the attacker may hand over, around each clean one."""

from __future__ import annotations

import math
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from besiege.core.errors import BadSetting
from besiege.core.key import Key


class Ball(Protocol):
    """All images at most `eps` away from the clean one, inside [0, 1]."""

    eps: float  # radius, in the units of `size`
    convex: ClassVar[bool] = True  # else `size` is a count: it does not shrink with the change

    @property
    def name(self) -> str:
        """Name of the norm, with every setting but eps that is not the default."""
        ...

    @property
    def sparse(self) -> bool:
        """Whether the steepest step of its norm moves few entries."""
        return False

    @property
    def title(self) -> str:
        """Norm and radius, as tables print them."""
        return f"{self.name} {spelt(self.eps)}"

    def size(self, x: Tensor, x0: Tensor) -> Tensor:
        """Distance of each row of x from x0, (B, ...) -> (B,)."""
        ...

    def onto(self, x: Tensor, x0: Tensor, radius: Tensor) -> Tensor:
        """The nearest image to x of size at most radius (B,) in [0, 1], whatever eps."""
        ...

    def project(self, x: Tensor, x0: Tensor) -> Tensor:
        """The nearest image to x that is in the ball and in [0, 1]."""
        return self.onto(x, x0, x0.new_full((len(x0),), self.eps, dtype=torch.float64))

    def rounded(self, x: Tensor, x0: Tensor) -> Tensor:
        """The 8-bit image in the ball nearest to the admitted x; x0 where the ball holds none."""
        ...

    def ascent(self, gradient: Tensor) -> Tensor:
        """The step of size 1 in this norm that ascends steepest; zero where the gradient is."""
        ...

    def start(self, x0: Tensor, key: Key) -> Tensor:
        """A random admitted image."""
        ...


def edge(eps: float) -> float:
    """The size that still counts as inside a ball of radius eps.

    eps (1 + 1e-6) plus 6e-8, half a unit in the last place of a float32 pixel: x0 + eps itself
    rounds by that much.
    """
    return eps * (1 + 1e-6) + 6e-8


def spelt(eps: float) -> str:
    """A radius: decimal where three digits are exact, else in 255ths where that is whole.

    >>> spelt(8 / 255), spelt(0.05), spelt(12.0), spelt(0.123456), spelt(1234567.0)
    ('8/255', '0.05', '12', '0.123456', '1234567')
    """
    levels = round(eps * 255)
    if float(eps).is_integer():
        return f"{eps:.0f}"
    if float(f"{eps:.3g}") != eps and levels >= 1 and abs(eps * 255 - levels) < 1e-6:
        return f"{levels}/255"
    return f"{eps:g}"


def check_radius(eps: float, name: str, *, most: float = math.inf, why: str = "") -> None:
    """Raise BadSetting for a radius that is negative, not finite, or more than `most`."""
    if not (math.isfinite(eps) and eps >= 0):
        raise BadSetting(f"ball {name}: eps is a radius >= 0 on the [0, 1] pixel scale, got {eps}.")
    if eps > most:
        raise BadSetting(
            f"ball {name}: eps={eps:g} is larger than {why or 'the whole pixel range [0, 1]'}; "
            f'for grey levels write "{eps:g}/255".'
        )
