"""Several oracles that answer as one: the mean of their losses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Unpack

import torch
from torch import Tensor

from besiege.attacks.attack import Ask, How
from besiege.attacks.oracle import Reading
from besiege.core.batch import fold_sum
from besiege.core.key import Key


@dataclass(frozen=True)
class Joint:
    """Readings that are means over those of `oracles`, each under draws of its own.

    Loss, gradient, share of draws won and scores alike. Liu et al. 2017 (arXiv:1611.02770) attack
    several models at once; a mean of losses is the third form of Dong et al. 2018
    (arXiv:1710.06081), section 3.4. Cost: the passes of all.
    """

    oracles: Sequence[Ask]

    def __call__(self, x: Tensor, goal: Tensor, key: Key, **how: Unpack[How]) -> Reading:
        """The mean reading at x; as for any oracle. Raises what they raise."""
        found = [ask(x, goal, key.fold("oracle", i), **how) for i, ask in enumerate(self.oracles)]
        columns = zip(*found, strict=True)
        loss, slope, won, scores = ([v for v in c if v is not None] for c in columns)
        return Reading(_mean(loss), _mean(slope), fold_sum(_stack(won)) / len(won), _mean(scores))


def _stack(values: Sequence[Tensor]) -> Tensor:
    return torch.stack(tuple(values), 1)


def _mean(values: Sequence[Tensor]) -> Tensor | None:
    """The mean of tensors of one shape, (B, ...); None of none."""
    return fold_sum(_stack(values)) / len(values) if values else None
