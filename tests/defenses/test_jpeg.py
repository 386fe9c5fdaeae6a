"""JPEG: the codec itself, and the tensor version against it."""

from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from besiege.core.errors import BadImages, BadSetting, UnknownName
from besiege.core.key import Key
from besiege.defenses.jpeg import Jpeg
from besiege.defenses.transform import surrogate_of
from besiege.ops.jpeg import SUBSAMPLINGS, averaged, chroma_smoothed, enlarged, recoded, tables


def smooth(count: int, channels: int, size: int) -> Tensor:
    coarse = Key.root(4, range(count)).uniform(channels, 5, 5)
    x = torch.nn.functional.interpolate(coarse, (size, size), mode="bicubic").clamp(0, 1)
    return (x * 255).round() / 255


@pytest.mark.parametrize("quality", [1, 10, 50, 75, 90, 100])
def test_tables_are_the_codecs(quality: int) -> None:
    file = BytesIO()
    picture = Image.fromarray(np.zeros((16, 16, 3), np.uint8))
    picture.save(file, "JPEG", quality=quality)
    written = Image.open(file).quantization
    for i, table in enumerate(tables(quality)):
        assert sorted(written[i]) == sorted(table.flatten().int().tolist())


@pytest.mark.parametrize("subsampling", SUBSAMPLINGS)
@pytest.mark.parametrize("size", [16, 40, 47, 50])
def test_tensors_agree_with_the_codec(subsampling: str, size: int) -> None:
    """At quality 100 only the codec's integers differ; a wrong upsampling would be off by 3."""
    x = smooth(2, 3, size)
    codec = Jpeg(quality=100, subsampling=subsampling).forward(x, None) * 255
    tensors = recoded(x * 255, 100, SUBSAMPLINGS[subsampling], torch.round)
    off = (codec - tensors.round().clamp(0, 255)).abs()
    assert off.mean() < 0.8
    assert off.max() <= 5


def test_greyscale_is_luma_alone() -> None:
    x = smooth(2, 1, 21)
    codec = Jpeg(quality=60).forward(x, None) * 255
    tensors = recoded(x * 255, 60, (2, 2), torch.round)
    assert (codec - tensors.clamp(0, 255)).abs().mean() < 0.6
    assert torch.equal(chroma_smoothed(x, (2, 2)), x)


def test_truncation_is_half_a_level_darker() -> None:
    x = Key.root(0, [0]).uniform(1, 64, 64) * 0.5 + 0.25
    rounded, cut = (Jpeg(quality=100, rounding=r).forward(x, None) for r in ("round", "truncate"))
    assert abs(float((rounded - cut).mean()) * 255 - 0.5) < 0.05


def test_whole_levels_are_not_truncated() -> None:
    levels = torch.arange(256).reshape(1, 1, 16, 16)
    for dtype in (torch.float32, torch.float64):
        x = levels.to(dtype) / 255
        one, two = (Jpeg(rounding=r).forward(x, None) for r in ("round", "truncate"))
        assert torch.equal(one, two)


def test_straight_through_is_what_fine_steps_leave() -> None:
    x = smooth(1, 3, 19).double()
    fine = recoded(x * 255, 75, (2, 2), lambda y: y) / 255
    torch.testing.assert_close(surrogate_of(Jpeg(), "straight-through")(x, None), fine)


def test_straight_through_keeps_luma_and_spreads_chroma() -> None:
    weights = torch.tensor([0.299, 0.587, 0.114]).reshape(3, 1, 1)
    x = Key.root(1, [0]).uniform(3, 12, 12)
    y = chroma_smoothed(x, (2, 2))
    torch.testing.assert_close((x * weights).sum(1), (y * weights).sum(1))
    assert (x - y).abs().mean() > 0.05


@pytest.mark.parametrize("subsampling", SUBSAMPLINGS)
def test_the_soft_gradient_is_right(subsampling: str) -> None:
    soft = surrogate_of(Jpeg(quality=40, subsampling=subsampling), "soft")
    x = Key.root(2, [0]).uniform(3, 3, 5, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda z: soft(z, None), x)


def test_enlarging_is_the_triangle_of_torch() -> None:
    x = Key.root(0, [0]).uniform(2, 5, 7)
    want = torch.nn.functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
    torch.testing.assert_close(enlarged(x, (2, 2)), want)
    want = torch.nn.functional.avg_pool2d(x[..., :4, :6], 2)
    torch.testing.assert_close(averaged(x[..., :4, :6], (2, 2)), want)


@pytest.mark.parametrize("channels", [2, 4])
def test_other_channels_are_refused(channels: int) -> None:
    with pytest.raises(BadImages, match="greyscale or RGB"):
        Jpeg().forward(torch.zeros(1, channels, 8, 8), None)


def test_a_random_quality_of_each_image() -> None:
    x = smooth(6, 3, 24)
    link = Jpeg(quality=10, highest=80)
    draw = link.draw(Key.root(0, range(6)), (3, 24, 24))
    assert len(draw.unique()) > 3
    got, soft = link.forward(x, draw), surrogate_of(link, "soft")(x.double(), draw)
    for i, quality in enumerate(draw.tolist()):
        own = Jpeg(quality=quality)
        assert torch.equal(got[i : i + 1], own.forward(x[i : i + 1], None))
        want = surrogate_of(own, "soft")(x[i : i + 1].double(), None)
        torch.testing.assert_close(soft[i : i + 1], want)


def test_random_qualities_are_even_and_reach_both_ends() -> None:
    draw = Jpeg(quality=90, highest=94).draw(Key.root(0, range(9000)), (3, 8, 8))
    shares = draw.bincount(minlength=95)[90:] / 9000
    assert len(shares) == 5
    assert (shares - 1 / 5).abs().max() < 4 * (0.16 / 9000) ** 0.5
    assert Jpeg().draw(Key.root(0, [0]), (3, 8, 8)) is None


def test_swapped_channels() -> None:
    x = smooth(2, 3, 24)
    swapped = Jpeg(quality=30, order="bgr").forward(x, None)
    assert torch.equal(swapped, Jpeg(quality=30).forward(x.flip(1), None).flip(1))
    assert not torch.equal(swapped, Jpeg(quality=30).forward(x, None))


def test_bad_random_quality() -> None:
    with pytest.raises(BadSetting, match="highest is at least quality = 75, got 60"):
        Jpeg(highest=60)
    with pytest.raises(BadSetting, match="1 to 100, got 101"):
        Jpeg(highest=101)
    with pytest.raises(UnknownName, match='Unknown order in transform jpeg: "rbg"'):
        Jpeg(order="rbg")
