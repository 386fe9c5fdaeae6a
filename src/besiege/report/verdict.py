"""What a run says of a defense in one word, by a rule that is written down (docs/judging.md)."""

from __future__ import annotations

from dataclasses import dataclass, field

from besiege.core.power import too_few
from besiege.core.stats import Interval

BROKEN, UNPROVED, CERTIFIED = "broken", "unproved", "certified"
WORDS = {
    BROKEN: "what attackers leave lies, with its whole interval, below what is claimed, or where "
    "nothing is, below a quarter of the clean accuracy",
    UNPROVED: "it does not, and a better attacker may leave less",
    CERTIFIED: "what is proved lies above it",
}
KEPT = 0.25  # of what is right without attack: the bar where nobody claims more
FEW_PASSES = 1000  # on an image that stands: less is little effort


@dataclass(frozen=True)
class Evidence:
    """What a verdict is made of, for one defense and threat.

    accuracy: what the attackers leave, at worst. clean: without attack. missed: of a targeted
    threat the share of answers that are not the target, at worst. chance: accuracy of a guess.
    claim: robust accuracy that somebody claims. certified: share of images proved right; radius:
    within what. attacked: whether anybody did. fitted: whether an attacker was made of several
    searches, as the adaptive one is. passes: on an image that stands. grave: findings that warn,
    in short.
    """

    accuracy: Interval
    n: int
    clean: Interval | None = None
    missed: Interval | None = None
    chance: float = 0.0
    claim: float | None = None
    certified: Interval | None = None
    radius: str = ""
    attacked: bool = True
    fitted: bool = True
    passes: float = float("inf")
    grave: tuple[str, ...] = ()


@dataclass(frozen=True)
class Verdict:
    """A word of WORDS and why. bar: what robust accuracy is compared with, None where unknown."""

    word: str
    why: tuple[str, ...]
    bar: float | None = None
    claim: float | None = None
    gap: float | None = None  # claim minus what the attackers leave
    radius: str = field(default="")  # where it is certified

    def __str__(self) -> str:
        return f"{self.word} at {self.radius}" if self.radius else self.word


def verdict_of(e: Evidence) -> Verdict:
    """The verdict on one defense and threat.

    The bar is the claim, where there is one; else a quarter of the clean accuracy, or that of a
    guess if it is more. *broken*: the upper end of the robust accuracy lies below the bar (and the
    defense does better than a guess without attack); or the attacker's targets are hit so often
    that the upper end of what misses them is at most a quarter. *certified*: the lower end of what
    is proved lies above the bar. *unproved*: anything else, with what speaks against the evidence.

    >>> told = verdict_of(Evidence(Interval(0.02, 0.0, 0.1), 50, Interval(0.9, 0.8, 0.95)))
    >>> told.word, round(told.bar, 3)
    ('broken', 0.225)
    """
    bar, gap = _bar(e), None if e.claim is None else e.claim - e.accuracy.estimate
    why = _broken(e, bar)
    if why:
        return Verdict(BROKEN, why, bar, e.claim, gap)
    if e.certified is not None and bar is not None and e.certified.low > bar:
        proved = f"{e.certified} proved right within {e.radius}, above {_what(e, bar)}"
        return Verdict(CERTIFIED, (proved,), bar, e.claim, gap, e.radius)
    return Verdict(UNPROVED, tuple(_doubts(e, bar)), bar, e.claim, gap)


def _bar(e: Evidence) -> float | None:
    if e.claim is not None:
        return e.claim
    return None if e.clean is None else max(KEPT * e.clean.estimate, e.chance)


def _broken(e: Evidence, bar: float | None) -> tuple[str, ...]:
    """Why it is broken; nothing where it is not."""
    if not e.attacked:
        return ()
    why = []
    better = e.claim is not None or (e.clean is not None and e.clean.low > e.chance)
    if bar is not None and better and e.accuracy.high < bar:
        why.append(f"at most {_percent(e.accuracy.high)} is left, below {_what(e, bar)}")
    if e.missed is not None and e.missed.high <= KEPT:
        hit = Interval(1 - e.missed.estimate, 1 - e.missed.high, 1 - e.missed.low)
        why.append(f"targets are hit on {hit}, at least {_percent(1 - KEPT)}")
    return tuple(why)


def _doubts(e: Evidence, bar: float | None) -> list[str]:
    """Why nothing is proved, and what weakens the evidence."""
    if not e.attacked:
        return ["nobody attacked it"]
    stands = "no attacker of this run left less, and that is no proof"
    if e.claim is not None:
        stands = f"its claim of {_percent(e.claim)} stands so far, and that is no proof"
    elif bar is not None:
        stands += f"; broken would be an upper end below {_what(e, bar)}"
    found = [stands]
    if bar is None:
        found.append("no clean figure to compare with (recipe none)")
    elif e.claim is None and e.clean is not None and e.clean.low <= e.chance:
        found.append(f"clean {e.clean} may be a guess ({_percent(e.chance)})")
    if not e.fitted:
        found.append("no adaptive attacker")
    if e.passes < FEW_PASSES:
        few = f"{e.passes:,.0f} passes on an image that stands are few (below {FEW_PASSES:,})"
        found.append(few)
    if wide := too_few(e.accuracy, e.n):
        found.append(wide)
    return found + [f"see {name}" for name in e.grave]


def _what(e: Evidence, bar: float) -> str:
    if e.claim is not None:
        return f"the claim of {_percent(bar)}"
    if bar == e.chance:
        return f"the {_percent(bar)} of a guess"
    return f"{_percent(bar)}, a quarter of clean accuracy"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
