"""Verdicts of known intervals."""

import numpy as np
import pytest

from besiege.core.comparisons import compare
from besiege.core.stats import Interval, mean_interval, share_interval, wilson
from besiege.papers.verdicts import Verdict, gap_of, interval_of, ruling

BELOW, ACROSS, ABOVE = Interval(10, 5, 20), Interval(50, 40, 61), Interval(90, 80, 95)


@pytest.mark.parametrize(
    "interval, at_least, verdict",
    [
        (ABOVE, True, Verdict.HOLDS),
        (BELOW, True, Verdict.FALLS),
        (ACROSS, True, Verdict.UNDECIDED),
        (ABOVE, False, Verdict.FALLS),
        (BELOW, False, Verdict.HOLDS),
        (ACROSS, False, Verdict.UNDECIDED),
        # A limit on the value: "at least" is met by it, so nothing below it refutes it but less.
        (Interval(70, 60, 80), True, Verdict.HOLDS),
        (Interval(50, 40, 60), True, Verdict.UNDECIDED),
        (Interval(50, 40, 60), False, Verdict.HOLDS),
        (Interval(70, 60, 80), False, Verdict.UNDECIDED),
    ],
)
def test_of_an_interval(interval, at_least, verdict):
    found = ruling(interval, 60, at_least, n=20)
    assert found.verdict == verdict
    assert bool(found.why) == (verdict == Verdict.UNDECIDED)


@pytest.mark.parametrize("at_least", [False, True])
@pytest.mark.parametrize("share, value", [(0.5, 0.6), (0.5, 0.4), (0.0, 0.01), (0.3, 0.35)])
def test_so_many_images_do_decide(share, value, at_least):
    """With the mean as it is, that many settle it, and one less does not."""

    def found(n):
        return ruling(wilson(share * n, n), value, at_least, n, shares=True)

    n = int(found(20).why.split()[1].replace(",", ""))
    settled = Verdict.HOLDS if (share > value) == at_least else Verdict.FALLS
    assert found(n).verdict == settled
    assert found(n - 1).verdict == Verdict.UNDECIDED


def test_so_many_measurements_decide():
    values = np.array([0.2, 0.3, 0.6, 0.7] * 5)
    why = ruling(mean_interval(values), 0.5, True, n=20).why
    n = int(why.split()[1])
    assert ruling(mean_interval(np.resize(values, 4 * n // 3)), 0.5, True, n).verdict == "falls"
    assert ruling(mean_interval(np.resize(values, n // 2)), 0.5, True, n).verdict == "undecided"


def test_what_no_number_decides():
    assert "no number" in ruling(Interval(60, 50, 70), 60, True, n=9).why
    lone = ruling(mean_interval(np.array([0.4])), 0.5, True, n=1)
    assert lone.verdict == Verdict.UNDECIDED
    assert "one image" in lone.why


def test_intervals_of_values():
    shares, sizes = np.array([0.0, 0.5, 1.0, 1.0]), np.array([0.1, 0.2, 0.4, 0.1])
    assert interval_of(shares, shares=True) == share_interval(shares)
    assert interval_of(sizes, shares=False) == mean_interval(sizes)


def test_mean_interval_by_hand():
    """t of 3 degrees of freedom at 97.5 % is 3.182446."""
    values = np.array([1.0, 2.0, 4.0, 5.0])
    half = 3.182446 * np.std(values, ddof=1) / 2
    assert np.allclose(mean_interval(values), [3.0, 3.0 - half, 3.0 + half], atol=1e-6)


def test_gaps_are_paired():
    """Two rows that vary alike differ for certain, though their own intervals overlap."""
    sizes = np.linspace(0, 1, 9)
    gap = gap_of(sizes + 0.1 + 0.001 * np.sin(np.arange(9)), sizes, shares=False)
    assert 0.09 < gap.low < gap.high < 0.11
    one, other = np.array([1.0] * 9), np.array([1.0] * 3 + [0.0] * 6)
    assert gap_of(one, other, shares=True) == compare(one, other).difference
    of_draws = gap_of(one - 0.05, other, shares=True)  # 19 of 20 draws
    assert of_draws == compare(one - 0.05, other, (20, 1)).difference
