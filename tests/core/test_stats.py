"""Intervals cover what they say, and the worst case is not biased by noise."""

import re

import numpy as np
import pytest
from scipy.stats import binomtest, quantile_test
from statsmodels.stats.proportion import proportion_confint

from besiege.core.errors import BadSetting
from besiege.core.stats import (
    Interval,
    any_right,
    attack_scores,
    majority_right,
    median,
    right_shares,
    share_interval,
    wilson,
    worst_case,
)


def generator(seed=0):
    return np.random.default_rng(seed)  # noqa: TID251


@pytest.mark.parametrize(("k", "n"), [(0, 1), (1, 1), (0, 50), (7, 50), (50, 50), (999, 1000)])
@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.99])
def test_wilson_is_scipys_and_statsmodels(k, n, confidence):
    ours = wilson(k, n, confidence)
    scipy = binomtest(k, n).proportion_ci(confidence, method="wilson")
    models = proportion_confint(k, n, 1 - confidence, method="wilson")
    assert ours.estimate == k / n
    assert ours[1:] == pytest.approx((scipy.low, scipy.high), abs=1e-12)
    assert ours[1:] == pytest.approx(models, abs=1e-12)


@pytest.mark.parametrize(("k", "n"), [(-1, 10), (11, 10), (0, 0)])
def test_impossible_counts_are_refused(k, n):
    with pytest.raises(BadSetting, match=re.escape(f"got {k} of {n}")):
        wilson(k, n)


def test_intervals_cover_the_truth_of_random_defenses():
    """1,000 synthetic defenses: each example has its own chance, 20 judge draws, 100 examples."""
    random, covered = generator(), 0
    for _ in range(1000):
        a, b = random.uniform(0.1, 5, 2)
        chance = random.beta(a, b, 100)
        shares = random.binomial(20, chance) / 20
        interval = share_interval(shares)
        covered += interval.low <= a / (a + b) <= interval.high
    assert covered >= 940


def test_the_worst_of_equal_recipes_is_what_each_is():
    """A plain minimum over 8 looks at the same coin would say 0.6 where 0.8 is true."""
    right = [generator(i).random((2000, 20)) < 0.8 for i in range(8)]
    naive = np.mean(np.min([r.mean(1) for r in right], axis=0))
    assert naive < 0.7
    assert np.mean(worst_case(right)) == pytest.approx(0.8, abs=0.01)


def test_the_worst_case_finds_who_is_broken_by_what():
    rows = np.arange(100)
    first = np.repeat((rows < 50)[:, None], 20, axis=1)
    assert np.mean(worst_case([first, ~first])) == 0
    assert np.mean(worst_case([first, first | True])) == 0.5
    deterministic = [first[:, :1], ~first[:, :1]]
    assert np.mean(worst_case(deterministic)) == 0


def test_scores_of_draws():
    predicted, label = [[1, 1, 2], [0, 0, 0], [-1, -1, 2]], [1, 1, 2]
    assert right_shares(predicted, label) == pytest.approx([2 / 3, 0, 1 / 3])
    assert majority_right(predicted, label).tolist() == [1, 0, 0]
    assert majority_right(predicted, label, 1).tolist() == [1, 0, 0]
    assert any_right(predicted, label).tolist() == [1, 0, 1]
    assert any_right(predicted, label, 2).tolist() == [1, 0, 0]


def test_four_scores_by_hand():
    predicted = [[1, 1, 2, 1], [0, 0, 0, 0], [2, 2, 1, -1], [1, 1, 1, 1]]
    found = attack_scores(predicted, [1] * 4, lucky=[True, True, True, False])
    shares = [(0.25 + 1 + 0.75 + 0) / 4, 3 / 4, 2 / 4, 3 / 4]
    assert [score.estimate for score in found[:4]] == shares
    assert found.any_of_k == wilson(3, 4)
    assert (found.draws, found.differ) == (4, True)
    aimed = attack_scores(predicted, [1] * 4, target=[2, 0, 2, 0])
    assert [score.estimate for score in aimed[:3]] == [(0.25 + 1 + 0.5 + 0) / 4, 3 / 4, 2 / 4]
    assert aimed.as_published is None


def test_one_answer_has_one_score():
    found = attack_scores([[1], [2], [2]], [1, 1, 2], lucky=[True, True, True])
    assert found.expected == found.any_of_k == found.majority_of_k == wilson(1, 3)
    assert not found.differ  # of a deterministic defense the claim says as much


def test_scores_of_a_coin_are_those_of_the_binomial():
    """Wrong with 0.2 whatever the image, 5 draws: any of 5 fails 67 %, the majority 6 %."""
    wrong = generator().random((20000, 5)) < 0.2
    found = attack_scores(wrong.astype(int).tolist(), [0] * 20000)
    truths = 0.2, 1 - 0.8**5, 10 * 0.2**3 * 0.8**2 + 5 * 0.2**4 * 0.8 + 0.2**5
    for score, truth in zip(found[:3], truths, strict=True):
        assert score.low <= truth <= score.high


def test_an_interval_reads_as_text():
    assert str(Interval(0.5, 0.25, 0.75)) == "50.0 % [25.0, 75.0]"


@pytest.mark.parametrize("n", [1, 2, 5, 6, 7, 30, 101])
@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.99])
def test_the_interval_of_a_median_is_scipys(n, confidence):
    values = generator().normal(size=n)
    found = median(values, confidence)
    theirs = quantile_test(values, q=0, p=0.5).confidence_interval(confidence)
    assert found.estimate == np.median(values)
    known = (-np.inf, np.inf) if np.isnan(theirs.low) else (theirs.low, theirs.high)
    assert (found.low, found.high) == known


def test_a_median_of_what_was_mostly_not_found_is_infinite():
    found = median(np.array([1.0] * 4 + [np.inf] * 6))
    assert found == (np.inf, 1.0, np.inf)
