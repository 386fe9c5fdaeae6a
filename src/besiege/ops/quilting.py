"""Images laid out of overlapping square patches."""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from besiege.ops.seams import Seam


class Grid(NamedTuple):
    """Upper left corners of the patches, row by row, and the image that they lie on."""

    rows: tuple[int, ...]
    columns: tuple[int, ...]
    size: int  # of a patch
    height: int
    width: int

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        return len(self.rows), len(self.columns)


def grid_of(height: int, width: int, size: int, overlap: int, full: bool) -> Grid:
    """Patches every size - overlap pixels.

    full: a last one reaches the border, however far it overlaps. Else those that begin before
    `length - size`, so that 1 to size - overlap pixels stay bare below and at the right.

    >>> grid_of(32, 17, 5, 2, full=True).columns
    (0, 3, 6, 9, 12)
    >>> grid_of(32, 17, 5, 2, full=False).columns
    (0, 3, 6, 9)
    """

    def starts(length: int) -> tuple[int, ...]:
        some = range(0, length - size, size - overlap)
        return (*some, length - size) if full else tuple(some)

    return Grid(starts(height), starts(width), size, height, width)


def cut_out(x: Tensor, grid: Grid) -> Tensor:
    """The patches of x (B, C, H, W) under the grid: (B, R, K, C, size, size). Differentiable."""
    at = torch.arange(grid.size, device=x.device)
    rows, columns = ((torch.tensor(s, device=x.device)[:, None] + at).flatten() for s in grid[:2])
    parts = x.index_select(-2, rows).index_select(-1, columns)
    count, channels, (height, width) = *x.shape[:2], grid.shape
    parts = parts.reshape(count, channels, height, grid.size, width, grid.size)
    return parts.permute(0, 2, 4, 1, 3, 5)


def last_on_top(grid: Grid, device: torch.device) -> Tensor:
    """Which patch shows in each pixel if each is laid over those before: (H, W), -1 for none."""
    (row, inside_rows), (column, inside_columns) = (
        _last(starts, grid.size, length, device)
        for starts, length in ((grid.rows, grid.height), (grid.columns, grid.width))
    )
    owner = row[:, None] * len(grid.columns) + column
    return torch.where(inside_rows[:, None] & inside_columns, owner, -1)


def _last(
    starts: tuple[int, ...], size: int, length: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """The last of `starts` at or before each pixel, and whether its patch reaches that pixel."""
    begin, at = torch.tensor(starts, device=device), torch.arange(length, device=device)
    last = torch.searchsorted(begin, at, right=True) - 1
    return last, at < begin[last] + size


def laid(patches: Tensor, grid: Grid, seam: Seam) -> Tensor:
    """Which patch shows in each pixel, (B, H, W), -1 for none, if laid row by row along seams.

    patches (B, R, K, C, size, size) in whole grey levels. A patch is cut against what lies there
    already. Patch (i, j) touches none that is laid later than (i - 1, j + 2), so that all with one
    j + 3 i go down together: K + 3 R steps instead of K R, of the same outcome.
    """
    patches = patches.float()
    count, _, _, channels, size, _ = patches.shape
    if count == 0:
        return torch.full((0, grid.height, grid.width), -1, device=patches.device)
    lying = patches.new_zeros(count, channels, grid.height, grid.width)
    owner = torch.full_like(lying[:, 0], -1, dtype=torch.int64)
    at = torch.arange(size, device=patches.device)
    for front in _fronts(grid):
        i, j, top, left, down, right = (torch.tensor(v, device=patches.device) for v in front)
        y, x = (top[:, None] + at)[:, :, None], (left[:, None] + at)[:, None, :]
        old, new = lying[:, :, y, x].transpose(1, 2), patches[:, i, j]
        shown = seam(old, new, down, right)
        lying[:, :, y, x] = torch.where(shown[:, :, None], new, old).transpose(1, 2)
        number = (i * len(grid.columns) + j)[:, None, None]
        owner[:, y, x] = torch.where(shown, number, owner[:, y, x])
    return owner


@lru_cache(maxsize=16)
def _fronts(grid: Grid) -> tuple[tuple[tuple[int, ...], ...], ...]:
    """For each step: row, column, corner, and overlaps above and at the left of its patches."""
    down, right = (_overlaps(starts, grid.size) for starts in grid[:2])
    height, width = grid.shape
    steps = []
    for step in range(width + 3 * (height - 1)):
        places = [(i, step - 3 * i) for i in range(height) if 0 <= step - 3 * i < width]
        found = [(i, j, grid.rows[i], grid.columns[j], down[i], right[j]) for i, j in places]
        if found:  # none, where a row of patches ends before the next may begin
            steps.append(tuple(zip(*found, strict=True)))
    return tuple(steps)


def _overlaps(starts: tuple[int, ...], size: int) -> tuple[int, ...]:
    """Pixels that each patch shares with the one before."""
    return (0, *(a + size - b for a, b in pairwise(starts)))


def shown(patches: Tensor, owner: Tensor, grid: Grid) -> Tensor:
    """The image in which each pixel shows the patch that owns it, 0 for none.

    patches (B, R, K, C, size, size); owner (B or 1, H, W) -> (B, C, H, W). Linear in the patches.
    """
    count, _, _, channels, size, _ = patches.shape
    device = patches.device
    top, left = (torch.tensor(s, device=device) for s in grid[:2])
    number = owner.clamp(min=0)
    y = torch.arange(grid.height, device=device)[:, None] - top[number // len(left)]
    x = torch.arange(grid.width, device=device) - left[number % len(left)]
    place = ((number * size + y) * size + x).clamp(0, len(top) * len(left) * size * size - 1)
    place = place[:, None].expand(count, channels, -1, -1).flatten(2)
    flat = patches.permute(0, 3, 1, 2, 4, 5).flatten(2)
    image = flat.gather(2, place).reshape(count, channels, grid.height, grid.width)
    return image.masked_fill((owner < 0)[:, None], 0)
