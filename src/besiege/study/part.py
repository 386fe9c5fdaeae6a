"""A run cut into parts that need not know of each other."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from besiege.core.errors import BadSetting


class Part(NamedTuple):
    """The `number`-th, from 1, of `parts` parts of a run.

    Each row belongs to one part, whatever is finished already; the parts are as equal as whole
    batches allow, and each has batches of most cells.
    """

    number: int = 1
    parts: int = 1

    @classmethod
    def parse(cls, text: str) -> Part:
        """The part that is written "K/N". Raises BadSetting.

        >>> Part.parse("2/8")
        Part(number=2, parts=8)
        """
        found = re.fullmatch(r"\s*(\d+)\s*/\s*(\d+)\s*", text)
        if not found or not 1 <= int(found[1]) <= int(found[2]):
            raise BadSetting(
                f'"{text}" is no part of a run: expected K/N with K from 1 to N, as in 2/8.'
            )
        return cls(int(found[1]), int(found[2]))

    @property
    def name(self) -> str:
        """The name of its lock; "" for a whole run.

        >>> Part(2, 8).name, Part().name
        ('2-of-8', '')
        """
        return f"{self.number}-of-{self.parts}" if self.parts > 1 else ""

    def share(self, ids: Sequence[int], size: int, rank: int) -> list[int]:
        """Those of a cell's ids that are this part's.

        rank: the number of the cell; batches of `size` are dealt in turn, on from cell to cell.

        >>> [Part(1, 2).share([5, 6, 7], 2, rank) for rank in range(2)]
        [[5, 6], [5, 6]]
        >>> [Part(1, 2).share([5], 2, rank) for rank in range(3)]
        [[5], [], [5]]
        """
        starts = range(0, len(ids), size)
        first = (self.number - 1 - rank * len(starts)) % self.parts
        return [i for start in starts[first :: self.parts] for i in ids[start : start + size]]
