"""How often intervals hold the truth, over random defenses whose truth is known.

    python examples/coverage.py [TRIALS]

A defense answers an image rightly with a chance of that image's own, from a mixture of Beta
distributions: spread, nearly 0 or 1, or all rare; 20 to 200 images are judged on 1 to 20 draws. The
truth is the mean of the mixture. Nominal: 95 %.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from besiege.core.bootstrap import two_level
from besiege.core.comparisons import compare
from besiege.core.sequential import confidence_sequence
from besiege.core.stats import Interval, share_interval

Floats = NDArray[np.float64]
METHODS: Mapping[str, Callable[[Floats, int], Interval]] = {
    "Wilson (in tables)": lambda shares, draws: share_interval(shares),
    "two-level": lambda shares, draws: two_level(shares, draws),
    "two-level, none added": lambda shares, draws: two_level(shares, draws, pad=0),
    "images alone": lambda shares, draws: two_level(shares, draws, levels=1),
}
STRATA: Mapping[str, Callable[[Floats, Floats, Floats], NDArray[np.bool_]]] = {
    "all": lambda n, k, truth: n > 0,
    "n < 50": lambda n, k, truth: n < 50,
    "1 or 2 draws": lambda n, k, truth: k <= 2,
    "truth < 5 % or > 95 %": lambda n, k, truth: np.abs(truth - 0.5) > 0.45,
    "that, and n < 50": lambda n, k, truth: (np.abs(truth - 0.5) > 0.45) & (n < 50),
}


class Defense(NamedTuple):
    """A mixture of Beta distributions (m,): weights and both parameters."""

    weight: Floats
    a: Floats
    b: Floats

    @property
    def truth(self) -> float:
        return float(np.sum(self.weight * self.a / (self.a + self.b)))

    def chances(self, random: np.random.Generator, n: int) -> Floats:  # noqa: TID251
        """Of n images."""
        part = random.choice(len(self.weight), n, p=self.weight)
        return random.beta(self.a[part], self.b[part])


def defense(random: np.random.Generator) -> Defense:  # noqa: TID251
    """A random one: spread, nearly always right or wrong, rarely either, or of all sorts."""
    rare = (random.uniform(0.02, 0.3), random.uniform(3, 20))
    one = np.ones(1)
    return [
        lambda: Defense(one, random.uniform(0.1, 5, 1), random.uniform(0.1, 5, 1)),
        lambda: Defense(random.dirichlet((1, 1)), np.array([20, 0.05]), np.array([0.05, 20])),
        lambda: Defense(one, *(one * v for v in random.permutation(rare))),
        lambda: Defense(
            random.dirichlet((1, 1, 1)),
            np.array([20, 0.05, random.uniform(0.3, 5)]),
            np.array([0.05, 20, random.uniform(0.3, 5)]),
        ),
    ][random.integers(4)]()


def singles(random: np.random.Generator, trials: int) -> tuple[Floats, Floats]:  # noqa: TID251
    """(trials, 3) images, draws and truth; (trials, methods, 2) whether it is held, and widths."""
    settings, found = np.empty((trials, 3)), np.empty((trials, len(METHODS), 2))
    for i in range(trials):
        whole, n, k = defense(random), int(random.integers(20, 201)), int(random.integers(1, 21))
        shares = random.binomial(k, whole.chances(random, n)) / k
        settings[i] = n, k, whole.truth
        for j, method in enumerate(METHODS.values()):
            at = method(shares, k)
            found[i, j] = at.low <= whole.truth <= at.high, at.high - at.low
    return settings, found


def pairs(
    random: np.random.Generator,  # noqa: TID251
    trials: int,
    draws: tuple[int, int],
    levels: int = 1,
) -> tuple[float, float]:
    """Share of intervals that hold the true difference, and of equal pairs called different."""
    held = wrong = 0
    for _ in range(trials):
        n, chance = int(random.integers(20, 201)), defense(random)
        own = chance.chances(random, n)
        lost = random.uniform(0, 0.4) * (random.random() < 0.7)  # half of the images lose as much
        other = own * (1 - lost * (random.random(n) < 0.5))
        first, second, again = (
            random.binomial(k, p) / k
            for k, p in zip((*draws, draws[1]), (own, other, own), strict=True)
        )
        gap = compare(first, second, draws, levels=levels).difference
        held += gap.low <= chance.truth * lost / 2 <= gap.high
        wrong += compare(first, again, draws, levels=levels).p <= 0.05
    return held / trials, wrong / trials


def sequences(random: np.random.Generator, trials: int, n: int = 200) -> float:  # noqa: TID251
    """Share of confidence sequences that hold the truth after every one of n images."""
    held = 0
    for _ in range(trials):
        whole, k = defense(random), int(random.integers(1, 21))
        found = confidence_sequence(random.binomial(k, whole.chances(random, n)) / k)
        held += bool(np.all((found.low <= whole.truth) & (whole.truth <= found.high)))
    return held / trials


def main(trials: int = 1000, seed: int = 0) -> int:
    """Print the tables; 1 if an interval that besiege uses holds less than 94 %."""
    random = np.random.default_rng(seed)  # noqa: TID251
    console = Console(width=110)
    settings, found = singles(random, trials)
    table = Table("defenses", "number", *METHODS, title="held % (mean width in points)")
    for stratum, chosen in STRATA.items():
        rows = found[chosen(*settings.T)]
        cells = (f"{100 * h:.1f} ({100 * w:.1f})" for h, w in rows.mean(0))
        table.add_row(stratum, str(len(rows)), *cells)
    console.print(table)
    paired = Table("draws", "levels", "held %", "equal, called different %", title="pairs")
    worst = float(found[:, :2, 0].mean(0).min())
    for draws in ((1, 1), (1, 20), (4, 3), (20, 20)):
        for levels in (1, 2) if draws != (1, 1) else (1,):
            held, wrong = pairs(random, trials, draws, levels)
            worst = min(worst, held)
            row = (f"{draws[0]} and {draws[1]}", str(levels), f"{100 * held:.1f}")
            paired.add_row(*row, f"{100 * wrong:.1f}")
    console.print(paired)
    joint = sequences(random, trials)
    console.print(f"confidence sequences that hold after every image: {100 * joint:.1f} %")
    return int(min(worst, joint) < 0.94)


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
