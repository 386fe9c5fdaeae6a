"""Nothing at all: the control."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from besiege.defenses.transform import Surrogate, Transform


@dataclass(frozen=True)
class Identity(Transform):
    """Nothing at all: the control."""

    name: str = "identity"

    def forward(self, x: Tensor, draw: Any) -> Tensor:
        """x itself."""
        return x

    @property
    def surrogates(self) -> Mapping[str, Surrogate]:
        """The link itself."""
        return {"exact": self.forward}
