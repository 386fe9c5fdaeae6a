"""Contrast: known values and slope."""

import pytest
import torch

from besiege.core.errors import BadSetting
from besiege.defenses.contrast import Contrast


@pytest.mark.parametrize("share", [0, 0.25, 0.9])
def test_known_values(share: float) -> None:
    x = torch.tensor([0.0, 0.3, 0.5, 1.0], dtype=torch.float64, requires_grad=True)
    y = Contrast(share=share).forward(x, None)
    torch.testing.assert_close(y - 0.5, (1 - share) * (x - 0.5))
    (slope,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(slope, torch.full_like(x, 1 - share))


@pytest.mark.parametrize("share", [1, -0.1, float("nan")])
def test_bad_settings(share: float) -> None:
    with pytest.raises(BadSetting, match=r"share lies in \[0, 1\)"):
        Contrast(share=share)
