"""Median smoothing: every value becomes the median of a window around it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from besiege.core.batch import in_pieces
from besiege.core.errors import BadSetting
from besiege.defenses.transform import Surrogate, Transform, identity
from besiege.ops.border import mirror


@dataclass(frozen=True)
class Median(Transform):
    """Median smoothing: every value becomes the median of a window around it.

    size: side of the window, 1 to 15, each channel by itself. 2 and 3 are those of Xu et al.

    As scipy.ndimage.median_filter, with its border (mirrored, edge pixel included): a window of
    even size reaches one pixel further up and left, and the larger of its two middle values counts.

    "exact" gives each output's gradient to the pixel selected; where values tie, to one of them.
    Source: Xu et al. 2018 (arXiv:1704.01155), section 3.2.

    >>> import torch
    >>> Median(size=3).forward(torch.eye(3).reshape(1, 1, 3, 3), None)[0, 0]
    tensor([[1., 0., 0.],
            [0., 0., 0.],
            [0., 0., 1.]])
    """

    size: int = 2
    name: str = "median"

    def __post_init__(self) -> None:
        if self.size not in range(1, 16):
            raise BadSetting(f"median: size is a whole number from 1 to 15, got {self.size}.")

    def forward(self, x: Tensor, draw: Any) -> Tensor:
        """x float (B, C, H, W) in [0, 1], smoothed."""
        return in_pieces(self._smoothed, x)

    def _smoothed(self, x: Tensor) -> Tensor:
        n = self.size
        before, after = n // 2, n - 1 - n // 2
        grown = mirror(x, (before, before), (after, after))
        windows = grown.unfold(2, n, 1).unfold(3, n, 1).flatten(4)
        return windows.kthvalue(n * n // 2 + 1).values

    @property
    def surrogates(self) -> Mapping[str, Surrogate]:
        """The gradient of the selection, or the link ignored."""
        return {"exact": self.forward, "identity": identity}
