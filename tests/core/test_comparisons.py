"""Bootstrap laws, pairs, corrections and numbers of images, against others' and by simulation."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binom
from statsmodels.stats.contingency_tables import mcnemar as mcnemar_of_statsmodels
from statsmodels.stats.multitest import multipletests

from besiege.core.bootstrap import law_of_difference, law_of_mean, two_level
from besiege.core.comparisons import bonett_price, compare, holm, mcnemar, paired, unpaired
from besiege.core.errors import BadSetting
from besiege.core.power import images_for, images_to_tell, too_few
from besiege.core.stats import wilson

ROOT = Path(__file__).parents[2]


def loaded(path):
    """A script as a module."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


coverage = loaded(ROOT / "examples" / "coverage.py")
pairs = loaded(ROOT / "benchmarks" / "pairs.py")


def generator(seed=0):
    return np.random.default_rng(seed)  # noqa: TID251


SHARES = np.array([0.0, 0.25, 0.5, 1.0, 1.0, 0.75])
OTHERS = np.array([0.5, 0.0, 0.5, 0.5, 1.0, 0.0])


def resampled(random, shares, draws, levels, times=40_000):
    """The same by drawing: images with replacement, then answers of each."""
    index = random.integers(len(shares), size=(times, len(shares)))
    return index, random.binomial(draws, shares[index]) / draws if levels == 2 else shares[index]


@pytest.mark.parametrize("levels", [1, 2])
def test_the_law_of_a_mean_is_that_of_drawing(levels):
    means = resampled(generator(), SHARES, 4, levels)[1].mean(1)
    law = law_of_mean(SHARES, 4, levels)
    assert law.chances.sum() == pytest.approx(1)
    assert law.values @ law.chances == pytest.approx(SHARES.mean())
    for q in (0.025, 0.3, 0.9, 0.975):
        assert law.quantile(q) == pytest.approx(np.quantile(means, q), abs=1.01 / 24)
    assert np.var(means) == pytest.approx((law.values - SHARES.mean()) ** 2 @ law.chances, rel=0.03)


@pytest.mark.parametrize("levels", [1, 2])
def test_the_law_of_a_difference_is_that_of_drawing(levels):
    random = generator()
    index, first = resampled(random, SHARES, 4, levels)
    second = random.binomial(6, OTHERS[index]) / 6 if levels == 2 else OTHERS[index]
    gaps = (first - second).mean(1)
    law = law_of_difference(SHARES, OTHERS, (4, 6), levels)
    assert law.values @ law.chances == pytest.approx((SHARES - OTHERS).mean())
    assert np.var(gaps) == pytest.approx(
        (law.values - (SHARES - OTHERS).mean()) ** 2 @ law.chances, rel=0.03
    )
    assert law.doubt() == pytest.approx(2 * np.mean(gaps <= 1e-12), abs=0.02)


def test_two_levels_are_wider_than_one():
    one, two = (two_level(SHARES, 4, levels=levels, pad=0) for levels in (1, 2))
    assert one.estimate == two.estimate == SHARES.mean()
    assert two.low < one.low
    assert two.high >= one.high


def test_shares_that_are_all_alike_have_an_interval():
    assert two_level(np.ones(50), 20, pad=0)[1:] == (1, 1)  # what adding images is there for
    padded = two_level(np.ones(50), 20)
    assert padded.estimate == padded.high == 1
    assert 0.9 < padded.low < 0.97


def test_intervals_hold_what_they_say():
    """At least 94 % of 1,000 random defenses; examples/coverage.py has the full table."""
    _, found = coverage.singles(generator(1), 1000)
    held = dict(zip(coverage.METHODS, found[:, :, 0].mean(0), strict=True))
    widths = dict(zip(coverage.METHODS, found[:, :, 1].mean(0), strict=True))
    assert held["Wilson (in tables)"] >= 0.94
    assert held["two-level"] >= 0.94
    assert widths["two-level"] < widths["Wilson (in tables)"]


@pytest.mark.parametrize("draws", [(1, 1), (1, 20), (4, 3)])
def test_pairs_hold_what_they_say(draws):
    held, wrong = coverage.pairs(generator(2), 1000, draws)
    assert held >= 0.94
    assert wrong <= 0.05


@pytest.mark.parametrize(("one", "other", "n"), [(0, 0, 8), (5, 0, 16), (9, 3, 100)])
def test_the_interval_of_pairs_is_bonett_and_prices(one, other, n):
    d = np.repeat([1.0, -1.0, 0.0], [one, other, n - one - other])
    found = paired(np.maximum(d, 0), np.maximum(-d, 0))
    assert found == bonett_price(one, other, n)
    total, squares = np.array(one - other), np.array(one + other)
    assert found[1:] == pytest.approx(pairs.limits(total, squares, n, 2))


def test_it_holds_what_agresti_and_mins_does_not():
    """Exactly: over all tables of n pairs. One that is surer is no better if it is wrong."""
    grid = [(n, d, s * d) for n in (8, 32, 100) for d in (0.05, 0.2, 0.5) for s in (0, 0.9, 1)]
    least = {added: min(pairs.exact(*at, added)[0] for at in grid) for added in (1, 2)}
    assert least[2] > 0.935
    assert least[1] < 0.9


