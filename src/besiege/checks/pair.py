"""Two attackers on the same examples: what several checks compare."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from besiege.checks.finding import Array, Symptom, points, where
from besiege.core.comparisons import paired


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

    def symptom(self, least: float, says: Callable[[str], str], to_do: str = "") -> Symptom | None:
        """What there is to say where the second leaves less accuracy by more than `least`.

        On a random defense the interval has to be above zero too; on another it is a fact.
        says: a sentence about the difference in points. to_do: more exact than the check's.
        """
        gain = paired(self.first, self.second)
        sure = gain.low > 0 or not self.random
        if not (gain.estimate > least and sure):
            return None
        told = says(points(gain.estimate))
        return Symptom(gain.estimate, least, told, where(self.first > self.second), next=to_do)
