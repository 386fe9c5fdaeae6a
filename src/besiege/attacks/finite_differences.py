"""Gradients from scores alone: an oracle around an oracle."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from besiege.attacks.attack import TOGETHER, Ask, Gradients
from besiege.attacks.oracle import Reading
from besiege.core.batch import fold_sum, rows
from besiege.core.errors import BadSetting, one_of
from besiege.core.key import Key

BASES = ("gaussian", "rademacher", "coordinates")


@dataclass(frozen=True)
class FiniteDifferences(Gradients):
    """Gradients estimated from differences of losses; forward passes only.

    Called with an oracle it gives one that stands wherever that did, so that every gradient attack
    runs under access "scores".
    directions: n, each asked on both sides of x.
    basis: "gaussian": sum (L(x + h u) - L(x - h u)) u / (2 h n) with normal u, the gradient of the
        smoothed loss (Ilyas et al. 2018, arXiv:1804.08598); "rademacher": the same with entries
        of u that are 1 or -1, simultaneous perturbations (Uesato et al. 2018, arXiv:1802.05666),
        of a little less variance; "coordinates": central differences along n of the D entries,
        picked at random, times D / n: its mean is the gradient (Chen et al. 2017,
        arXiv:1708.03999).
    step: h, on the [0, 1] pixel scale. What is asked is clipped to [0, 1]; each entry is weighted
        by u^2 over what is left of u, so that clipping makes no bias to first order.
    shared: both sides of a direction meet the same draws of the defense. Less noise, but only who
        can run the defense can ask for it: a service draws anew for every query.
    Many directions are one call, so that the network's batches are full for a single image; a limit
    of passes that ends in such a call leaves the rest of it unspent.
    Cost: (2 n + 1) times the oracle's forwards, no backward, counted by its meter.
    """

    directions: int = 20
    basis: str = "gaussian"
    step: float = 0.01
    shared: bool = False

    def __post_init__(self) -> None:
        one_of("basis", self.basis, BASES, "finite differences")
        if self.directions < 1 or not self.step > 0:
            raise BadSetting(
                "finite differences take directions >= 1 and step > 0, got "
                f"{self.directions} and {self.step:g}."
            )

    @property
    def estimates(self) -> bool:
        """They are."""
        return True

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
        """Read x (B, C, H, W) for goal (B,); the gradient, of weights too, is an estimate.

        Raises BudgetSpent before the first query beyond the limit; BadSetting where the threat
        grants labels only, or for more coordinates than an image has.
        """
        reading = oracle(x, goal, key, gradient=False, draws=draws)
        if not gradient:
            return reading
        if reading.loss is None:
            raise BadSetting(
                "finite differences need scores, but the threat grants labels only: choose an "
                "attack that needs no more (`besiege list attacks`) or grant scores."
            )
        many = weights is not None and weights.ndim == 3
        middle = x[:, None]
        slope = torch.zeros_like(middle if many else x)
        for i, u in enumerate(self._directions(x, key.fold("direction"))):
            ahead = (middle + self.step * u).clamp(0, 1)
            behind = (middle - self.step * u).clamp(0, 1)
            sides = []
            for side, points in (("ahead", ahead), ("behind", behind)):
                own = key.fold("difference", i, *(() if self.shared else (side,)))
                found = oracle(points, goal, own, gradient=False, draws=draws)
                sides.append(_value(found, weights))
            rise = (sides[0] - sides[1]) / (2 * self.step)
            moved = (ahead - behind) / (2 * self.step)
            unit = torch.where(moved != 0, u**2 / moved, 0)
            if many:  # (B, n, m): each rise beside the same directions
                slope = slope + fold_sum(rise[..., None, None, None] * unit[:, :, None])
            else:
                slope = slope + fold_sum(rise[:, :, None, None, None] * unit)
        scale = x[0].numel() if self.basis == "coordinates" else 1
        slope = slope * (scale / self.directions)
        finite = slope.flatten(1).isfinite().all(1)
        return reading._replace(gradient=torch.where(rows(finite, slope), slope, 0))

    def _directions(self, x: Tensor, key: Key) -> Iterator[Tensor]:
        """n directions for x (B, C, H, W) in parts (B, m, C, H, W), m at most TOGETHER."""
        entries, shape = x[0].numel(), x.shape[1:]
        parts = [min(TOGETHER, self.directions - i) for i in range(0, self.directions, TOGETHER)]
        if self.basis == "gaussian":
            yield from (key.fold(i).normal(m, *shape).to(x.dtype) for i, m in enumerate(parts))
        elif self.basis == "rademacher":
            for i, m in enumerate(parts):
                yield 1 - 2 * key.fold(i).bernoulli(0.5, m, *shape).to(x.dtype)
        elif self.directions > entries:
            raise BadSetting(
                f"finite differences along {self.directions} coordinates, but an image has "
                f"{entries}: take that many at most."
            )
        else:
            every = key.permutation(entries)[:, : self.directions]
            for picked in torch.split(every, TOGETHER, 1):
                single = x.new_zeros(*picked.shape, entries).scatter_(2, picked[:, :, None], 1)
                yield single.reshape(*picked.shape, *shape)


def _value(reading: Reading, weights: Tensor | None) -> Tensor:
    """What is differentiated at n points: the loss, or the weighted mean logits.

    (B, n), or (B, n, m) for weights (B, m, K).
    """
    if weights is None:
        assert reading.loss is not None
        return reading.loss
    assert reading.scores is not None
    scores = reading.scores[:, :, None] if weights.ndim == 3 else reading.scores
    return (scores * weights[:, None]).sum(-1)
