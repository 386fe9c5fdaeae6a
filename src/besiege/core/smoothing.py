"""Randomized smoothing in figures: radii, bounds, and the samples that they take. SciPy only.

f answers an image with noise; g(x) is the answer that f gives most often. Where f gives it with a
chance of at least p > 1/2, no change of x that is smaller than a radius alters g(x). The radius
depends on p and the noise alone, and holds for every f.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.stats import beta, binom, norm

from besiege.core.errors import BadSetting, one_of
from besiege.core.stats import Interval, wilson

Floats: TypeAlias = NDArray[np.float64]


class Law(NamedTuple):
    """What noise of width 1 certifies."""

    norm: str
    radius: Callable[[Floats, float], Floats]  # (p, q): as far as p is sure to stay above q
    share: Callable[[float], float]  # the p that a radius takes; 1 or more where none does


LAWS: Mapping[str, Law] = {
    # Cohen et al. 2019 (arXiv:1902.02918), theorem 1; the width is the standard deviation.
    "gaussian": Law("l2", lambda p, q: norm.ppf(p) - norm.ppf(q), lambda r: float(norm.cdf(r))),
    # Yang et al. 2020 (arXiv:2002.08118), table 1; the width a is that of [-a, a].
    "uniform": Law("l1", lambda p, q: 2 * (p - q), lambda r: 0.5 + r / 2),
    # Teng et al. 2019; the width is the scale b.
    "laplace": Law(
        "l1",
        lambda p, q: math.log1p(-q) - np.log1p(-p),
        lambda r: 1 - math.exp(-r) / 2,
    ),
}


class Channel(NamedTuple):
    """The noise: a name of LAWS, and its width in units of the image."""

    kind: str
    width: float

    @property
    def norm(self) -> str:
        """In which radii are measured: l1 or l2."""
        return self._law.norm

    def radius(self, p: Floats, floor: float = 0.5) -> Floats:
        """Within which a class of chance >= p stays above `floor`, (n,); 0 where p is not above.

        >>> Channel("uniform", 0.5).radius(np.array([0.75, 0.4])).tolist()
        [0.25, 0.0]
        """
        above = np.maximum(p, floor)
        return np.asarray(self.width * self._law.radius(above, floor), dtype=np.float64)

    def share(self, radius: float) -> float:
        """The p above which `radius` is certified; 1 or more where no p is enough."""
        return self._law.share(radius / self.width)

    @property
    def _law(self) -> Law:
        one_of("noise", self.kind, LAWS, "a channel")
        return LAWS[self.kind]


def lower_bound(successes: NDArray[np.int64], n: int, alpha: float) -> Floats:
    """Clopper and Pearson's: a chance is below it with probability alpha at most, exactly.

    >>> lower_bound(np.array([0, 100]), 100, 0.001).round(4).tolist()
    [0.0, 0.9333]
    """
    found = beta.ppf(alpha, np.maximum(successes, 1), n - successes + 1)
    return np.where(successes > 0, found, 0.0)


def samples_for(channel: Channel, radius: float, alpha: float) -> int:
    """The least number of samples with which `radius` can be certified, were all of them agreed.

    alpha^(1/n) is the bound then. Raises BadSetting for a radius that no number certifies.

    >>> samples_for(Channel("gaussian", 0.25), 0.0, 0.001)
    10
    >>> samples_for(Channel("gaussian", 0.25), 0.5, 0.001)
    301
    """
    if not 0 < alpha < 1 or radius < 0:
        raise BadSetting(f"alpha lies in (0, 1), a radius is >= 0: got {alpha} and {radius}.")
    p = channel.share(radius)
    if p >= 1:  # of noise that is bounded
        most = float(channel.radius(np.ones(1))[0])
        raise BadSetting(
            f"{channel.kind} noise of width {channel.width:g} certifies no {channel.norm} radius "
            f"of {radius:g}, with any number of samples: all lie below {most:g}. Take wider noise."
        )
    n = max(1, math.ceil(math.log(alpha) / math.log(p)))
    return n if alpha ** (1 / n) > p else n + 1


def quorum_for(draws: int, alpha: float) -> int:
    """The least count of agreeing draws that is not by chance: P(Bin(draws, 1/2) >= it) <= alpha.

    A class of chance below 1/2, and all such classes together, reach it that rarely. Raises
    BadSetting, with the number of draws needed, where even all draws could agree by chance.

    >>> quorum_for(100, 0.001)
    66
    """
    need = math.ceil(-math.log2(alpha))
    if draws < need:
        raise BadSetting(
            f"a vote of {draws} draws may agree on a wrong class with a chance above {alpha:g}, "
            f"whatever its quorum: at least {need} draws are needed."
        )
    return int(binom.isf(alpha, draws, 0.5)) + 1


def sure_share(draws: int, count: int, alpha: float) -> float:
    """The chance p of a class with which at least `count` of the draws give it, but for alpha.

    >>> round(sure_share(100, 66, 0.001), 3)
    0.788
    """
    return float(beta.ppf(1 - alpha, count, draws - count + 1))


class CurvePoint(NamedTuple):
    """Certified accuracy at one radius: abstentions count as wrong in the one, not in the other."""

    radius: float
    of_all: Interval
    of_answered: Interval | None  # None where nothing was answered


def refuting(
    size: Floats, radius: Floats, answer: NDArray[np.int64], predicted: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Which of the answers to some points certificates do not allow, (n, k).

    size: (n,) of the points, in the norm of radius (n,); answer: (n,) certified; predicted: (n, k)
    answers to the points. Abstentions, -1 in either, refute nothing.

    >>> one = np.ones(1)
    >>> refuting(0.9 * one, one, np.array([3]), np.array([[3, 2, -1]])).tolist()
    [[False, True, False]]
    """
    inside = (size < radius) & (answer >= 0)
    found: NDArray[np.bool_] = inside[:, None] & (predicted != answer[:, None]) & (predicted >= 0)
    return found


def certified_curve(
    right: NDArray[np.bool_],
    answered: NDArray[np.bool_],
    radius: Floats,
    radii: Sequence[float],
) -> tuple[CurvePoint, ...]:
    """The share of images that are right with a radius of at least r, for each r, by Wilson.

    right, answered: (n,) whether the answer is the label, and whether there is one; radius (n,).
    """
    found = []
    for r in radii:
        held = int(np.sum(right & (radius >= r)))
        some = int(np.sum(answered))
        among = wilson(held, some) if some else None
        found.append(CurvePoint(float(r), wilson(held, len(right)), among))
    return tuple(found)
