"""Random distortion: known maps, exact gradients, the choice of the corner."""

import math

import pytest
import torch
from torch import Tensor

from besiege.core.key import Key
from besiege.defenses.random_distortion import RandomDistortion, Stretches
from besiege.ops import grid

SIZES = [1, 2, 3, 7, 9, 28, 32, 48, 96, 299, 300]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("corner", ["random", "upper-left"])
def test_bilinear_without_stretch_is_the_identity(size: int, corner: str) -> None:
    key = Key.root(0, range(4))
    x = key.fold("image").uniform(3, size, max(1, size // 2))
    link = RandomDistortion(limit=0.0, corner=corner)
    assert torch.equal(link.forward(x, link.draw(key, tuple(x.shape[1:]))), x)


def test_nearest_without_stretch_is_not() -> None:
    """As released: 148 of 299 columns move, and 288 different ones survive."""
    ends = grid.cell_ends(torch.zeros(1, 11), 299, 29)
    columns = grid.both_ends(ends, 299, 29)[0]
    assert int((columns != torch.arange(299)).sum()) == 148
    assert len(columns.unique()) == 288


def test_a_ramp_shows_where_each_pixel_comes_from() -> None:
    """Four cells of 8 pixels, stretched by 1/2, 1, 3/2 and 1."""
    link = RandomDistortion(limit=0.5, cells=4, corner="upper-left")
    u = torch.tensor([[0.0, 0.5, 1.0, 0.5]])
    x = torch.arange(32.0).expand(1, 1, 32, 32)
    draw = Stretches(x=u, y=torch.full((1, 4), 0.5), far=torch.zeros(1, 2, dtype=torch.bool))
    got = link.forward(x, draw)[0, 0, 5]
    slopes = [0.5] * 8 + [1.0] * 8 + [1.5] * 8 + [1.0] * 8
    want = torch.tensor([0.0, *slopes[:-1]]).cumsum(0).clamp(max=31)
    torch.testing.assert_close(got, want)


def test_a_far_corner_is_the_mirror_image() -> None:
    key = Key.root(5, range(3))
    x = key.fold("image").uniform(3, 45, 31)
    for sampling in ("bilinear", "nearest"):
        link = RandomDistortion(limit=0.3, sampling=sampling)
        near = link.draw(key, (3, 45, 31))._replace(far=torch.zeros(3, 2, dtype=torch.bool))
        far = near._replace(far=torch.tensor([[True, False]]).expand(3, 2))
        want = link.forward(x.flip(2), near).flip(2)
        torch.testing.assert_close(link.forward(x, far), want, atol=1e-6, rtol=0)


def test_all_four_corners_are_drawn_evenly() -> None:
    far = RandomDistortion().draw(Key.root(0, range(4000)), (3, 32, 32)).far
    share = (far[:, 0] * 2 + far[:, 1]).long().bincount(minlength=4) / 4000
    assert (share - 0.25).abs().max() < 4 * math.sqrt(0.25 * 0.75 / 4000)
    fixed = RandomDistortion(corner="upper-left").draw(Key.root(0, range(9)), (3, 32, 32))
    assert not fixed.far.any()


def test_displacement_at_299_is_that_of_the_ledger() -> None:
    """Mean |displacement| 4.1 px at limit 0.15 and 6.8 px at 0.25, over released draws."""
    for limit, want in ((0.15, 4.1), (0.25, 6.8)):
        u = limit * (2 * Key.root(0, range(3000)).uniform(11) - 1)
        columns = grid.both_ends(grid.cell_ends(u, 299, 29), 299, 29)
        off = (columns - torch.arange(299)).abs().double().mean()
        assert abs(off - want) < 0.2


@pytest.mark.parametrize("sampling", ["bilinear", "nearest"])
@pytest.mark.parametrize("shape", [(1, 1, 2), (3, 13, 29), (1, 32, 20)], ids=str)
def test_the_backward_pass_is_the_adjoint(sampling: str, shape: tuple[int, int, int]) -> None:
    key = Key.root(2, range(3))
    x, y = (key.fold(part).uniform(*shape, dtype=torch.float64) for part in ("x", "y"))
    link = RandomDistortion(limit=0.25, sampling=sampling)
    leaf = x.requires_grad_()
    out = link.surrogates["exact"](leaf, link.draw(key, shape))
    (back,) = torch.autograd.grad(out, leaf, y)
    torch.testing.assert_close(rows(out * y), rows(leaf * back))


def rows(x: Tensor) -> Tensor:
    return x.flatten(1).sum(1)


@pytest.mark.parametrize("sampling", ["bilinear", "nearest"])
def test_a_constant_image_stays(sampling: str) -> None:
    key = Key.root(7, range(3))
    link = RandomDistortion(limit=0.9, sampling=sampling)
    x = torch.full((3, 3, 47, 52), 0.3)
    y = link.forward(x, link.draw(key, (3, 47, 52)))
    torch.testing.assert_close(y, x)


def test_read_between_four_pixels() -> None:
    x = torch.tensor([[[[0.0, 1.0], [2.0, 3.0]]]])
    at = torch.tensor([[0.25, 1.0]])
    got = grid.bilinear(x, at, torch.tensor([[0.5, 0.0]]))
    torch.testing.assert_close(got, torch.tensor([[[[1.0, 0.5], [2.5, 2.0]]]]))
