"""Shorter batches for few rows, where the network is found to round them as it does full ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from besiege.core.batch import chunks

LEAST = 4  # rows; kernels for fewer differ on every machine seen
PARTS = 8  # shorter windows are multiples of this share of a full one
LOGITS = 64  # that are compared at least in a trial: two orders of a short sum often agree


@dataclass
class Windows:
    """Windows of row numbers, full ones and a last one that is no longer than it has to be.

    Kernels round by the shape of a batch, so a network gives an example the same bits in any batch
    only where it always sees as many rows; few rows are then filled up. Many networks do not mind:
    a shorter length is tried on noise, and used where every row has the bits that it has in a full
    window. A length is tried once filling up has cost as many rows as the trial, and either way the
    bits are those of full windows.
    size: rows of a full window.
    """

    size: int
    wasted: dict[tuple[int, str], int] = field(default_factory=dict)  # rows; by length and way
    proven: dict[tuple[int, str], bool] = field(default_factory=dict)

    def over(
        self, total: int, way: str, same: Callable[[int], bool], device: torch.device | str = "cpu"
    ) -> Iterator[tuple[slice, Tensor]]:
        """As `core.batch.chunks`: (the rows that count, all the numbers).

        way: what is asked of the network, forward or backward too; lengths are tried for each.
        same: whether rows in a window of that length have the bits of a full one.
        """
        full = total // self.size * self.size
        yield from chunks(full, self.size, device)
        if full < total:
            length = self._length(total - full, way, same)
            index = torch.arange(full, full + length, device=device)
            yield slice(full, total), torch.where(index < total, index, 0)

    def _length(self, rows: int, way: str, same: Callable[[int], bool]) -> int:
        """Of the window for the last `rows`."""
        step = max(LEAST, self.size // PARTS)
        short = -(-rows // step) * step
        if short >= self.size:
            return self.size
        at = (short, way)
        if at not in self.proven:
            self.wasted[at] = self.wasted.get(at, 0) + self.size - short
            if self.wasted[at] <= self.size + short:
                return self.size
            self.proven[at] = same(short)
        return short if self.proven[at] else self.size