def test_shares_of_different_images_hold_what_they_say():
    """The two-sample interval, exactly: over all counts of 16 and 40 images."""
    first, second = np.arange(41), np.arange(17)
    for p, q in ((0.5, 0.5), (0.9, 0.6), (0.05, 0.05), (1.0, 0.9)):
        odds = np.outer(binom.pmf(first, 40, p), binom.pmf(second, 16, q))
        held = 0.0
        for i, j in zip(*np.nonzero(odds > 1e-9), strict=True):
            found = unpaired(np.arange(40) < i, np.arange(16) < j)
            held += odds[i, j] * (found.low <= p - q <= found.high)
        assert held > 0.93


def test_sequences_hold_after_every_image():
    assert coverage.sequences(generator(3), 120) >= 0.95


@pytest.mark.parametrize(("one", "other"), [(0, 0), (6, 0), (3, 9), (20, 21), (1, 0)])
def test_mcnemar_is_that_of_statsmodels(one, other):
    theirs = mcnemar_of_statsmodels([[5, one], [other, 7]], exact=True).pvalue
    assert mcnemar(one, other) == pytest.approx(theirs)


def test_deterministic_answers_are_compared_by_mcnemar():
    first, second = (
        np.repeat([1.0, 1, 0, 0], [30, 12, 3, 5]),
        np.repeat([1.0, 0, 1, 0], [30, 12, 3, 5]),
    )
    found = compare(first, second)
    assert found.test == "McNemar"
    assert found.p == mcnemar(12, 3)
    assert found.difference == bonett_price(12, 3, 50)
    # Bonett and Price: (13 - 4) / 52 -+ 1.96 sqrt((13 + 4) / 52 - (9 / 52)^2) / sqrt(52)
    assert found.difference == pytest.approx((0.18, 0.02496, 0.32119), abs=1e-5)


def test_shares_are_compared_by_the_bootstrap_and_both_ways_alike():
    there, back = compare(SHARES, OTHERS, (4, 6)), compare(OTHERS, SHARES, (6, 4))
    assert there.test == "paired bootstrap"
    assert there.difference[1:] == pytest.approx(
        (-back.difference.high, -back.difference.low), abs=0.01
    )
    assert there.p == pytest.approx(back.p)


def test_an_interval_without_zero_is_a_small_p():
    random = generator(4)
    for _ in range(60):
        first = random.binomial(5, random.random(40)) / 5
        second = random.binomial(5, random.random(40) * random.uniform(0.4, 1)) / 5
        found = compare(first, second, (5, 5))
        outside = found.difference.low > 0 or found.difference.high < 0
        assert outside == (found.p < 0.05)


@pytest.mark.parametrize("p", [[0.01], [0.01, 0.04, 0.03], [0.5, 0.5], [0.001, 0.8, 0.02, 0.02]])
def test_holm_is_that_of_statsmodels(p):
    assert holm(p) == pytest.approx(multipletests(p, method="holm")[1])


def test_holm_of_nothing_is_nothing():
    assert holm([]).tolist() == []


@pytest.mark.parametrize("share", [0.0, 0.03, 0.2, 0.5, 0.9])
@pytest.mark.parametrize("half", [0.02, 0.05, 0.1])
def test_the_least_number_of_images_for_a_width(share, half):
    def enough(n):
        z2 = 1.959964**2
        return np.sqrt(z2 * (n * share * (1 - share) + z2 / 4)) / (n + z2) <= half + 1e-9

    n = images_for(half, share)
    assert enough(n)
    assert n == 1 or not enough(n - 1)


def test_too_few_images_are_named():
    at = wilson(25, 50)
    assert too_few(at, 50) == "too few images: 50 leave +-13.4 points; about 381 would leave +-5"
    assert too_few(wilson(200, 400), 400) == ""


@pytest.mark.parametrize(("gap", "agreeing"), [(0.1, 0.0), (0.1, 0.7), (0.2, 0.5), (0.3, 0.3)])
def test_so_many_images_find_the_difference(gap, agreeing):
    differing = 1 - agreeing
    first = np.zeros(100_000)
    second = first.copy()
    won = round(100_000 * (differing + gap) / 2)
    first[:won], second[won : round(100_000 * differing)] = 1, 1
    n = images_to_tell(gap, first, second)
    chances = [(differing + gap) / 2, (differing - gap) / 2, agreeing]
    counts = generator(5).multinomial(n, chances, 1000)
    assert np.mean([mcnemar(a, b) <= 0.05 for a, b, _ in counts]) == pytest.approx(0.8, abs=0.04)


def test_shares_tell_with_fewer_images_than_answers():
    random = generator(6)
    chance = random.beta(1, 1, 200)
    first, second = (random.binomial(20, p) / 20 for p in (chance, 0.9 * chance))
    need, answers = images_to_tell(0.05, first, second), images_to_tell(0.05)
    assert need < answers / 5
    found = 0
    for _ in range(150):
        p = random.beta(1, 1, need)
        a, b = (random.binomial(20, q) / 20 for q in (p, 0.9 * p))
        found += compare(a, b, (20, 20)).p <= 0.05
    assert found / 150 >= 0.7


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: compare(np.ones(3), np.ones(2)), "got 3 and 2"),
        (lambda: two_level(np.array([1.5]), 3), r"shares lie in \[0, 1\]"),
        (lambda: two_level(np.ones(0), 3), "got 0 and 3"),
        (lambda: images_for(0.7), "half a width"),
        (lambda: images_to_tell(0.0), "is not 0"),
        (lambda: bonett_price(3, 3, 5), "of 5 cannot be"),
        (lambda: mcnemar(-1, 3), "at least 0"),
    ],
)
def test_what_makes_no_sense_is_refused(call, says):
    with pytest.raises(BadSetting, match=says):
        call()
