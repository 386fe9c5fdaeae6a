"""Whether a claim stands on an interval. NumPy and SciPy only."""

from __future__ import annotations

import math
from enum import StrEnum
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from besiege.core.comparisons import compare
from besiege.core.stats import Interval, mean_interval, share_interval

Values = NDArray[np.float64]


class Verdict(StrEnum):
    """What can be said of a claim; the values are the words shown."""

    HOLDS = "holds"
    FALLS = "falls"
    UNDECIDED = "undecided"
    UNTESTABLE = "not testable here"


class Ruling(NamedTuple):
    """A verdict, the interval that it is of if there is one, and what to say with it."""

    verdict: Verdict
    interval: Interval | None = None
    why: str = ""


def interval_of(values: Values, shares: bool) -> Interval:
    """The mean of per-image values with its 95 % interval: Wilson's for shares, else Student's."""
    return share_interval(values) if shares else mean_interval(values)


def gap_of(values: Values, others: Values, shares: bool) -> Interval:
    """The mean difference values - others, image by image, with its 95 % interval."""
    if not shares:
        return mean_interval(values - others)
    # More than one draw an image unless all shares are 0 or 1: what `compare` resamples is images.
    return compare(values, others, (_draws(values), _draws(others))).difference


def _draws(shares: Values, most: int = 1000) -> int:
    """The least number of draws that gives such shares."""
    for draws in range(1, most):
        if np.allclose(shares * draws, np.round(shares * draws), atol=1e-6):
            return draws
    return most


def ruling(
    interval: Interval, value: float, at_least: bool, n: int, shares: bool = False
) -> Ruling:
    """Whether the mean of n images is at least (or at most) `value`.

    It holds where the whole interval is on that side, falls where it is on the other, and is
    undecided in between; then it says about how many images would decide, if the mean stays.
    shares: whether the interval is Wilson's.

    >>> ruling(Interval(0.2, 0.1, 0.3), 0.5, at_least=True, n=50).verdict
    <Verdict.FALLS: 'falls'>
    >>> ruling(Interval(0.4, 0.2, 0.6), 0.5, at_least=True, n=20).why
    'about 80 images would decide'
    """
    if (interval.low >= value) if at_least else (interval.high <= value):
        return Ruling(Verdict.HOLDS, interval)
    if (interval.high < value) if at_least else (interval.low > value):
        return Ruling(Verdict.FALLS, interval)
    return Ruling(Verdict.UNDECIDED, interval, _deciding(interval, value, n, shares))


def _deciding(interval: Interval, value: float, n: int, shares: bool) -> str:
    """How many images would take the limit to `value`.

    Wilson's interval ends where the score test of `value` does: n (p - v)^2 = z^2 v (1 - v). Other
    widths fall as 1 / sqrt(n).
    """
    gap = value - interval.estimate
    reach = interval.high - interval.estimate if gap > 0 else interval.estimate - interval.low
    if not math.isfinite(reach):
        return "one image says nothing of others"
    if abs(gap) < 1e-9:
        return "the mean is the value claimed: no number of images would decide"
    wide = norm.ppf(0.975) ** 2 * value * (1 - value) if shares else n * reach**2
    return f"about {max(n + 1, math.ceil(wide / gap**2 - 1e-9)):,} images would decide"
