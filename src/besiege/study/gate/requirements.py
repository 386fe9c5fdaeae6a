"""What a gate asks of a defense: a line such as robust@linf:8/255>=30%, and whether it is met."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from besiege.attacks.threat import BALLS
from besiege.checks.finding import LEVELS, WARN
from besiege.core.errors import BadSetting, BesiegeError, one_of
from besiege.study.gate.corruptions import CORRUPTIONS

GOALS = ("targeted", "untargeted")
EXAMPLE = "robust@linf:8/255>=30%"
FORM = f'QUANTITY[@WHERE] >=|<=|>|< VALUE, as in "{EXAMPLE}"'
SLACK = 1e-9  # by which a mean of shares may be rounded

_WHOLE = re.compile(r"([^@<>=]*)(?:@([^<>]*))?(>=|<=|>|<)([^<>=]*)")
_VALUE = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?) *([a-z%µ]*)")


class Unit(NamedTuple):
    """suffixes: how a value may end, and what one is worth; low, high: where it must lie.

    shown: a figure as tables print it, in `symbol`. by: of what more would narrow its interval.
    """

    what: str
    suffixes: Mapping[str, float]
    examples: str
    low: float
    high: float
    symbol: str
    shown: Callable[[float], str]
    by: str = "images"


def _percent(share: float) -> str:
    return f"{round(100 * share, 1) + 0.0:.1f}"  # never -0.0


SHARE = Unit("a share", {"%": 0.01, "": 1}, '"30%" or "0.3"', 0, 1, "%", _percent)
GAP = Unit(
    "a difference of shares", {"%": 0.01, "": 1}, '"5%" or "0.05"', -1, 1, "points", _percent
)
TIME = Unit(
    "a time",
    {"ms": 1e-3, "s": 1, "us": 1e-6, "µs": 1e-6},
    '"50ms" or "0.05s"',
    0,
    math.inf,
    "ms",
    lambda seconds: f"{1000 * seconds:.3g}",
    "calls",
)
FACTOR = Unit(
    "a factor", {"x": 1, "": 1}, '"2x"', 0, math.inf, "x", lambda times: f"{times:.3g}", "calls"
)
COUNT = Unit("a number", {"": 1}, '"0"', 0, math.inf, "", lambda count: f"{count:.0f}")


def ball_title(where: str) -> str:
    """The ball that `where` spells, as tables print it. Raises the errors of the catalog of balls.

    >>> [ball_title(t) for t in ("linf:8/255", "linf:eps=8/255", "linf 8/255", "box")]
    ['linf 8/255', 'linf 8/255', 'linf 8/255', 'unrestricted']
    """
    name, _, size = re.sub(r"\s+", ":", where.strip(), count=1).partition(":")
    if not size and BALLS[name].parameters["eps"] is inspect.Parameter.empty:
        raise BadSetting(f'the ball "{name}" has no radius here: write "{name}:eps=RADIUS".')
    if ":" in size:
        one_of("goal", size.rpartition(":")[2], GOALS)
    short = bool(size) and "=" not in size.partition(",")[0]
    return BALLS.build(f"{name}:{'eps=' if short else ''}{size}").title


def _corruption(where: str) -> None:
    one_of("corruption", where, CORRUPTIONS)


def _level(where: str) -> None:
    one_of("level of findings", where, LEVELS)


def _batch(where: str) -> None:
    if not (where.isdecimal() and int(where) > 0):
        raise BadSetting(f'"{where}" is no size of a batch: after @ comes a number such as 32.')


class Quantity(NamedTuple):
    """what: in words. check: refuses what may not stand after @; None where nothing may."""

    unit: Unit
    what: str
    check: Callable[[str], object] | None = None
    aimed: bool = False  # whether a goal may be said


QUANTITIES: Mapping[str, Quantity] = {
    "robust": Quantity(SHARE, "accuracy under the worst attacker of each image", ball_title, True),
    "clean": Quantity(SHARE, "accuracy without attack"),
    "corrupted": Quantity(SHARE, "accuracy under ordinary corruptions", _corruption),
    "gap": Quantity(GAP, "claim minus verdict of the strongest attacker", ball_title, True),
    "latency": Quantity(TIME, "time an image", _batch),
    "overhead": Quantity(FACTOR, "time over that of the bare classifier", _batch),
    "findings": Quantity(COUNT, f"findings of checks, {WARN} or graver", _level),
}


@dataclass(frozen=True)
class Requirement:
    """value: as written, in `suffix`; where: a threat, corruption, batch or level; "" for any.

    >>> requirement = parse_requirement("robust@linf:8/255:targeted >= 30 %")
    >>> str(requirement), requirement.bound
    ('robust@linf:8/255:targeted>=30%', 0.3)
    """

    quantity: str
    operator: str
    value: float
    suffix: str = ""
    where: str = ""
    goal: str = ""

    def __str__(self) -> str:
        place = ":".join(filter(None, (self.where, self.goal)))
        at = f"@{place}" if place else ""
        return f"{self.quantity}{at}{self.operator}{self.spelt}"

    @property
    def spelt(self) -> str:
        """Its value as written."""
        short = f"{self.value:g}"
        return f"{short if float(short) == self.value else repr(self.value)}{self.suffix}"

    @property
    def kind(self) -> Quantity:
        """What it is about."""
        return QUANTITIES[self.quantity]

    @property
    def bound(self) -> float:
        """Its value: a share, seconds, a factor or a number."""
        # Divided, so that 30% is the float 0.3.
        return self.value / round(1 / self.kind.unit.suffixes[self.suffix])

    @property
    def floor(self) -> bool:
        """Whether more is better."""
        return self.operator.startswith(">")

    def holds(self, figure: float) -> bool:
        """Whether a figure meets it, but for rounding."""
        sign = 1 if self.floor else -1
        over = sign * (figure - self.bound)
        return over >= -SLACK if self.operator.endswith("=") else over > SLACK


def parse_requirement(text: str) -> Requirement:
    """The requirement that `text` spells: QUANTITY[@WHERE] >=|<=|>|< VALUE.

    Blanks do not count. Raises BadSetting or UnknownName, saying what came, what was expected, and
    the nearest name.

    >>> parse_requirement("latency@32<=5ms").bound
    0.005
    """
    whole = _WHOLE.fullmatch(text.strip().replace("≥", ">=").replace("≤", "<="))
    if whole is None:
        raise BadSetting(
            f'"{text}" is no requirement: expected {FORM}. Put it in quotes, since a shell takes > '
            "and < for files."
        )
    name, place, operator, value = (part and part.strip() for part in whole.groups())
    one_of("quantity", name, QUANTITIES, f'the requirement "{text}"')
    try:
        where, goal = _placed(name, place)
        number, suffix = _valued(QUANTITIES[name].unit, value)
    except BesiegeError as error:
        raise type(error)(f'"{text}": {error}') from error
    return Requirement(name, operator, number, suffix, where, goal)


def _placed(name: str, place: str | None) -> tuple[str, str]:
    """What stands after @: where, and the goal."""
    if place is None:
        return "", ""
    kind = QUANTITIES[name]
    if kind.check is None:
        takers = ", ".join(other for other, known in QUANTITIES.items() if known.check)
        raise BadSetting(f"{name} takes nothing after it, got @{place}; these do: {takers}.")
    where, goal = re.sub(r"\s*([:,=])\s*", r"\1", place), ""
    if kind.aimed:
        before, _, last = where.rpartition(":")
        where, goal = (before, last) if last in GOALS else (where, "")
    if where or not goal:
        kind.check(where)
    return where, goal


def _valued(unit: Unit, text: str) -> tuple[float, str]:
    """A number and its suffix."""
    found = _VALUE.fullmatch(text.lower())
    if found is None or found[2] not in unit.suffixes:
        raise BadSetting(f'"{text}" is not {unit.what}: write {unit.examples}.')
    value, suffix = float(found[1]), found[2]
    worth = value * unit.suffixes[suffix]
    if not (unit.low <= worth <= unit.high and math.isfinite(worth)):
        within = f"at least {unit.low}" if unit.high == math.inf else f"{unit.low} to {unit.high}"
        raise BadSetting(f'"{text}" is not {unit.what}, {within}: write {unit.examples}.')
    return value, suffix


class Measured(NamedTuple):
    """A figure and its 95 % limits, in the unit of its bound; n: images or calls; NaN if none."""

    estimate: float
    low: float
    high: float
    n: int


class Verdict(StrEnum):
    """What a gate says of one requirement."""

    PASS = "PASS"
    FAIL = "FAIL"
    UNDECIDED = "UNDECIDED"
    REFUSED = "REFUSED"


class On(StrEnum):
    """What decides: the whole interval, or the estimate alone."""

    INTERVAL = "interval"
    ESTIMATE = "estimate"


def decide(requirement: Requirement, measured: Measured, on: On = On.INTERVAL) -> Verdict:
    """Whether a figure meets a requirement.

    On the interval: PASS if both of its ends do, FAIL if neither does, UNDECIDED else.

    >>> least = parse_requirement("robust>=30%")
    >>> [str(decide(least, Measured(0.35, low, 0.4, 100))) for low in (0.31, 0.29)]
    ['PASS', 'UNDECIDED']
    """
    ends = (measured.low, measured.high) if on is On.INTERVAL else (measured.estimate,)
    if not math.isfinite(measured.estimate):
        return Verdict.REFUSED
    met = {requirement.holds(end) for end in ends}
    if len(met) > 1:
        return Verdict.UNDECIDED
    return Verdict.PASS if met == {True} else Verdict.FAIL
