"""Two attackers on the same examples: what several checks compare."""

from __future__ import annotations

from dataclasses import dataclass

from besiege.checks.finding import Array, paired


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

    def lower_by(self, least: float) -> float | None:
        """By how much the second leaves less accuracy, if by more than `least`.

        On a random defense the interval has to be above zero too; on another it is a fact.
        """
        gain = paired(self.first, self.second)
        sure = gain.low > 0 or not self.random
        return gain.mean if gain.mean > least and sure else None
