"""The maximum norm, and bounds for every entry."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor

from besiege.attacks.balls.ball import Ball, check_radius, edge
from besiege.core.batch import linf, rows
from besiege.core.errors import BadSetting
from besiege.core.key import Key


def _levels(x: Tensor, x0: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """x on the nearest of the 256 levels within [low, high]; x0 in rows with an entry of none."""
    below, above = (low.double() * 255).ceil(), (high.double() * 255).floor()
    level = (x.double() * 255).round().clamp(below, above) / 255
    some = (below <= above).flatten(1).all(1)
    return torch.where(rows(some, x), level.to(x.dtype), x0)


@dataclass(frozen=True)
class Linf(Ball):
    """Every entry may move by at most eps.

    >>> Linf(0.25).project(torch.ones(1, 1, 1, 2), torch.zeros(1, 1, 1, 2))
    tensor([[[[0.2500, 0.2500]]]])
    """

    eps: float

    def __post_init__(self) -> None:
        check_radius(self.eps, self.name, most=1)

    @property
    def name(self) -> str:
        """linf."""
        return "linf"

    def size(self, x: Tensor, x0: Tensor) -> Tensor:
        """Largest change of an entry."""
        return linf(x - x0)

    def onto(self, x: Tensor, x0: Tensor, radius: Tensor) -> Tensor:
        """Clamp to the box: exact."""
        reach = rows(radius.to(x0), x0)
        return x.clamp(x0 - reach, x0 + reach).clamp(0, 1)

    def rounded(self, x: Tensor, x0: Tensor) -> Tensor:
        """Each entry on its nearest admitted level: exact."""
        low, high = x0.double() - edge(self.eps), x0.double() + edge(self.eps)
        return _levels(x, x0, low.clamp_min(0), high.clamp_max(1))

    def ascent(self, gradient: Tensor) -> Tensor:
        """The sign; 0 where the gradient is 0."""
        return gradient.sign()

    def start(self, x0: Tensor, key: Key) -> Tensor:
        """Uniform in the box, then clipped to [0, 1]."""
        u = key.uniform(*x0.shape[1:], dtype=x0.dtype)
        return self.project(x0 + self.eps * (2 * u - 1), x0)


@dataclass(frozen=True, eq=False)
class Box(Ball):
    """Every entry between its bounds, and at most eps from where it was; eps = 1 lets all go.

    low, high: numbers, or tensors that broadcast over (C, H, W), all in [0, 1]. The clean value is
    always admitted, so the interval is widened to it. Bounds the wrong way round, low 1 and high 0,
    therefore leave an entry as it is: a mask for patches. With the defaults the threat is
    unrestricted: any image.

    >>> Box(low=0.2).project(torch.zeros(1, 1, 1, 2), torch.tensor([[[[0.1, 0.5]]]]))
    tensor([[[[0.1000, 0.2000]]]])
    """

    eps: float = 1.0
    low: float | Tensor = 0.0
    high: float | Tensor = 1.0

    def __post_init__(self) -> None:
        check_radius(self.eps, self.name, most=1)
        for what, bound in (("low", self.low), ("high", self.high)):
            value = torch.as_tensor(bound)
            if not bool(((value >= 0) & (value <= 1)).all()):
                raise BadSetting(
                    f"ball box: {what} is a pixel value in [0, 1], got values from "
                    f"{float(value.min()):g} to {float(value.max()):g}."
                )

    @property
    def name(self) -> str:
        """box, with its bounds; of tensors six digits of their hash."""
        if isinstance(self.low, Tensor) or isinstance(self.high, Tensor):
            digest = hashlib.sha256()
            for bound in (self.low, self.high):
                value = torch.as_tensor(bound).detach().cpu().double()
                digest.update(repr((tuple(value.shape), value.flatten().tolist())).encode())
            return f"box #{digest.hexdigest()[:6]}"
        whole = self.low == 0 and self.high == 1
        return "box" if whole else f"box {self.low:g}..{self.high:g}"

    @property
    def title(self) -> str:
        """The radius only where it binds.

        >>> Box().title, Box(low=0.2, high=0.8).title
        ('unrestricted', 'box 0.2..0.8')
        """
        if self.eps < 1:
            return super().title
        return "unrestricted" if self.name == Box().name else self.name

    def _bounds(self, x0: Tensor) -> tuple[Tensor, Tensor]:
        low, high = (torch.as_tensor(b).to(x0) for b in (self.low, self.high))
        return torch.minimum(low, x0), torch.maximum(high, x0)

    def size(self, x: Tensor, x0: Tensor) -> Tensor:
        """Largest change of an entry; infinite where one is outside its bounds."""
        low, high = self._bounds(x0)
        outside = ((x < low - edge(0)) | (x > high + edge(0))).flatten(1).any(1)
        return linf(x - x0).masked_fill(outside, torch.inf)

    def onto(self, x: Tensor, x0: Tensor, radius: Tensor) -> Tensor:
        """Clamp each entry: exact."""
        (low, high), reach = self._bounds(x0), rows(radius.to(x0), x0)
        return x.clamp(x0 - reach, x0 + reach).clamp(low, high).clamp(0, 1)

    def rounded(self, x: Tensor, x0: Tensor) -> Tensor:
        """Each entry on its nearest admitted level: exact."""
        clean = x0.double()
        low, high = self._bounds(clean)
        low = torch.maximum(low - edge(0), clean - edge(self.eps))
        high = torch.minimum(high + edge(0), clean + edge(self.eps))
        return _levels(x, x0, low.clamp_min(0), high.clamp_max(1))

    def ascent(self, gradient: Tensor) -> Tensor:
        """The sign; 0 where the gradient is 0."""
        return gradient.sign()

    def start(self, x0: Tensor, key: Key) -> Tensor:
        """Uniform between the bounds, then brought within eps."""
        low, high = self._bounds(x0)
        u = key.uniform(*x0.shape[1:], dtype=x0.dtype)
        return self.project(low + u * (high - low), x0)
