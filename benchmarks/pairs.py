"""Agresti and Min's interval of paired shares beside Bonett and Price's: python -m benchmarks.pairs

Of one answer each, exactly: every table of n pairs with its probability. Of shares of 20 draws, by
simulation. Both add a pair in which only the first is right and one in which only the second is:
half of each, or a whole one. About 5 s on one core.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln, xlogy
from scipy.stats import norm

from besiege.core.key import Key

PAIRS, DISCORDANT, ONE_SIDED = (
    (8, 16, 32, 50, 100, 200),
    (0.02, 0.05, 0.1, 0.2, 0.3, 0.5),
    (0, 0.5, 0.9, 1),
)
RULES = {"Agresti & Min 2005": 1, "Bonett & Price 2012": 2}  # pairs that differ, added
DRAWS, CASES = 20, 4000
Floats = NDArray[np.float64]


def limits(total: Floats, squares: Floats, n: int, added: int) -> tuple[Floats, Floats]:
    """Of the mean of n differences with this sum and sum of squares, at 95 %."""
    mean = total / (n + 2)
    half = norm.ppf(0.975) * np.sqrt(((squares + added) / (n + 2) - mean**2) / (n + 2))
    return mean - half, mean + half


def exact(n: int, discordant: float, gap: float, added: int) -> tuple[float, float]:
    """Chances that the interval holds `gap`, and that it lies above it."""
    first, second = np.triu_indices(n + 1)
    first, second = first, n - second  # all counts with first + second <= n
    one, other = (discordant + gap) / 2, (discordant - gap) / 2
    same = n - first - second
    ways = gammaln(n + 1) - gammaln(first + 1) - gammaln(second + 1) - gammaln(same + 1)
    odds = xlogy(first, one) + xlogy(second, other) + xlogy(same, 1 - discordant)
    chance = np.exp(ways + odds)
    low, high = limits(first - second, first + second, n, added)
    held = (low <= gap) & (gap <= high)
    return float(chance[held].sum()), float(chance[low > gap].sum())


def simulated(n: int, added: int, gap: float) -> tuple[float, float]:
    """The same of shares of DRAWS, where images are lost, sure, or in between."""
    key = Key.root(0, range(CASES)).fold("pairs", n)
    chances = np.clip(3 * key.fold("chances").uniform(n).double().numpy() - 1, 0, 1)
    less = np.clip(chances - gap, 0, 1)
    true = (chances - less).mean()
    shares = [
        (key.fold(name).uniform(n, DRAWS).double().numpy() < p[..., None]).mean(2)
        for name, p in (("first", chances), ("second", less))
    ]
    d = shares[0] - shares[1]
    low, high = limits(d.sum(1), (d**2).sum(1), n, added)
    return float(((low <= true) & (true <= high)).mean()), float((low > true).mean())


def rows() -> Iterator[str]:
    """Of a table in Markdown."""
    yield "| interval | pairs | held, mean % | held, least % | below the truth, most % |"
    yield "|---|---|---|---|---|"
    grid = list(product(PAIRS, DISCORDANT, ONE_SIDED))
    for name, added in RULES.items():
        one = np.array([exact(n, d, s * d, added) for n, d, s in grid])
        many = np.array([simulated(n, added, gap) for n, gap in product(PAIRS[1:5], (0, 0.2))])
        for about, found in (("one answer", one), (f"shares of {DRAWS} draws", many)):
            held = f"{100 * found[:, 0].mean():.1f} | {100 * found[:, 0].min():.1f}"
            yield f"| {name} | {about} | {held} | {100 * found[:, 1].max():.1f} |"


if __name__ == "__main__":
    print("\n".join(rows()))
