"""Intervals that hold at every number of images at once, so that a run may look and stop.

A fixed interval that is looked at after every image, until it says what is wished, says it in the
end. Those here may be looked at as often as one likes. NumPy only.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from besiege.core.errors import BadSetting
from besiege.core.stats import Interval, Shares

GRID = 1000  # steps of the grid of means that are bet against
MOST = 0.5  # of the wealth at stake in one bet


class Sequence(NamedTuple):
    """A confidence sequence: limits (n,) after each of the images; they never widen."""

    low: NDArray[np.float64]
    high: NDArray[np.float64]


class Stop(NamedTuple):
    """Where a run may stop: after so many images, with this interval, above or below."""

    n: int
    interval: Interval
    above: bool


def confidence_sequence(shares: Shares, confidence: float = 0.95) -> Sequence:
    """Limits of the mean that hold after every image at once with chance `confidence`.

    shares: (n,) in [0, 1], in the order in which the images came, which must be a random one.
    The hedged betting sequence of Waudby-Smith and Ramdas 2023 (arXiv:2010.09686, theorem 3) with
    its predictable plug-in stakes: against each mean m of a grid two gamblers bet, one on more
    and one on less, none more than half of the wealth; a mean against which half the one's wealth
    or half the other's ever reaches 1 / alpha is ruled out for good. The limits are a grid step
    outside of what is left. Cost: n x 1001 numbers.
    Raises BadSetting for shares outside [0, 1].

    >>> s = confidence_sequence(np.ones(100))
    >>> [round(float(s.low[n - 1]), 3) for n in (1, 10, 100)], float(s.high[-1])
    ([0.0, 0.528, 0.93], 1.0)
    """
    if not bool(np.all((shares >= 0) & (shares <= 1))):
        raise BadSetting("a confidence sequence is of shares in [0, 1]: others came.")
    alpha, grid = 1 - confidence, np.linspace(0, 1, GRID + 1)
    stake = _stakes(shares, alpha)[:, None]
    gain = shares[:, None] - grid
    with np.errstate(divide="ignore"):
        more = np.minimum(stake, MOST / grid)
        less = np.minimum(stake, MOST / (1 - grid))
    rise = np.cumsum(np.log1p(more * gain), axis=0)
    fall = np.cumsum(np.log1p(-less * gain), axis=0)
    wealth = np.maximum.accumulate(np.maximum(rise, fall), axis=0) - np.log(2)
    kept = wealth < -np.log(alpha)
    alive = kept.any(axis=1)
    low = np.where(alive, kept.argmax(axis=1), 0)
    high = np.where(alive, GRID - kept[:, ::-1].argmax(axis=1), 0)
    # Where nothing is left (chance below alpha) the last limits stay.
    last = np.maximum.accumulate(np.where(alive, np.arange(len(shares)), 0))
    low, high = low[last], high[last]
    return Sequence(np.maximum(low - 1, 0) / GRID, np.minimum(high + 1, GRID) / GRID)


def first_stop(shares: Shares, threshold: float, confidence: float = 0.95) -> Stop | None:
    """The first number of images after which the mean is known to lie off `threshold`.

    None while it may be on either side. The answer is wrong with chance 1 - confidence at most,
    however often one asks.

    >>> first_stop(np.zeros(200), threshold=0.1)
    Stop(n=69, interval=Interval(estimate=0.0, low=0.0, high=0.099), above=False)
    """
    s = confidence_sequence(shares, confidence)
    off = (s.low > threshold) | (s.high < threshold)
    if not bool(off.any()):
        return None
    i = int(off.argmax())
    mean, low, high = float(np.mean(shares[: i + 1])), float(s.low[i]), float(s.high[i])
    return Stop(i + 1, Interval(mean, low, high), low > threshold)


def _stakes(shares: Shares, alpha: float) -> NDArray[np.float64]:
    """The bets (n,), each from the images before: sqrt(2 log(2/alpha) / (v t log(1+t)))."""
    t = np.arange(1, len(shares) + 1)
    mean = (0.5 + np.cumsum(shares)) / (t + 1)
    variance = (0.25 + np.cumsum((shares - mean) ** 2)) / (t + 1)
    before = np.concatenate([[0.25], variance[:-1]])
    return np.asarray(np.sqrt(2 * np.log(2 / alpha) / (before * t * np.log1p(t))))
