"""Random distortion over grids: rows and columns of cells, each stretched at random."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from besiege.core.errors import BadSetting, one_of
from besiege.core.key import Key
from besiege.defenses.transform import Shape, Surrogate, Transform, identity
from besiege.ops import grid


class Stretches(NamedTuple):
    """What one distortion draws; u in [0, 1) makes the stretch limit * (2 u - 1)."""

    x: Tensor  # (B, cells along the width)
    y: Tensor  # (B, cells along the height)
    far: Tensor  # (B, 2) bool: whether drift is counted from the bottom, from the right


@dataclass(frozen=True)
class RandomDistortion(Transform):
    """Random distortion over grids: rows and columns of cells, each stretched at random.

    Each axis is cut into cells of size // cells pixels (a shorter last one takes up the rest), and
    cell k is stretched by 1 + U(-limit, limit), so that drift grows away from the corner where it
    starts; what leaves the image repeats the last pixel.

    limit: largest relative stretch, [0, 1): 0.15 in the paper, 0.25 in the released code.
    sampling: "bilinear" at exact coordinates (limit 0 changes nothing), or "nearest" as released:
        both ends of a cell included, coordinates rounded, so that limit 0 still moves pixels.
    corner: "random" starts at one of the four corners (algorithm 1, line 1); "upper-left" is what
        the released NumPy code does.

    The released defense is limit=0.25, sampling="nearest", corner="upper-left".
    Forward is linear in the image given the draw, so its gradient is exact; "identity" is wrong by
    the displacement (mean 4 px at 299 and limit 0.15).

    Source: Qiu et al. 2020, algorithm 1 (RDG), and the code released with it.
    """

    limit: float = 0.15
    cells: int = 10
    sampling: str = "bilinear"
    corner: str = "random"
    name: str = "rdg"

    def __post_init__(self) -> None:
        if not 0 <= self.limit < 1:
            raise BadSetting(f"rdg: limit is a relative stretch in [0, 1), got {self.limit}.")
        if not (isinstance(self.cells, int) and self.cells >= 1):
            raise BadSetting(f"rdg: cells is a whole number of at least 1, got {self.cells}.")
        one_of("sampling", self.sampling, ("bilinear", "nearest"), "transform rdg")
        one_of("corner", self.corner, ("random", "upper-left"), "transform rdg")

    def draw(self, key: Key, shape: Shape) -> Stretches:
        """One number a cell and axis, and two fair bits for the corner."""
        _, height, width = shape
        far = key.fold("far").bernoulli(0.5, 2)
        return Stretches(
            x=key.fold("x").uniform(grid.count_of(width, self.cells)),
            y=key.fold("y").uniform(grid.count_of(height, self.cells)),
            far=far if self.corner == "random" else torch.zeros_like(far),
        )

    def forward(self, x: Tensor, draw: Stretches) -> Tensor:
        """x float (B, C, H, W) in [0, 1], distorted."""
        rows = self._map(draw.y, draw.far[:, 0], x.shape[-2])
        columns = self._map(draw.x, draw.far[:, 1], x.shape[-1])
        read = grid.bilinear if self.sampling == "bilinear" else grid.gathered
        return read(x, rows, columns)

    @property
    def surrogates(self) -> Mapping[str, Surrogate]:
        """The true gradient, or the link ignored."""
        return {"exact": self.forward, "identity": identity}

    def _map(self, u: Tensor, far: Tensor, size: int) -> Tensor:
        """Source coordinate (B, size) of each output row or column."""
        step = grid.step_of(size, self.cells)
        ends = grid.cell_ends(self.limit * (2 * u.double() - 1), size, step)
        place = grid.half_open if self.sampling == "bilinear" else grid.both_ends
        return grid.mirrored(place(ends, size, step), far)
