"""Confidence sequences are those of the paper, computed step by step, and stop where they may."""

import math

import numpy as np
import pytest

from besiege.core.errors import BadSetting
from besiege.core.sequential import GRID, confidence_sequence, first_stop


def generator(seed=0):
    return np.random.default_rng(seed)  # noqa: TID251


def wealths(shares, m, alpha):
    """Both gamblers' halves after each image, in plain Python."""
    mean, total, squares, before = 0.5, 0.5, 0.25, 0.25
    rise = fall = 0.5
    for t, x in enumerate(shares, 1):
        stake = math.sqrt(2 * math.log(2 / alpha) / (before * t * math.log(1 + t)))
        rise *= 1 + min(stake, 0.5 / m) * (x - m)
        fall *= 1 - min(stake, 0.5 / (1 - m)) * (x - m)
        total += x
        mean = total / (t + 1)
        squares += (x - mean) ** 2
        before = squares / (t + 1)
        yield max(rise, fall)


def test_the_sequence_is_that_of_the_paper():
    shares = generator().beta(0.4, 0.8, 60)
    found = confidence_sequence(shares)
    for m in (0.1, 0.2, 0.35, 0.5, 0.8):
        reached = [w >= 20 for w in wealths(shares, m, 0.05)]
        first = reached.index(True) if True in reached else len(shares)
        for t in range(len(shares)):
            within = found.low[t] + 1.5 / GRID < m < found.high[t] - 1.5 / GRID
            beyond = m < found.low[t] or m > found.high[t]
            assert not (within and t >= first)
            assert not (beyond and t < first)
    assert found.low[-1] > 0.1
    assert found.high[-1] < 0.8


def test_limits_never_widen_and_come_close():
    found = confidence_sequence((generator(1).random(3000) < 0.3).astype(float))
    assert bool((np.diff(found.low) >= 0).all())
    assert bool((np.diff(found.high) <= 0).all())
    assert found.low[-1] < 0.3 < found.high[-1]
    assert found.high[-1] - found.low[-1] < 0.09


def test_shares_that_vary_less_are_known_sooner():
    yes_or_no = (generator(2).random(200) < 0.5).astype(float)
    steady = 0.5 + 0.1 * (yes_or_no - 0.5)
    width = [s.high[-1] - s.low[-1] for s in map(confidence_sequence, (yes_or_no, steady))]
    assert width[1] < 0.6 * width[0]


def test_a_run_may_stop_once_the_threshold_is_excluded():
    broken = np.zeros(200)
    stop = first_stop(broken, threshold=0.3)
    assert stop is not None
    assert stop.n < 30
    assert not stop.above
    assert stop.interval.high < 0.3
    assert first_stop(broken[: stop.n - 1], threshold=0.3) is None
    assert first_stop(np.ones(200), threshold=0.3).above
    assert first_stop((generator(3).random(200) < 0.5).astype(float), threshold=0.5) is None


def test_looking_often_does_not_make_it_wrong():
    """A Wilson interval that is looked at after every image excludes the truth far more often."""
    random, wrong = generator(4), 0
    for _ in range(150):
        wrong += first_stop((random.random(150) < 0.3).astype(float), threshold=0.3) is not None
    assert wrong / 150 <= 0.05


def test_other_values_than_shares_are_refused():
    with pytest.raises(BadSetting, match=r"shares in \[0, 1\]"):
        confidence_sequence(np.array([0.2, 1.2]))
