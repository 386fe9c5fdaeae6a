"""Poisson counts beside SciPy's quantiles."""

import torch
from scipy.stats import poisson

from besiege.core.key import Key
from besiege.ops.poisson import poisson_counts


def test_counts_are_the_quantiles_of_scipy():
    key = Key.root(0, range(40))
    u = key.fold("u").uniform(500, dtype=torch.float64)
    for most in (0.5, 12.0, 500.0):
        rate = most * key.fold("rate").uniform(500, dtype=torch.float64)
        theirs = poisson.ppf(u.numpy(), rate.numpy())
        assert poisson_counts(rate, u).tolist() == theirs.tolist()


def test_the_ends():
    u = torch.tensor([0.0, 1 - 2.0**-53, 0.0, 1 - 2.0**-53], dtype=torch.float64)
    rate = torch.tensor([0.0, 0.0, 500.0, 500.0], dtype=torch.float64)
    low, none, far, most = poisson_counts(rate, u).tolist()
    assert (low, none, far) == (0, 0, 0)
    assert 650 < most < 800
    assert poisson_counts(u[:0], u[:0]).shape == (0,)


def test_an_element_does_not_depend_on_the_others():
    u = Key.root(1, range(9)).uniform(7, dtype=torch.float64)
    rate = 60 * Key.root(2, range(9)).uniform(7, dtype=torch.float64)
    whole = poisson_counts(rate, u)
    rows = [poisson_counts(rate[i : i + 1], u[i : i + 1]) for i in range(9)]
    assert torch.equal(whole, torch.cat(rows))
