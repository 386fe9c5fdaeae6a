"""What became of a check: it found something, it passed, or it could not be asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from besiege.checks.finding import LEVELS, Check, Finding, Fine

FOUND, PASSED, NOT_ASKED = "found", "passed", "not asked"


@dataclass(frozen=True)
class Answer:
    """One check of one run.

    times: how often it could be asked. state: FOUND, PASSED, or NOT_ASKED. figure, threshold:
    of the gravest finding, or of what passed by least; None where nothing was asked. about: of
    what. because: why it was not asked.
    """

    number: int
    state: str
    times: int = 0
    figure: float | None = None
    threshold: float | None = None
    about: str = ""
    because: str = ""

    def record(self) -> dict[str, Any]:
        """As it is stored."""
        return asdict(self)


def from_answer(record: Mapping[str, Any]) -> Answer:
    """The answer that `Answer.record` made."""
    return Answer(**record)


def answered(check: Check, said: Sequence[tuple[Finding | Fine, str]]) -> Answer:
    """The answer of `check` from all that it said, each with what it was about."""
    if not said:
        return Answer(check.number, NOT_ASKED, because=check.needs)
    rank = list(LEVELS)
    grave = [(f, about) for f, about in said if isinstance(f, Finding)]
    if grave:
        worst, about = min(grave, key=lambda one: rank.index(one[0].level))
    else:
        worst, about = min(said, key=lambda one: abs(one[0].figure - one[0].threshold))
    return Answer(
        check.number,
        FOUND if grave else PASSED,
        len(said),
        float(worst.figure),
        float(worst.threshold),
        about,
    )


def number_asked(answers: Sequence[Answer]) -> int:
    """How many of the checks were asked."""
    return sum(one.times > 0 for one in answers)
