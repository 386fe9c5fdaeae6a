"""Salt and pepper: how much, of which kind, and over which channels."""

import math

import pytest
import torch

from besiege.core.errors import BadSetting, UnknownName
from besiege.core.key import Key
from besiege.defenses.salt_pepper import Grains, SaltPepper

GREY = torch.full((4, 3, 64, 64), 0.5)


def grained(link: SaltPepper) -> torch.Tensor:
    return link.forward(GREY, link.draw(Key.root(0, range(4)), (3, 64, 64)))


@pytest.mark.parametrize("of", ["pixels", "values"])
@pytest.mark.parametrize(("share", "salt"), [(0.1, 0.5), (0.5, 0.2), (0.3, 0), (0.3, 1)])
def test_shares(of: str, share: float, salt: float) -> None:
    y = grained(SaltPepper(share=share, salt=salt, of=of))
    assert set(y.unique().tolist()) <= {0, 0.5, 1}
    n = 4 * 64 * 64
    for value, want in ((1, share * salt), (0, share * (1 - salt))):
        got = float((y == value).double().mean())
        assert abs(got - want) <= 5 * math.sqrt(want * (1 - want) / n)


def test_channels_share_a_pixel_or_not() -> None:
    y = grained(SaltPepper(share=0.3))
    assert (y == y[:, :1]).all()
    y = grained(SaltPepper(share=0.3, of="values"))
    alike = float((y[:, 0] == y[:, 1]).double().mean())
    assert abs(alike - (0.7**2 + 2 * 0.15**2)) < 0.02


def test_known_grains_and_their_gradient() -> None:
    x = torch.tensor([0.2, 0.3, 0.4, 0.5]).reshape(1, 1, 1, 4).requires_grad_()
    hit = torch.tensor([True, True, False, False]).reshape(1, 1, 1, 4)
    white = torch.tensor([True, False, True, False]).reshape(1, 1, 1, 4)
    y = SaltPepper().forward(x, Grains(hit, white))
    torch.testing.assert_close(y.flatten(), torch.tensor([1.0, 0.0, 0.4, 0.5]))
    (slope,) = torch.autograd.grad(y.sum(), x)
    assert slope.flatten().tolist() == [0, 0, 1, 1]


def test_none_at_share_zero() -> None:
    assert torch.equal(grained(SaltPepper(share=0)), GREY)


def test_bad_settings() -> None:
    with pytest.raises(BadSetting, match=r"share is a probability in \[0, 1\), got 1"):
        SaltPepper(share=1)
    with pytest.raises(BadSetting, match=r"salt is a probability in \[0, 1\], got 2"):
        SaltPepper(salt=2)
    with pytest.raises(UnknownName, match='Did you mean "pixels"'):
        SaltPepper(of="pixel")
