"""What a check says: a finding, how grave it is, on what evidence, and what to do next."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from besiege.core.errors import one_of

STOP, WARN, NOTE = "STOP", "WARN", "NOTE"
LEVELS: Mapping[str, str] = {
    STOP: "the number printed means nothing",
    WARN: "the number may be too high",
    NOTE: "what a reader has to know",
}
MOST_EXAMPLES = 10  # that a finding names
FOUND, PASSED, NOT_ASKED = "found", "passed", "not asked"  # what became of a check

Array = NDArray[Any]


@dataclass(frozen=True)
class Symptom:
    """What a check saw, before it is known of which cells.

    figure, threshold: the first is on the wrong side of the second. what: the sentence for a
    reader. examples: rows, or ids, concerned. next, level: others than the check's.
    """

    figure: float
    threshold: float
    what: str
    examples: tuple[int, ...] = ()
    next: str = ""
    level: str = ""


@dataclass(frozen=True)
class Fine:
    """What a check saw where all is well: its figure, on the right side of the threshold."""

    figure: float
    threshold: float


@dataclass(frozen=True)
class Finding:
    """A symptom with its check, and where it was seen.

    about: the defense, link or cell, in words. cells: hashes of the cells whose figures it touches;
    none where it touches all.
    """

    number: int
    name: str
    level: str
    figure: float
    threshold: float
    what: str
    next: str
    examples: tuple[int, ...] = ()
    about: str = ""
    cells: tuple[str, ...] = ()

    def __str__(self) -> str:
        where = f"{self.about}: " if self.about else ""
        return f"{self.level} {self.number} {self.name}: {where}{self.what} {self.next}"

    def record(self) -> dict[str, Any]:
        """As it is stored."""
        found = asdict(self)
        found["figure"], found["threshold"] = (_finite(v) for v in (self.figure, self.threshold))
        return found


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def from_record(record: Mapping[str, Any]) -> Finding:
    """The finding that `Finding.record` made."""
    own = dict(record)
    for name in ("examples", "cells"):
        own[name] = tuple(own[name])
    for name in ("figure", "threshold"):
        own[name] = float("nan") if own[name] is None else own[name]
    return Finding(**own)


@dataclass(frozen=True)
class Check:
    """One of the 46: a pure function from evidence to a symptom, to a figure that is fine, or to
    None where the evidence answers nothing.

    family: heading of the page. to_do: where the symptom does not say it more exactly. gathered:
    who brings the evidence, "run" (`besiege check`) or "doctor" (`besiege doctor`). needs: what has
    to be there so that it can be asked of a run.

    >>> from besiege.checks.catalog import CHECKS
    >>> CHECKS[40].name
    'too few images'
    """

    number: int
    name: str
    level: str
    family: str
    source: str
    function: Callable[[Any], Symptom | Fine | None]
    to_do: str
    gathered: tuple[str, ...] = ()
    needs: str = ""

    def __post_init__(self) -> None:
        one_of("level", self.level, LEVELS, f"check {self.number}")

    def __call__(
        self, evidence: object, about: str = "", cells: Sequence[str] = ()
    ) -> Finding | None:
        """The finding of this evidence, if there is one."""
        found = self.asked(evidence, about, cells)
        return found if isinstance(found, Finding) else None

    def asked(
        self, evidence: object, about: str = "", cells: Sequence[str] = ()
    ) -> Finding | Fine | None:
        """What the evidence says; None where it answers nothing."""
        seen = self.function(evidence)
        if not isinstance(seen, Symptom):
            return seen
        level = seen.level or self.level
        return Finding(
            self.number,
            self.name,
            level,
            float(seen.figure),
            float(seen.threshold),
            seen.what,
            seen.next or self.to_do,
            tuple(int(i) for i in seen.examples[:MOST_EXAMPLES]),
            about,
            tuple(cells),
        )


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
    worst: tuple[Finding | Fine, str]
    if grave:
        worst = min(grave, key=lambda one: rank.index(one[0].level))
    else:
        worst = min(said, key=lambda one: abs(one[0].figure - one[0].threshold))
    figure, threshold = (_finite(v) for v in (worst[0].figure, worst[0].threshold))
    state = FOUND if grave else PASSED
    return Answer(check.number, state, len(said), figure, threshold, worst[1])


def number_asked(answers: Sequence[Answer]) -> int:
    """How many of the checks were asked."""
    return sum(one.times > 0 for one in answers)


def where(mask: Array, ids: Array | None = None) -> tuple[int, ...]:
    """The ids, or rows, at which a mask (n,) is true."""
    rows = np.flatnonzero(mask)
    return tuple(int(i) for i in (rows if ids is None else np.asarray(ids)[rows]))


def percent(share: float) -> str:
    """A share as text.

    >>> percent(0.1234)
    '12.3 %'
    """
    return f"{100 * share:.1f} %"


def points(share: float) -> str:
    """A difference of shares as text.

    >>> points(0.1234)
    '12.3 points'
    """
    return f"{100 * share:.1f} points"
