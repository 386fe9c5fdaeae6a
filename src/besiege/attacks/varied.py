"""Gradients at varied copies of the point, for points that fool other models than the one asked."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from besiege.attacks.attack import Ask, Gradients
from besiege.attacks.oracle import Reading
from besiege.core.batch import fold_sum, rows
from besiege.core.errors import BadSetting
from besiege.core.key import Key
from besiege.ops.grid import gathered
from besiege.ops.resampling import nearest


@dataclass(frozen=True)
class Varied(Gradients):
    """The mean gradient at copies of the point, shrunk and darkened, then smoothed.

    Called with an oracle it gives one that stands wherever that did, so that every gradient attack
    can be given one, two or all three:
    probability, resize: input diversity. Each copy of each image is with this probability shrunk to
        a random side from `resize` times its own, nearest pixel, and put on black at a random
        place (Xie et al. 2019, arXiv:1803.06978, section 3.2, enlarge 299 to 330 pixels instead;
        here the size stays, since not every network takes another).
    kernel: of a Gaussian over the gradient, an odd number of pixels (1 for none) of which the last
        lies at 3 standard deviations: translation invariance (Dong et al. 2019, arXiv:1904.02884,
        equation 7, zero beyond the border; 15 at 299 pixels there).
    copies: m, of which copy i is divided by 2^i: scale invariance (Lin et al. 2020,
        arXiv:1908.06281, equation 3; 5 there). The gradient is with respect to the image before it
        is divided, as the equation says.
    Loss, share of draws won and scores are those at the point itself: successes at copies are none.
    Cost: `copies` times the oracle's passes, and with `probability` its forwards once more.
    """

    probability: float = 0.5
    resize: float = 0.9
    kernel: int = 1
    copies: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.probability <= 1 or not 0 < self.resize <= 1:
            raise BadSetting(
                "varied gradients take probability in [0, 1] and resize in (0, 1], got "
                f"{self.probability:g} and {self.resize:g}."
            )
        if self.kernel < 1 or self.kernel % 2 == 0 or self.copies < 1:
            raise BadSetting(
                "varied gradients take an odd kernel and copies >= 1, got "
                f"{self.kernel} and {self.copies}."
            )

    def __call__(self, oracle: Ask) -> Ask:
        """The oracle whose readings are `read` of this one."""
        return partial(self.read, oracle)

    def read(
        self,
        oracle: Ask,
        x: Tensor,
        goal: Tensor,
        key: Key,
        *,
        gradient: bool = True,
        draws: int | None = None,
        weights: Tensor | None = None,
    ) -> Reading:
        """Read x (B, C, H, W) for goal (B,), the gradient that of the copies. Raises as oracle."""
        if not gradient:
            return oracle(x, goal, key, gradient=False, draws=draws)
        here, slopes = None, []
        for i in range(self.copies):  # one after another, as the oracle counts them
            itself = i == 0 and self.probability == 0
            own = key if itself else key.fold("copy", i)
            with torch.enable_grad():
                leaf = x.detach().requires_grad_()
                copy = self._shrunk(leaf, own) / 2**i
            reading = oracle(copy.detach(), goal, own, draws=draws, weights=weights)
            here = reading if itself else here
            slopes.append(_pulled(copy, leaf, reading.gradient))
        if here is None:
            here = oracle(x, goal, key, gradient=False, draws=draws)
        mean = fold_sum(torch.stack(slopes, 1)) / self.copies
        smooth = smoothed(mean.flatten(0, -4), self.kernel)
        return here._replace(gradient=smooth.reshape(mean.shape))

    def _shrunk(self, x: Tensor, key: Key) -> Tensor:
        """Some of the images smaller, on black."""
        if self.probability == 0:
            return x
        share = key.fold("share").uniform(1, dtype=torch.float64)
        place = key.fold("place").uniform(2, dtype=torch.float64)
        source, inside = [], []
        for axis, size in enumerate(x.shape[-2:]):
            least = max(1, math.floor(self.resize * size))
            count = least + (share * (size + 1 - least)).long()
            start = (place[:, axis : axis + 1] * (size + 1 - count)).long()
            at = torch.arange(size, device=x.device) - start
            source.append(nearest(at, count, size).long())
            inside.append((at >= 0) & (at < count))
        within = inside[0][:, None, :, None] & inside[1][:, None, None, :]
        small = torch.where(within, gathered(x, *source), 0)
        return torch.where(rows(key.fold("vary").bernoulli(self.probability), x), small, x)


def _pulled(copy: Tensor, leaf: Tensor, slope: Tensor | None) -> Tensor:
    """The gradient at a copy, (B, C, H, W) or (B, m, C, H, W), as that at what it was made of."""
    assert slope is not None
    if slope.ndim == 4:
        return torch.autograd.grad(copy, leaf, slope)[0]
    each = [torch.autograd.grad(copy, leaf, s, retain_graph=True)[0] for s in slope.unbind(1)]
    return torch.stack(each, 1)


def smoothed(x: Tensor, kernel: int) -> Tensor:
    """x (B, C, H, W) under a Gaussian of `kernel` pixels, normed to sum 1, zero beyond the border.

    Its last pixel lies at 3 standard deviations. Sums of shifted images, elementwise, so that rows
    never depend on their batch.
    """
    reach = kernel // 2
    if reach == 0:
        return x
    at = torch.linspace(-3, 3, kernel, dtype=torch.float64)
    taps = (-(at**2) / 2).exp()
    weights = (taps / taps.sum()).tolist()
    for axis in (-2, -1):
        n = x.shape[axis]
        edges = (0, 0, reach, reach) if axis == -2 else (reach, reach)
        wide = F.pad(x, edges)
        x = fold_sum(torch.stack([w * wide.narrow(axis, i, n) for i, w in enumerate(weights)], 1))
    return x
