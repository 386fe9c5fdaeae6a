"""Evidence by simulation, sound and faulty, for checks of which the zoo has no item.

Each case draws what a check would be handed, many times over, and knows which answer is right: a
finding where the fault is there at the size that is named, none where it is not. `docs/checks.md`
has the rates; `python -m benchmarks.checks` measures them again.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from besiege.checks.catalog import CHECKS
from besiege.checks.gradients import Ranks
from besiege.checks.optimisation import Radii
from besiege.checks.protocol import Certified, Clean, Saved, Scores, Tuned
from besiege.checks.randomness import Answers, Luck, Split
from besiege.core.key import Key
from besiege.core.stats import Interval, wilson

DOCTOR, RUN, DRAWS = 16, 100, 20  # images of a visit, of a run, and draws of its judge
ALPHA = 0.001  # of certificates
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Case:
    """check: its number. name: what is there, or is not. fault: whether it has to be named.

    draw: key of so many cases -> evidence for each.
    """

    check: int
    name: str
    fault: bool
    draw: Callable[[Key], Iterable[object]]

    def rate(self, cases: int, seed: int = 0) -> Interval:
        """Share of `cases` in which the check says what it is for, with Wilson's interval.

        A finding of another level than the check's own does not count.

        >>> CASES[0].rate(20).estimate < 0.5
        True
        """
        key = Key.root(seed, range(cases)).fold("simulated", self.check, self.name)
        check = CHECKS[self.check]
        found = [check(evidence) for evidence in self.draw(key)]
        return wilson(sum(f is not None and f.level == check.level for f in found), cases)


def _happens(key: Key, what: str, share: float | Floats, *shape: int) -> Bools:
    """(cases, *shape) events, each with probability `share`, which is one of all or (cases, n)."""
    odds = np.asarray(share)
    odds = odds.reshape(odds.shape + (1,) * (1 + len(shape) - odds.ndim)) if odds.ndim else odds
    found: Bools = key.fold(what).uniform(*shape).double().numpy() < odds
    return found


def _chances(key: Key, n: int = RUN) -> Floats:
    """(cases, n) of being right, by image: two in five sure, two lost, one in between."""
    u = key.fold("chances").uniform(n).double().numpy()
    found: Floats = np.clip(3 * u - 1, 0, 1)
    return found


def _judged(key: Key, what: str, chances: Floats) -> Bools:
    """(cases, n, DRAWS) answers that are right."""
    return _happens(key, what, chances, chances.shape[1], DRAWS)


# Gradients and optimisation


def _third(share: float) -> Callable[[Key], Iterator[object]]:
    """So many images have the label third, from the first step of ten to the last."""

    def draw(key: Key) -> Iterator[object]:
        for image in _happens(key, "third", share, DOCTOR):
            yield Ranks(np.repeat(2 * image[:, None], 10, axis=1))

    return draw


def _radii(
    number: int, rise: float = 0.0, random: bool = False
) -> Callable[[Key], Iterator[Radii]]:
    """Accuracy is the same at all radii, but for `rise` from the second on.

    Judged on draws, or on one answer that a twentieth of the images change at each radius.
    """

    def draw(key: Key) -> Iterator[Radii]:
        chances = _chances(key)
        regained = _happens(key, "regained", rise, RUN)
        base = _happens(key, "base", chances, RUN)
        right = np.empty((len(key), number, RUN))
        for j in range(number):
            if random:
                right[:, j] = _judged(key, f"radius {j}", chances).mean(2)
            else:
                right[:, j] = base ^ _happens(key, f"radius {j}", 0.05, RUN)
            if j:
                right[:, j] = np.where(regained, 1.0, right[:, j])
        eps = np.arange(1.0, number + 1)
        yield from (Radii(eps, one) for one in right)

    return draw


# Randomness


def _flips(n: int, torn: float, sure: float) -> Callable[[Key], Iterator[Answers]]:
    """Four draws of n images: of so many a share `sure` is right, of the others all."""

    def draw(key: Key) -> Iterator[Answers]:
        chances = np.where(_happens(key, "torn", torn, n), sure, 1.0)
        yield from map(Answers, _happens(key, "right", chances, n, 4))

    return draw


def _known(share: float, fresh: float) -> Callable[[Key], Iterator[Luck]]:
    """Accuracy on the known draw, one answer an image, and on eight fresh ones."""

    def draw(key: Key) -> Iterator[Luck]:
        one = _happens(key, "known", share, DOCTOR).astype(float)
        others = _happens(key, "fresh", fresh, DOCTOR, 8).mean(2)
        yield from map(Luck, one, others)

    return draw


def _split(lost: float) -> Callable[[Key], Iterator[Split]]:
    """Two ways to spend, of which one breaks so many images more."""

    def draw(key: Key) -> Iterator[Split]:
        chances = _chances(key)
        fewer = chances * ~_happens(key, "lost", lost, RUN)
        for one, other in zip(_judged(key, "a", chances), _judged(key, "b", fewer), strict=True):
            yield Split(one.mean(1), other.mean(1), ("a", "b"))

    return draw


# Protocol


def _clean(n: int, cost: float, noise: float = 0.03) -> Callable[[Key], Iterator[Clean]]:
    """A defense that takes so many of the images, beside answers that differ by themselves."""

    def draw(key: Key) -> Iterator[Clean]:
        bare = ~_happens(key, "bare", noise, n)
        behind = ~_happens(key, "behind", noise, n) & ~_happens(key, "cost", cost, n)
        yield from map(Clean, behind.astype(float), bare.astype(float))

    return draw


def _few(n: int, share: float) -> Callable[[Key], Iterator[Scores]]:
    def draw(key: Key) -> Iterator[Scores]:
        yield from map(Scores, _happens(key, "right", share, n).astype(float))

    return draw


def _as_advised(n: int, share: float) -> Callable[[Key], Iterator[Scores]]:
    """As many images as it named of n others."""

    def draw(key: Key) -> Iterator[Scores]:
        more = _happens(key, "again", share, 400)
        for first, others in zip(_few(n, share)(key), more, strict=True):
            told = CHECKS[40](first)
            need = n if told is None else int(re.findall(r"\d+", told.next)[0])
            yield Scores(others[:need].astype(float))

    return draw


def _certified(share: float, noise: float = ALPHA) -> Callable[[Key], Iterator[Certified]]:
    """So many certificates are wrong, and attacked where they are; the others answer otherwise
    with the chance that they are allowed. Each is attacked inside its radius."""

    def draw(key: Key) -> Iterator[Certified]:
        wrong = _happens(key, "wrong", share, RUN)
        other = _happens(key, "other", np.where(wrong, 0.9, noise), RUN, DRAWS)
        one = np.ones(RUN)
        for answers in other.astype(int):
            yield Certified(one, 0 * one.astype(int), 0.9 * one, answers, ALPHA)

    return draw


def _tuned(n: int, lost: float) -> Callable[[Key], Iterator[Tuned]]:
    """n images, and so many of the DOCTOR pilots among them broken by the tuning alone."""

    def draw(key: Key) -> Iterator[Tuned]:
        chances = _chances(key, n)
        chances[:, :DOCTOR] *= ~_happens(key, "lost", lost, DOCTOR)
        for right in _judged(key, "judged", chances).mean(2):
            yield Tuned(right[:DOCTOR], right[DOCTOR:])

    return draw


def _best_of_seven(key: Key) -> Iterator[Tuned]:
    """One of seven ways that are equally good, each on images of its own: the best on the pilots.

    All that tuning can do without a way that is better.
    """
    won = _happens(key, "ways", 0.5, RUN, 7)
    best = won[:, :DOCTOR].sum(1).argmax(1)
    right = 1.0 - np.take_along_axis(won, best[:, None, None], 2)[:, :, 0]
    yield from (Tuned(one[:DOCTOR], one[DOCTOR:]) for one in right)


def _saved(share: float) -> Callable[[Key], Iterator[Saved]]:
    def draw(key: Key) -> Iterator[Saved]:
        for cut in _happens(key, "cut off", share, DOCTOR):
            yield Saved(np.stack([0 * cut, 0 * cut, cut], 1), ("as floats", "rounded", "cut off"))

    return draw


CASES: tuple[Case, ...] = (
    Case(6, "label third on 1 % of 16 images", False, _third(0.01)),
    Case(6, "label third on 25 % of 16 images", True, _third(0.25)),
    Case(14, "2 radii, 5 % of answers change", False, _radii(2)),
    Case(14, "5 radii, 5 % of answers change", False, _radii(5)),
    Case(14, "10 radii, 5 % of answers change", False, _radii(10)),
    Case(14, "10 radii, random defense", False, _radii(10, random=True)),
    Case(14, "5 radii, 40 % of the lost regained", True, _radii(5, 0.4)),
    Case(14, "the same, random defense", True, _radii(5, 0.4, random=True)),
    Case(29, "4 draws, a tenth right on 90 %", False, _flips(2 * DOCTOR, 0.1, 0.9)),
    Case(29, "4 draws, all right on 98 %", False, _flips(2 * DOCTOR, 1.0, 0.98)),
    Case(29, "4 draws, a third a coin", True, _flips(2 * DOCTOR, 1 / 3, 0.5)),
    Case(30, "as right on the known draw, 16 images", False, _known(0.6, 0.6)),
    Case(30, "30 % on the known draw, 80 % on others", True, _known(0.3, 0.8)),
    Case(31, "both ways alike", False, _split(0.0)),
    Case(31, "one way breaks 20 % more", True, _split(0.2)),
    Case(38, "costs nothing, 16 images", False, _clean(DOCTOR, 0.0)),
    Case(38, "costs nothing, 100 images", False, _clean(RUN, 0.0)),
    Case(38, "costs 40 %, 16 images", True, _clean(DOCTOR, 0.4)),
    Case(38, "costs 15 %, 100 images", True, _clean(RUN, 0.15)),
    Case(40, "381 images", False, _few(381, 0.5)),
    Case(40, "as many as it named of 50, 10 % right", False, _as_advised(50, 0.1)),
    Case(40, "as many as it named of 50, 30 % right", False, _as_advised(50, 0.3)),
    Case(40, "190 images, half of them right", True, _few(190, 0.5)),
    Case(44, "sound, every answer as doubtful as allowed", False, _certified(ALPHA)),
    Case(44, "5 % of the certificates wrong", True, _certified(0.05)),
    Case(45, "100 images, no effect", False, _tuned(RUN, 0.0)),
    Case(45, "32 images, no effect", False, _tuned(2 * DOCTOR, 0.0)),
    Case(45, "all pilots broken by the tuning", True, _tuned(RUN, 1.0)),
    Case(46, "1 % of answers change, 16 images", False, _saved(0.01)),
    Case(46, "25 % of answers change", True, _saved(0.25)),
)

BLIND: tuple[Case, ...] = (  # faults that so few images do not show, whatever the threshold
    Case(38, "costs 15 %, 16 images", True, _clean(DOCTOR, 0.15)),
    Case(45, "best of 7 equal ways", True, _best_of_seven),
    Case(46, "5 % of answers change, 16 images", True, _saved(0.05)),
)
