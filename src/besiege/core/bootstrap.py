"""The two-level bootstrap, exactly: of the images, and of the judge's draws within each image.

One resampled image is one of the n images, each as likely, asked again: k answers, each right with
that image's share. Its count of right answers follows the mean of the images' binomials, and the n
resampled images are independent, so the law of their mean is that of a sum of n such counts: an
n-fold convolution, by FFT. Nothing is drawn, and there is no error of simulation.

One level, of images alone, leaves the answers as they are. Shares of other images would come with
answers of their own, so this is no less sound; the second level counts their noise twice. It is
what makes an interval safe where images are few or shares nearly 0 or 1.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.fft import next_fast_len
from scipy.stats import binom

from besiege.core.errors import BadSetting
from besiege.core.stats import Interval, Shares

PAD = 1  # right images, and as many wrong ones, that are added to those seen


class Law(NamedTuple):
    """The distribution of a resampled mean: values (m,), ascending, and their chances."""

    values: NDArray[np.float64]
    chances: NDArray[np.float64]

    def quantile(self, q: float) -> float:
        """The least value that has at least `q` of the chance up to it."""
        place = np.searchsorted(np.cumsum(self.chances), q * float(np.sum(self.chances)))
        return float(self.values[min(int(place), len(self.values) - 1)])

    def doubt(self) -> float:
        """Twice the chance of the rarer side of zero, zero itself counted with it; at most 1."""
        total = float(np.sum(self.chances))
        below = float(np.sum(self.chances[self.values <= 1e-12])) / total
        above = float(np.sum(self.chances[self.values >= -1e-12])) / total
        return min(1.0, 2 * min(below, above))


def two_level(
    shares: Shares, draws: int, confidence: float = 0.95, pad: int = PAD, levels: int = 2
) -> Interval:
    """The mean of per-example shares with the percentile interval of the two-level bootstrap.

    shares: (n,) share of `draws` answers that were right. levels: 1 for images alone.
    pad: so many images that are always right and as many that are always wrong are added before
        resampling: without them nothing varies where all shares are 0 or 1, and the interval has
        no width. Coverage: examples/coverage.py.

    Source: Davison and Hinkley 1997, section 3.8; for the added ones Agresti and Coull 1998.
    Raises BadSetting for no shares, or shares outside [0, 1].

    >>> print(two_level(np.array([1.0, 0.9, 0.2, 0.0, 1.0, 0.6]), draws=10))
    61.7 % [27.5, 87.5]
    """
    _check(shares, draws)
    law = law_of_mean(np.concatenate([shares, np.ones(pad), np.zeros(pad)]), draws, levels)
    tail = (1 - confidence) / 2
    mean = float(np.mean(shares))
    return Interval(mean, min(mean, law.quantile(tail)), max(mean, law.quantile(1 - tail)))


def law_of_mean(shares: Shares, draws: int, levels: int = 2) -> Law:
    """The distribution of the mean share of resampled images, each asked `draws` times again."""
    _check(shares, draws)
    pooled = _counts(shares, draws, levels).mean(0)
    return _law(pooled, len(shares), 0, draws)


def law_of_difference(
    first: Shares, second: Shares, draws: tuple[int, int], levels: int = 2
) -> Law:
    """The distribution of the mean of first - second over resampled images, both asked again.

    first, second: (n,) shares on the same images, of draws[0] and draws[1] answers.
    """
    _check(first, draws[0])
    _check(second, draws[1])
    if len(first) != len(second):
        raise BadSetting(f"pairs need as many of both, got {len(first)} and {len(second)} shares.")
    unit = math.lcm(*draws)
    one = _spaced(_counts(first, draws[0], levels), unit // draws[0])
    other = _spaced(_counts(second, draws[1], levels), unit // draws[1])[:, ::-1]
    size = next_fast_len(2 * unit + 1, real=True)
    both = np.fft.rfft(one, size) * np.fft.rfft(other, size)  # row by row: they are independent
    pooled = np.fft.irfft(both.mean(0), size)[: 2 * unit + 1].clip(min=0)
    return _law(pooled, len(first), unit, unit)


def _law(pooled: NDArray[np.float64], n: int, zero: int, unit: int) -> Law:
    """Of the mean of n draws from `pooled`, a distribution over (index - zero) / unit."""
    length = n * (len(pooled) - 1) + 1
    spectrum = np.fft.rfft(pooled / pooled.sum(), next_fast_len(length, real=True))
    size = next_fast_len(length, real=True)
    chances = np.fft.irfft(spectrum**n, size)[:length].clip(min=0)
    return Law((np.arange(length) - n * zero) / (n * unit), chances)


def _counts(shares: Shares, draws: int, levels: int) -> NDArray[np.float64]:
    """(n, draws + 1): the chance of each count of right answers, for each image.

    With one level it is the count seen; a share between two counts is both, with its mean.
    """
    count = np.clip(shares, 0.0, 1.0)[:, None]
    if levels == 1:
        return np.asarray(np.maximum(0.0, 1 - np.abs(np.arange(draws + 1) - count * draws)))
    return np.asarray(binom.pmf(np.arange(draws + 1), draws, count), dtype=np.float64)


def _spaced(counts: NDArray[np.float64], step: int) -> NDArray[np.float64]:
    """The same with each count times `step`."""
    wide = np.zeros((len(counts), (counts.shape[1] - 1) * step + 1))
    wide[:, ::step] = counts
    return wide


def _check(shares: Shares, draws: int) -> None:
    if draws < 1 or len(shares) == 0:
        raise BadSetting(f"a resampling needs images and draws, got {len(shares)} and {draws}.")
    if not bool(np.all((shares >= -1e-9) & (shares <= 1 + 1e-9))):
        raise BadSetting(f"shares lie in [0, 1], got {shares.min():.4g} to {shares.max():.4g}.")
