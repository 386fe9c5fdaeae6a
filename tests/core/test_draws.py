"""Statistics of draws, with fixed seeds: each p-value is one number, and far from its limit."""

import itertools
import math

import pytest
import torch
from scipy import stats

from besiege.core.key import Key

N = 1 << 19
LIMIT = 1e-3
CONTINUOUS = {"uniform": stats.uniform, "normal": stats.norm, "laplace": stats.laplace}


def draw(method: str, key: Key, n: int) -> torch.Tensor:
    return getattr(key, method)(n)


@pytest.mark.parametrize("method", CONTINUOUS)
@pytest.mark.parametrize("rows", [1, 1 << 8, 1 << 17])
def test_distribution(method, rows):
    """Along one key's stream, across keys, and both: Kolmogorov-Smirnov."""
    x = draw(method, Key.root(1, range(rows)).fold("ks"), N // rows).flatten().double()
    assert stats.kstest(x.numpy(), CONTINUOUS[method].cdf).pvalue > LIMIT


MOMENTS = {  # of even order k; odd ones are 0
    "uniform": lambda k: 3 ** (k / 2) / (k + 1),
    "normal": lambda k: math.prod(range(1, k, 2)),
    "laplace": math.factorial,
}


@pytest.mark.parametrize("method", CONTINUOUS)
def test_moments(method):
    """The first four moments, within 4 standard errors."""
    x = draw(method, Key.root(2, range(64)), 1 << 15).flatten().double()
    if method == "uniform":
        x = (x - 0.5) * math.sqrt(12)
    for k in (1, 2, 3, 4):
        mean = 0 if k % 2 else MOMENTS[method](k)
        error = math.sqrt((MOMENTS[method](2 * k) - mean**2) / x.numel())
        assert abs(float((x**k).mean()) - mean) < 4 * error


@pytest.mark.parametrize("method", ["normal", "laplace"])
def test_tails(method):
    """As many far values on either side as there should be: 20 million draws."""
    law = CONTINUOUS[method]
    x = draw(method, Key.root(3, range(20)), 1_000_000)
    for tail in (1e-3, 1e-5, 1e-6):
        limit = law.isf(tail)
        for count in ((x > limit).sum(), (x < -limit).sum()):
            assert stats.binomtest(int(count), x.numel(), tail).pvalue > LIMIT
    largest = {"normal": math.sqrt(62 * math.log(2)), "laplace": 31 * math.log(2)}
    assert x.abs().max() <= largest[method] + 1e-5
    assert torch.isfinite(x).all()


def test_uniform_bounds_and_bits():
    """Below 1, from 0 on, and each of its 24 bits is fair."""
    x = Key.root(4, range(64)).uniform(1 << 16)
    assert x.min() >= 0
    assert x.max() < 1
    bits = (x.flatten().double() * 2**24).long()
    for j in range(24):
        ones = int((bits >> j & 1).sum())
        assert stats.binomtest(ones, bits.numel(), 0.5).pvalue > LIMIT


def test_uniform_in_float64_uses_its_low_bits():
    x = (Key.root(5, range(64)).uniform(1 << 12, dtype=torch.float64) * 2**53).long()
    counts = torch.bincount(x.flatten() & 255, minlength=256)
    assert stats.chisquare(counts.numpy()).pvalue > LIMIT


@pytest.mark.parametrize("high", [2, 3, 10, 1000])
def test_integers(high):
    counts = torch.bincount(Key.root(6, range(256)).integers(high, 2048).flatten(), minlength=high)
    assert len(counts) == high
    assert stats.chisquare(counts.numpy()).pvalue > LIMIT


def test_integers_of_the_largest_range():
    x = Key.root(7, range(64)).integers(1 << 31, 4096)
    assert x.min() >= 0
    assert 0.9999 * 2**31 < x.max() < 2**31
    assert (Key.root(7, [1]).integers(1, 99) == 0).all()


@pytest.mark.parametrize("p", [0.0, 1e-3, 0.15, 0.5, 1.0])
def test_bernoulli(p):
    x = Key.root(8, range(256)).bernoulli(p, 2048)
    assert stats.binomtest(int(x.sum()), x.numel(), p).pvalue > LIMIT


def test_permutations_are_equally_likely():
    """All 24 orders of four things, and every place of one thing among 16."""
    order = Key.root(9, range(48_000)).permutation(4)
    assert (order.sort(1).values == torch.arange(4)).all()
    weights = torch.tensor([64, 16, 4, 1])
    counts = torch.bincount((order * weights).sum(1))
    counts = counts[counts > 0]
    assert len(counts) == 24
    assert stats.chisquare(counts.numpy()).pvalue > LIMIT
    order = Key.root(9, range(16_000)).permutation(16)
    for place in (0, 7, 15):
        assert stats.chisquare(torch.bincount(order[:, place]).numpy()).pvalue > LIMIT


NEIGHBOURS = {
    "ids": lambda i: Key.root(0, [i]),
    "seeds": lambda i: Key.root(i, [0]),
    "integer folds": lambda i: Key.root(0, [0]).fold("a", i),
    "text folds": lambda i: Key.root(0, [0]).fold(f"draw{i}"),
    "depths": lambda i: Key.root(0, [0]).fold(*[0] * i),
    "spread": lambda i: Key.root(0, [0]).spread("draw", 200)[i : i + 1],
}


@pytest.mark.parametrize("kind", NEIGHBOURS)
def test_neighbours_are_uncorrelated(kind):
    """100 neighbouring streams: their correlations are as those of independent ones."""
    n = 4096
    x = torch.cat([NEIGHBOURS[kind](i).normal(n) for i in range(100)]).double()
    r = torch.corrcoef(x)
    for step in (1, 2, 7):
        z = r.diagonal(step) * math.sqrt(n)
        assert stats.kstest(z.numpy(), "norm").pvalue > LIMIT
        assert z.abs().max() < 4.5


def test_neighbours_in_a_stream_are_uncorrelated():
    """Words of one block, and of blocks next to each other, for each kind of draw."""
    for method in CONTINUOUS:
        x = draw(method, Key.root(10, [1]), 1 << 20)[0].double()
        for lag in (1, 2, 3, 4, 5, 8):
            r = torch.corrcoef(torch.stack([x[:-lag], x[lag:]]))[0, 1]
            assert abs(float(r)) * math.sqrt(len(x)) < 4


def test_both_outputs_of_a_pair_are_independent():
    """Box and Muller's two normals: their squares and signs too."""
    blocks = Key.root(11, [1]).normal(1 << 18, 4)[0].double()
    for a, b in itertools.combinations(range(4), 2):
        pair = blocks[:, [a, b]].T
        for view in (pair, pair**2, pair.sign()):
            assert abs(float(torch.corrcoef(view)[0, 1])) * math.sqrt(len(blocks)) < 4
    angle = torch.atan2(blocks[:, 2], blocks[:, 0]) / (2 * math.pi) + 0.5
    assert stats.kstest(angle.numpy(), "uniform").pvalue > LIMIT
    radius = (blocks[:, 0] ** 2 + blocks[:, 2] ** 2) / 2
    assert stats.kstest(radius.numpy(), "expon").pvalue > LIMIT


def test_pairs_fill_the_square():
    """Chi-square on a 32 x 32 grid of successive uniforms, and of two neighbouring ids."""
    x = Key.root(12, [0, 1]).uniform(1 << 18)
    cells = (x * 32).long()
    for a, b in ((cells[0, ::2], cells[0, 1::2]), (cells[0], cells[1])):
        counts = torch.bincount(a * 32 + b, minlength=1024)
        assert stats.chisquare(counts.numpy()).pvalue > LIMIT
