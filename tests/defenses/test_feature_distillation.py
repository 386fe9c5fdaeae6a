"""Feature distillation and its cosine transform against SciPy and against themselves."""

import numpy as np
import pytest
import scipy.fft
import torch
from torch import Tensor

from besiege.core.key import Key
from besiege.defenses.feature_distillation import FeatureDistillation
from besiege.defenses.transform import surrogate_of
from besiege.ops.border import reflect
from besiege.ops.dct import PIECE, SIDE, dct, idct, requantised
from besiege.ops.rounding import soft_round


def images(count: int, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return Key.root(3, range(count)).uniform(*shape, dtype=dtype)


def test_the_block_transform_is_scipys() -> None:
    x = images(2, 3, 40, 24)
    blocks = x.reshape(2, 3, 5, SIDE, 3, SIDE).permute(3, 5, 0, 1, 2, 4)
    want = scipy.fft.dctn(blocks.numpy(), axes=(0, 1), norm="ortho")
    torch.testing.assert_close(dct(x), torch.from_numpy(want), atol=1e-14, rtol=0)


def test_the_block_transform_goes_there_and_back() -> None:
    x = images(2, 3, 40, 24)
    torch.testing.assert_close(idct(dct(x)), x, atol=1e-14, rtol=0)


def test_the_block_transform_has_its_gradients() -> None:
    x = images(1, 2, 8, 16).requires_grad_()
    assert torch.autograd.gradcheck(dct, x)
    assert torch.autograd.gradcheck(idct, dct(x).detach().requires_grad_())
    assert torch.autograd.gradgradcheck(lambda z: idct(dct(z) ** 2), x)


@pytest.mark.parametrize(("low", "high", "side"), [(25, 30, 4), (10, 90, 1), (40, 7, 6)])
def test_the_steps_of_each_frequency_by_scipy(low: int, high: int, side: int) -> None:
    x = images(1, 1, 16, 24)
    table = np.full((SIDE, SIDE), high)
    table[:side, :side] = low
    blocks = x.numpy().reshape(2, SIDE, 3, SIDE).transpose(0, 2, 1, 3) * 255
    steps = np.round(scipy.fft.dctn(blocks, axes=(2, 3), norm="ortho") / table) * table
    back = scipy.fft.idctn(steps, axes=(2, 3), norm="ortho").transpose(0, 2, 1, 3) / 255
    got = FeatureDistillation(low=low, high=high, low_size=side).forward(x, None)
    np.testing.assert_allclose(got[0, 0], back.reshape(16, 24).clip(0, 1), rtol=0, atol=1e-12)


def test_ties_of_whole_grey_levels_go_to_even() -> None:
    """A block's sum of 200 k + 100 is the mean's coefficient k + 1/2 in steps of 25."""
    table = torch.full((8, 8), 25.0)
    for dtype in (torch.float32, torch.float64):
        sums = torch.tensor([100, 300, 500, 700], dtype=dtype)
        x = (sums / 4).reshape(4, 1, 1, 1).repeat(1, 1, 8, 8)
        x[:, :, :, 1:] = 0
        x[:, :, 4:] = 0
        means = requantised(x, table, torch.round).mean((1, 2, 3)) * 64 / 200
        torch.testing.assert_close(means, torch.tensor([0, 2, 2, 4], dtype=dtype))


@pytest.mark.parametrize("count", [1, 3, 8])
def test_pieces_make_no_difference(count: int) -> None:
    x = images(8, 3, 184, 184, dtype=torch.float32) * 255
    assert x.numel() > SIDE * SIDE * PIECE
    table = torch.full((8, 8), 7.0)
    together = requantised(x, table, torch.round)
    assert torch.equal(requantised(x[:count], table, torch.round), together[:count])


def test_released_moves_the_content_and_aligned_does_not() -> None:
    """Measured by correlation with the image itself, not by reading the code's own formula."""
    key = Key.root(0, [0])
    coarse = key.uniform(3, 30, 30)
    x = torch.nn.functional.interpolate(coarse, (299, 299), mode="bicubic").clamp(0, 1)
    for link, want in (
        (FeatureDistillation(form="released"), (2, 2)),
        (FeatureDistillation(), (0, 0)),
    ):
        y = link.forward(x, None)
        inner = y[..., 10:-10, 10:-10]
        off = {
            (i, j): float((x[..., 10 - i : 289 - i, 10 - j : 289 - j] - inner).square().mean())
            for i in range(-4, 5)
            for j in range(-4, 5)
        }
        assert min(off, key=off.__getitem__) == want == link.displacement(299, 299)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 8, 9, 16, 31])
