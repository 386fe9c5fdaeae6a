"""Two defenses, or two attackers, on the same images. NumPy and SciPy only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest, norm

from besiege.core.bootstrap import PAD, law_of_difference
from besiege.core.errors import BadSetting
from besiege.core.stats import Interval, Shares


class Comparison(NamedTuple):
    """Mean shares of two on the same n images, and what is between them."""

    n: int
    first: float
    second: float
    difference: Interval  # first - second, in [-1, 1]
    p: float  # of no difference, two-sided
    test: str

    def __str__(self) -> str:
        d = self.difference
        return (
            f"{100 * d.estimate:+.1f} points [{100 * d.low:+.1f}, {100 * d.high:+.1f}], "
            f"p = {self.p:.2g} ({self.test}, n = {self.n})"
        )


def compare(
    first: Shares,
    second: Shares,
    draws: tuple[int, int] = (1, 1),
    confidence: float = 0.95,
    levels: int = 1,
) -> Comparison:
    """The paired comparison of per-example shares on the same images.

    first, second: (n,) share of draws[0] and draws[1] answers that were right.
    One answer each (deterministic defenses): McNemar's exact test, and the interval of Bonett and
    Price 2012. Else the paired bootstrap, exactly (`bootstrap.law_of_difference`): its percentile
    interval, and the p at which that interval begins to hold 0. One pair in which only the first is
    right and one in which only the second is are added before resampling, as Bonett and Price do.

    levels: 2 to resample the draws within images too, which is wider than need be: draws are most
        of what differs between pairs, and they would count twice (coverage: examples/coverage.py).
    Raises BadSetting for shares that are no pairs.

    >>> print(compare(np.array([1.0] * 9), np.array([1.0] * 3 + [0.0] * 6)))
    +66.7 points [+15.8, +93.3], p = 0.031 (McNemar, n = 9)
    """
    if len(first) != len(second) or len(first) == 0:
        raise BadSetting(f"pairs need as many of both, got {len(first)} and {len(second)} shares.")
    means = float(np.mean(first)), float(np.mean(second))
    if draws == (1, 1) and set(np.unique(np.concatenate([first, second]))) <= {0.0, 1.0}:
        only = int(np.sum(first > second)), int(np.sum(first < second))
        interval = bonett_price(*only, len(first), confidence)
        return Comparison(len(first), *means, interval, mcnemar(*only), "McNemar")
    ones, zeros = np.ones(PAD), np.zeros(PAD)
    law = law_of_difference(
        np.concatenate([first, ones, zeros]), np.concatenate([second, zeros, ones]), draws, levels
    )
    tail, gap = (1 - confidence) / 2, means[0] - means[1]
    interval = Interval(gap, min(gap, law.quantile(tail)), max(gap, law.quantile(1 - tail)))
    return Comparison(len(first), *means, interval, law.doubt(), "paired bootstrap")


def mcnemar(only_first: int, only_second: int) -> float:
    """The exact two-sided p of McNemar 1947: who alone is right on an image is a coin toss.

    >>> mcnemar(6, 0)
    0.03125
    """
    if min(only_first, only_second) < 0:
        raise BadSetting(f"counts of images are at least 0, got {only_first} and {only_second}.")
    n = only_first + only_second
    return float(binomtest(only_first, n).pvalue) if n else 1.0


def bonett_price(only_first: int, only_second: int, n: int, confidence: float = 0.95) -> Interval:
    """The difference of two paired proportions, (only_first - only_second) / n.

    The adjusted Wald interval of Bonett and Price 2012: with one more of each discordant pair.

    >>> print(bonett_price(0, 0, 98))
    0.0 % [-2.8, 2.8]
    """
    if n < 1 or only_first + only_second > n:
        raise BadSetting(f"{only_first} and {only_second} discordant pairs of {n} cannot be.")
    gap = only_first - only_second
    return _adjusted(gap, only_first + only_second, n, confidence)


def paired(first: Shares, second: Shares, confidence: float = 0.95) -> Interval:
    """Mean of first - second over n images, both (n,) in [0, 1]: one answer each, or shares.

    `bonett_price` of any shares: one more pair of each extreme, whatever the pairs are. At once
    (`compare` resamples, which is narrower where there are many draws), and what all checks ask.
    Coverage and errors beside those of Agresti and Min 2005: docs/checks.md.

    >>> print(paired(np.ones(8), np.zeros(8)))
    100.0 % [42.8, 100.0]
    """
    d = np.asarray(first, float) - np.asarray(second, float)
    if d.ndim != 1 or len(d) == 0:
        raise BadSetting(f"pairs are (n,) shares of n >= 1 images, got {d.shape}.")
    return _adjusted(float(d.sum()), float((d**2).sum()), len(d), confidence)


def unpaired(first: Shares, second: Shares, confidence: float = 0.95) -> Interval:
    """Mean of first - second, shares of different images, (n,) and (m,) in [0, 1].

    Agresti and Caffo 2000: Wald's interval with one right and one wrong image added to each. Shares
    of several draws vary less than single answers do, so it is then wider than need be.

    >>> print(unpaired(np.ones(40), np.zeros(16)))
    100.0 % [80.5, 100.0]
    """
    means, variance = list[float](), 0.0
    for shares in (first, second):
        n = len(shares) + 2
        p = (float(np.sum(shares)) + 1) / n
        means.append(p)
        variance += p * (1 - p) / n
    half = float(norm.ppf(0.5 + confidence / 2)) * float(np.sqrt(variance))
    gap, mean = float(np.mean(first) - np.mean(second)), means[0] - means[1]
    return Interval(gap, max(-1.0, min(gap, mean - half)), min(1.0, max(gap, mean + half)))


def _adjusted(total: float, squares: float, n: int, confidence: float) -> Interval:
    """The mean of n differences in [-1, 1], with a 1 and a -1 added for its interval."""
    z = float(norm.ppf(0.5 + confidence / 2))
    gap, mean = total / n, total / (n + 2)
    half = z * float(np.sqrt(((squares + 2) / (n + 2) - mean**2) / (n + 2)))
    return Interval(gap, max(-1.0, min(gap, mean - half)), min(1.0, max(gap, mean + half)))


def holm(p: Sequence[float]) -> NDArray[np.float64]:
    """The p of each of several tests, corrected so that all are right at once (Holm 1979).

    Any of the tests that then lies below 0.05 may be called a difference; the chance that one of
    them is none is below 0.05, however the tests depend on each other.

    >>> holm([0.01, 0.04, 0.03]).tolist()
    [0.03, 0.06, 0.06]
    """
    values = np.asarray(p, dtype=np.float64)
    order = np.argsort(values, kind="stable")
    grown = np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1))
    corrected = np.empty_like(values)
    corrected[order] = np.minimum(grown, 1.0)
    return corrected
