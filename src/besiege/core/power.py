"""How many images an answer takes. NumPy and SciPy only."""

from __future__ import annotations

import math

import numpy as np
from scipy.stats import norm

from besiege.core.errors import BadSetting
from besiege.core.stats import Interval, Shares

HALF_WIDTH = 0.05  # wider intervals are too few images
POWER = 0.8  # the chance that a difference that is there is found


def images_for(half_width: float = HALF_WIDTH, share: float = 0.5, confidence: float = 0.95) -> int:
    """The least number of images with which Wilson's interval about `share` is +- half_width.

    share 0.5, the default, is the worst case. Half the width is z / (n + z^2) times
    sqrt(n p (1 - p) + z^2 / 4): a quadratic in n.

    >>> images_for(0.05), images_for(0.05, share=0.0), images_for(0.01)
    (381, 35, 9600)
    """
    if not (0 < half_width < 0.5 and 0 <= share <= 1):
        raise BadSetting(
            f"half a width lies in (0, 0.5) and a share in [0, 1], got {half_width} and {share}."
        )
    z2 = float(norm.ppf(0.5 + confidence / 2)) ** 2
    # h^2 m^2 - z^2 v m + z^2 (z^2 v - z^2 / 4) = 0 in m = n + z^2, v = p (1 - p)
    v, h2 = share * (1 - share), half_width**2
    root = math.sqrt(max(0.0, (z2 * v) ** 2 - 4 * h2 * z2 * z2 * (v - 0.25)))
    return max(1, math.ceil((z2 * v + root) / (2 * h2) - z2 - 1e-9))


def images_lacking(interval: Interval, half_width: float = HALF_WIDTH) -> int:
    """How many images would leave +- half_width, whichever share of `interval` is true; 0 if it is
    as narrow.

    At the estimate itself as many as `images_for` says are too few half the time.

    >>> images_lacking(Interval(0.0, 0.0, 0.07)), images_lacking(Interval(0.3, 0.19, 0.44))
    (0, 375)
    """
    if (interval.high - interval.low) / 2 <= half_width:
        return 0
    return images_for(half_width, min(max(0.5, interval.low), interval.high))


def too_few(interval: Interval, n: int, half_width: float = HALF_WIDTH) -> str:
    """What to say of an interval of n images wider than +- half_width; "" of another.

    >>> too_few(Interval(0.5, 0.366, 0.634), 50)
    'too few images: 50 leave +-13.4 points; about 381 would leave +-5'
    >>> too_few(Interval(0.0, 0.0, 0.07), 50)
    ''
    """
    need = images_lacking(interval, half_width)
    if need == 0:
        return ""
    half = (interval.high - interval.low) / 2
    return (
        f"too few images: {n} leave +-{100 * half:.1f} points; "
        f"about {need:,} would leave +-{100 * half_width:g}"
    )


def images_to_tell(
    difference: float,
    first: Shares | None = None,
    second: Shares | None = None,
    power: float = POWER,
    level: float = 0.05,
) -> int:
    """How many images tell two defenses apart that differ by `difference` (in shares, not 0).

    first, second: (m,) shares of both on the images of a pilot. The mean square of their
    differences v, with one pair of each extreme added (as in `comparisons.bonett_price`, since a
    pilot without differences proves none), says how much the pairs vary. Without a pilot v = 1, the
    worst case: they never agree. n = (z_a sqrt(v) + z_b sqrt(v - d^2))^2 / d^2 (Connor 1987), and
    1 / |d| more where no pilot says that shares are in between (the exact test of McNemar is
    discrete; Lachenbruch 1992).

    level: of the two-sided test; divide it by the number of comparisons where there are several.

    >>> images_to_tell(0.1), images_to_tell(0.1, np.ones(50), np.ones(50))
    (793, 87)
    """
    d = abs(difference)
    if not 0 < d <= 1:
        raise BadSetting(f"a difference to find lies in [-1, 1] and is not 0, got {difference}.")
    v = 1.0
    if first is not None and second is not None:
        v = float((np.sum((first - second) ** 2) + 2) / (len(first) + 2))
    v = max(v, d if _sharp(first, second) else d * d)
    z_level, z_power = float(norm.ppf(1 - level / 2)), float(norm.ppf(power))
    n = (z_level * math.sqrt(v) + z_power * math.sqrt(v - d * d)) ** 2 / d**2
    return math.ceil(n + (1 / d if _sharp(first, second) else 0) - 1e-9)


def _sharp(first: Shares | None, second: Shares | None) -> bool:
    """Whether shares are 0 or 1, as of deterministic defenses, as far as one knows."""
    both = [shares for shares in (first, second) if shares is not None]
    return all(bool(np.all((shares == 0) | (shares == 1))) for shares in both)


def images_to_decide(
    share: float, threshold: float, power: float = POWER, level: float = 0.05
) -> int | None:
    """How many images show on which side of `threshold` a share lies; None if it lies on it.

    With that many, Wilson's interval excludes the threshold with a chance of `power`, if the truth
    is `share`: n = (z_a sqrt(t (1 - t)) + z_b sqrt(p (1 - p)))^2 / (p - t)^2, as that interval
    holds t exactly if |p - t| <= z_a sqrt(t (1 - t) / n).

    level: of the two-sided interval.

    >>> images_to_decide(0.35, 0.30), images_to_decide(0.30, 0.30)
    (676, None)
    """
    if not (0 <= share <= 1 and 0 <= threshold <= 1):
        raise BadSetting(f"a share and a threshold lie in [0, 1], got {share} and {threshold}.")
    if abs(share - threshold) < 1e-9:
        return None
    z_level, z_power = float(norm.ppf(1 - level / 2)), float(norm.ppf(power))
    spread = z_level * math.sqrt(threshold * (1 - threshold)) + z_power * math.sqrt(
        share * (1 - share)
    )
    return max(1, math.ceil(spread**2 / (share - threshold) ** 2 - 1e-9))
