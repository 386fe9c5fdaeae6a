"""Two attackers on the same examples: what several checks compare."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from besiege.checks.finding import Array, Fine, Symptom, points, where
from besiege.core.comparisons import paired
from besiege.core.stats import share_interval


@dataclass(frozen=True)
class Pair:
    """Shares right of the same examples under two attackers, (n,) each.

    random: whether answers differ from draw to draw, so that a difference may be luck. names: of
    the two; factor: what the second has more of.
    """

    first: Array
    second: Array
    random: bool = False
    names: tuple[str, str] = ("the first", "the second")
    factor: float = 1.0

    def symptom(self, least: float, says: Callable[[str], str], to_do: str = "") -> Symptom | Fine:
        """What there is to say where the second leaves less accuracy by more than `least`.

        On a random defense the interval has to be above zero too; on another it is a fact.
        says: a sentence about the difference in points. to_do: more exact than the check's.
        """
        gain = paired(self.first, self.second)
        sure = gain.low > 0 or not self.random
        if not (gain.estimate > least and sure):
            return Fine(gain.estimate, least)
        told = says(points(gain.estimate))
        return Symptom(gain.estimate, least, told, where(self.first > self.second), next=to_do)


@dataclass(frozen=True)
class Survivors:
    """What one search of a union did to the examples that those before it left.

    broken: (n,) bool, of all examples those that clearly stood before it and clearly fall to its
    point. names: those before it, and the search; factor: what it has more of; ids: of examples.
    """

    broken: Array
    names: tuple[str, str] = ("the searches before it", "the search")
    factor: float = 1.0
    ids: Array | None = None

    def symptom(self, least: float, says: Callable[[str], str], to_do: str = "") -> Symptom | Fine:
        """What there is to say where it breaks more than `least` of all examples.

        A search that gets survivors can only gain, so that the lower limit of the 95 % interval has
        to be above `least`. says, to_do: as of a pair.
        """
        share = share_interval(np.asarray(self.broken, float))
        if share.low <= least:
            return Fine(share.estimate, least)
        told = says(points(share.estimate))
        return Symptom(share.estimate, least, told, where(self.broken, self.ids), next=to_do)
