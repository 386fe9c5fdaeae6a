"""Contrast: every value drawn towards the middle grey."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from besiege.core.errors import BadSetting
from besiege.defenses.transform import Surrogate, Transform, identity


@dataclass(frozen=True)
class Contrast(Transform):
    """Contrast: every value drawn towards the middle grey, (1 - share) x + share / 2.

    share: of the contrast that is lost, [0, 1).

    Exact; "identity" has the direction of the gradient and 1 / (1 - share) times its length.

    Source: the contrast reduction of Foolbox (Rauber et al. 2017, arXiv:1707.04131), for bounds
    0 and 1.

    >>> import torch
    >>> Contrast(share=0.5).forward(torch.tensor([0.0, 0.5, 1.0]), None)
    tensor([0.2500, 0.5000, 0.7500])
    """

    share: float = 0.3
    name: str = "contrast"

    def __post_init__(self) -> None:
        if not 0 <= self.share < 1:
            raise BadSetting(
                f"contrast: share lies in [0, 1), got {self.share}; 1 would leave a grey image."
            )

    def forward(self, x: Tensor, draw: Any) -> Tensor:
        """x float in [0, 1] of any shape, closer to 1/2."""
        return (1 - self.share) * x + self.share / 2

    @property
    def surrogates(self) -> Mapping[str, Surrogate]:
        """The true gradient, or a longer one."""
        return {"exact": self.forward, "identity": identity}