def test_only_sides_that_8_does_not_divide_move(size: int) -> None:
    down, right = FeatureDistillation(form="released").displacement(size, 32)
    assert (down, right) == ((-size % 8) // 2, 0)


@pytest.mark.parametrize("shape", [(3, 1, 1), (1, 2, 3), (3, 5, 9), (1, 33, 16)], ids=str)
@pytest.mark.parametrize("form", ["aligned", "released"])
def test_straight_through_is_the_adjoint_of_moving(shape: tuple[int, ...], form: str) -> None:
    """<A x, y> = <x, A' y>, and A is what fine steps leave of the transform."""
    x, y = images(2, *shape)
    link = FeatureDistillation(form=form, low=1e-6, high=1e-6)
    leaf = x[None].requires_grad_()
    out = surrogate_of(link, "straight-through")(leaf, None)
    torch.testing.assert_close(out, link.forward(leaf, None), atol=1e-6, rtol=0)
    (back,) = torch.autograd.grad(out, leaf, y[None])
    torch.testing.assert_close((out * y).sum(), (leaf * back).sum())


@pytest.mark.parametrize("form", ["aligned", "released"])
def test_soft_follows_the_rounding_and_its_gradient_is_right(form: str) -> None:
    link = FeatureDistillation(form=form)
    x = images(1, 1, 9, 10).requires_grad_()
    soft = surrogate_of(link, "soft")
    assert torch.autograd.gradcheck(lambda z: soft(z, None), x)
    straight = surrogate_of(link, "straight-through")
    off, loose = (
        (stand_in(x, None) - link.forward(x, None)).abs().mean() for stand_in in (soft, straight)
    )
    assert off < 0.8 * loose


def test_soft_is_alive_on_flat_images() -> None:
    """Their coefficients sit on whole steps, where k + (y - k)^3 has slope 0."""
    x = torch.zeros(1, 1, 16, 16, requires_grad=True)
    out = surrogate_of(FeatureDistillation(), "soft")(x, None)
    (grad,) = torch.autograd.grad(out[0, 0, 3, 4], x)
    torch.testing.assert_close(grad[0, 0, 3, 4], torch.tensor(0.2))


def test_soft_rounding_is_a_staircase_without_jumps() -> None:
    y = torch.tensor([2.0, 2.25, 2.4999, -0.5001], dtype=torch.float64, requires_grad=True)
    value = soft_round(y)
    (slope,) = torch.autograd.grad(value.sum(), y)
    torch.testing.assert_close(slope, slope.new_tensor([0.2, 0.8, 2.6, 2.6]), atol=2e-3, rtol=0)
    torch.testing.assert_close(value, value.new_tensor([2, 2.1, 2.5, -0.5]), atol=1e-3, rtol=0)
    fine = torch.linspace(-2, 2, 4001, dtype=torch.float64)
    assert soft_round(fine).diff().max() < 0.003
    assert (soft_round(fine) - fine).abs().max() < 0.2


def test_aligned_twice_changes_little_more() -> None:
    """Nearly idempotent: only the clip stands between, so mid-grey images are fixed points."""
    link = FeatureDistillation()
    once = link.forward(0.4 + 0.2 * images(2, 3, 24, 24), None)
    torch.testing.assert_close(link.forward(once, None), once, atol=1e-12, rtol=0)


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_reflection_at_any_size_is_numpys(size: int) -> None:
    numpy = pytest.importorskip("numpy")
    x = images(1, 1, size, size + 1)
    want = numpy.pad(x.numpy(), ((0, 0), (0, 0), (3, 4), (2, 7)), "reflect")
    assert torch.equal(reflect(x, (3, 2), (4, 7)), torch.from_numpy(want))
