"""Brightness: known values, rounding, clipping and gradients."""

import pytest
import torch

from besiege.core.errors import BadSetting
from besiege.defenses.brightness import Brightness
from besiege.defenses.transform import Graft


def test_released_is_whole_levels_and_leaves_the_range() -> None:
    x = torch.tensor([0.4, 2.5, 3.5, 200.6, 255]).double() / 255
    got = Brightness(levels=10, rounded=True, clip=False).forward(x, None) * 255
    torch.testing.assert_close(got, torch.tensor([-10.0, -8, -6, 191, 245]).double())


def test_unrounded_and_clipped() -> None:
    x = torch.tensor([0.0, 0.1, 0.5, 1.0])
    got = Brightness(levels=51).forward(x, None)
    torch.testing.assert_close(got, torch.tensor([0.0, 0.0, 0.3, 0.8]))
    got = Brightness(levels=-51).forward(x, None)
    torch.testing.assert_close(got, torch.tensor([0.2, 0.3, 0.7, 1.0]))
    assert torch.equal(Brightness(levels=0).forward(x, None), x)


@pytest.mark.parametrize("rounded", [False, True])
def test_best_gradient_is_one_where_nothing_is_clipped(rounded: bool) -> None:
    x = torch.tensor([0.01, 0.5, 0.97], requires_grad=True)
    link = Brightness(levels=10, rounded=rounded)
    (slope,) = torch.autograd.grad(Graft(link).forward(x, None).sum(), x)
    assert slope.tolist() == [0, 1, 1]
    (slope,) = torch.autograd.grad(Graft(link, "identity").forward(x, None).sum(), x)
    assert slope.tolist() == [1, 1, 1]


def test_only_what_is_not_rounded_is_exact() -> None:
    assert "exact" in Brightness().surrogates
    assert "exact" not in Brightness(rounded=True).surrogates


@pytest.mark.parametrize("levels", [256, -300, float("nan")])
def test_bad_settings(levels: float) -> None:
    with pytest.raises(BadSetting, match=r"levels lie in \[-255, 255\]"):
        Brightness(levels=levels)
