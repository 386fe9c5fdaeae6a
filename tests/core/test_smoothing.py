"""Radii against closed forms, bounds against SciPy's, numbers of samples by search."""

import numpy as np
import pytest
from scipy.stats import binom, binomtest, laplace, norm, uniform

from besiege.core.errors import BadSetting, UnknownName
from besiege.core.smoothing import (
    Channel,
    certified_curve,
    lower_bound,
    quorum_for,
    samples_for,
    sure_share,
)

WIDTH = 0.3
NOISES = {
    "gaussian": norm(scale=WIDTH),
    "uniform": uniform(-WIDTH, 2 * WIDTH),
    "laplace": laplace(scale=WIDTH),
}


@pytest.mark.parametrize("floor", [0.5, 0.8])
@pytest.mark.parametrize("kind", NOISES)
def test_a_threshold_on_one_pixel_is_certified_to_its_border(kind, floor):
    """f says 1 above 0: at distance m its chance is F(m), and it falls to `floor` exactly at m'."""
    noise = NOISES[kind]
    away = np.array([0.13, 0.2, 0.29])
    radius = Channel(kind, WIDTH).radius(noise.cdf(away), floor)
    border = np.maximum(away - noise.ppf(floor), 0)
    assert radius == pytest.approx(border, abs=1e-9)


@pytest.mark.parametrize("kind", NOISES)
def test_share_is_the_inverse_of_radius(kind):
    channel = Channel(kind, WIDTH)
    for r in (0.0, 0.05, 0.29):
        assert channel.radius(np.array([channel.share(r)]))[0] == pytest.approx(r, abs=1e-9)


def test_no_certificate_without_a_majority():
    for kind in NOISES:
        assert Channel(kind, 1.0).radius(np.array([0.0, 0.3, 0.5])).tolist() == [0, 0, 0]


def test_norms():
    assert [Channel(kind, 1.0).norm for kind in NOISES] == ["l2", "l1", "l1"]
    with pytest.raises(UnknownName, match="gaussian"):
        Channel("gausian", 1.0).radius(np.ones(1))


@pytest.mark.parametrize("k", [0, 1, 37, 99, 100])
def test_the_bound_is_clopper_and_pearsons(k):
    theirs = binomtest(k, 100, alternative="greater").proportion_ci(0.999, method="exact").low
    assert lower_bound(np.array([k]), 100, 0.001)[0] == pytest.approx(theirs, abs=1e-12)


@pytest.mark.parametrize("kind", NOISES)
@pytest.mark.parametrize("radius", [0.0, 0.1, 0.29])
@pytest.mark.parametrize("alpha", [0.1, 0.001])
def test_the_least_number_of_samples(kind, radius, alpha):
    channel = Channel(kind, WIDTH)
    n = samples_for(channel, radius, alpha)

    def most(n):
        return channel.radius(lower_bound(np.array([n]), n, alpha))[0]

    assert most(n) > radius
    assert n == 1 or most(n - 1) <= radius + 1e-12


def test_bounded_noise_certifies_no_more_than_its_width():
    with pytest.raises(BadSetting, match=r"l1 radius of 0.3, with any .* below 0.3"):
        samples_for(Channel("uniform", 0.3), 0.3, 0.001)


@pytest.mark.parametrize("draws", [10, 16, 100, 1001])
def test_a_quorum_is_not_reached_by_chance(draws):
    count = quorum_for(draws, 0.001)
    assert binom.sf(count - 1, draws, 0.5) <= 0.001 < binom.sf(count - 2, draws, 0.5)
    p = sure_share(draws, count, 0.001)
    assert binom.sf(count - 1, draws, p) == pytest.approx(0.999)


def test_a_vote_of_few_draws_has_no_quorum():
    with pytest.raises(BadSetting, match="at least 10 draws"):
        quorum_for(9, 0.001)


def test_abstentions_are_counted_both_ways():
    right = np.array([True, True, False, False])
    answered = np.array([True, True, True, False])
    curve = certified_curve(right, answered, np.array([0.2, 0.5, 0.9, 0.0]), [0.0, 0.3, 0.6])
    assert [p.of_all.estimate for p in curve] == [0.5, 0.25, 0.0]
    assert [p.of_answered.estimate for p in curve] == pytest.approx([2 / 3, 1 / 3, 0])
    none = certified_curve(right & False, answered & False, np.zeros(4), [0.0])
    assert none[0].of_answered is None
