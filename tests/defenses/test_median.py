"""Median smoothing against SciPy, and whose gradient it is."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import median_filter

from besiege.core.errors import BadSetting
from besiege.core.key import Key
from besiege.defenses.median import Median

SHAPES = [(3, 32, 32), (1, 13, 17), (1, 1, 1), (1, 2, 1), (2, 3, 40)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 9])
def test_as_scipy(size: int, shape: tuple[int, int, int]) -> None:
    x = Key.root(0, range(3)).uniform(*shape)
    got = Median(size=size).forward(x, None)
    want = median_filter(x.numpy(), size=(1, 1, size, size), mode="reflect")
    np.testing.assert_array_equal(got, want)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 6), st.integers(1, 9), st.integers(1, 9), st.integers(0, 999))
def test_as_scipy_with_ties(size: int, height: int, width: int, seed: int) -> None:
    x = Key.root(seed, [0]).integers(3, 1, height, width).float() / 2
    want = median_filter(x.numpy(), size=(1, 1, size, size), mode="reflect")
    np.testing.assert_array_equal(Median(size=size).forward(x, None), want)


def test_the_larger_of_the_two_in_the_middle() -> None:
    x = torch.tensor([[0.1, 0.2], [0.3, 0.4]]).reshape(1, 1, 2, 2)
    assert Median(size=2).forward(x, None)[0, 0, 1, 1] == x[0, 0, 1, 0]


def test_one_grain_is_gone() -> None:
    x = torch.full((1, 1, 9, 9), 0.5)
    x[0, 0, 4, 4] = 1
    assert (Median(size=3).forward(x, None) == 0.5).all()


@pytest.mark.parametrize("size", [2, 3])
def test_the_gradient_goes_to_what_was_selected(size: int) -> None:
    """All values differ, so the output names its source."""
    order = Key.root(4, range(2)).permutation(8 * 7).reshape(2, 1, 8, 7)
    x = (order.double() / 56).requires_grad_()
    link = Median(size=size)
    out = link.surrogates["exact"](x, None)
    (slope,) = torch.autograd.grad(out.sum(), x)
    assert slope.sum() == x.numel()
    for i in range(2):
        chosen = (out[i] * 56).round().long().flatten().bincount(minlength=56)
        assert torch.equal(slope[i].flatten(), chosen[order[i].flatten()].double())


@pytest.mark.parametrize("size", [0, 16, 2.5])
def test_bad_settings(size: int) -> None:
    with pytest.raises(BadSetting, match="whole number from 1 to 15"):
        Median(size=size)
