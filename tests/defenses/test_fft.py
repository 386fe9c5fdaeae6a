"""Frequency compression against recorded outputs, NumPy and its own symmetries."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from besiege.core.errors import BadImages, BadSetting, UnknownName
from besiege.core.key import Key
from besiege.defenses.catalog import parse_chain
from besiege.defenses.fft import FrequencyCompression
from besiege.ops.fourier import MASKS, disc, filtered, quarters

FORMS = tuple(MASKS)


def images(count: int, *shape: int) -> Tensor:
    return Key.root(5, range(count)).uniform(*shape, dtype=torch.float64)


@pytest.fixture(scope="module")
def golden(shared: Path) -> dict[str, Any]:
    folder = shared / "golden" / "p1p3p4"
    with np.load(folder / "channels.npz") as file, np.load(folder / "inputs.npz") as inputs:
        arrays = {key: file[key] for key in file.files}
        x32 = torch.from_numpy(inputs["imgs32"][:2] / 255).permute(0, 3, 1, 2)
        x96 = torch.from_numpy(inputs["photo96"] / 255).permute(2, 0, 1)[None]
    figures = json.loads((folder / "channels.json").read_text())
    return {"arrays": arrays, "x32": x32, "x96": x96, "figures": figures}


@pytest.mark.shared
def test_released_masks(golden: dict[str, Any]) -> None:
    masks = {k: v for k, v in golden["arrays"].items() if k.startswith("fc32_mask")}
    assert len(masks) == 12
    for name, bits in masks.items():
        percent = int(name.removeprefix("fc32_mask_"))
        want = np.unpackbits(bits)[: 32 * 17].reshape(32, 17)
        np.testing.assert_array_equal(quarters(32, 32, percent), want.astype(bool), err_msg=name)


@pytest.mark.shared
@pytest.mark.parametrize("percent", [10, 30, 50, 75, 90])
def test_released_outputs(golden: dict[str, Any], percent: int) -> None:
    link = FrequencyCompression(percent=percent, form="released", clip=False)
    want = golden["arrays"][f"fc32_out_{percent}"]
    np.testing.assert_allclose(link.forward(golden["x32"], None), want, atol=1e-6)


@pytest.mark.shared
@pytest.mark.parametrize("pad", ["nopad", "pow2"])
@pytest.mark.parametrize("percent", [30, 50, 70])
def test_released_padding(golden: dict[str, Any], percent: int, pad: str) -> None:
    """Padding by black, then by ImageNet's mean grey, of which the distance is recorded."""
    link = FrequencyCompression(percent=percent, form="released", pad=pad == "pow2", clip=False)
    black = link.forward(golden["x96"], None)[0, 0]
    np.testing.assert_allclose(black, golden["arrays"][f"fc96_{pad}_{percent}"], atol=1e-6)
    grey = FrequencyCompression(**{**vars(link), "space": "imagenet"}).forward(golden["x96"], None)
    want = golden["figures"][f"fc96_{pad}_{percent}"]["max_abs_diff_norm_vs_raw"]
    assert float((grey[0, 0] - black).abs().max()) == pytest.approx(want, abs=1e-9)


@pytest.mark.shared
@pytest.mark.parametrize("pad", ["nopad", "pow2"])
@pytest.mark.parametrize("percent", [30, 50, 70])
def test_released_distances_with_padding(golden: dict[str, Any], percent: int, pad: str) -> None:
    figures, x = golden["figures"][f"fc96_{pad}_{percent}"], golden["x96"]
    for space, key in (("pixels", "l2"), ("imagenet", "l2_normalised_then_back")):
        link = FrequencyCompression(percent, "released", space=space, pad=pad == "pow2", clip=False)
        assert float((link.forward(x, None) - x).norm()) == pytest.approx(figures[key], rel=1e-9)
    mask = quarters(2 * figures["mask_shape"][1] - 2, figures["mask_shape"][0], percent)
    assert list(mask.shape) == figures["mask_shape"]
    assert int(mask.sum()) == figures["kept_half"]


@pytest.mark.shared
@pytest.mark.parametrize("percent", [1, 5, 10, 20, 30, 50, 60, 70, 75, 80, 90, 95])
def test_released_figures(golden: dict[str, Any], percent: int) -> None:
    """Also of the percentages of which no output is recorded."""
    figures, x = golden["figures"][f"fc32_{percent}"], golden["x32"]
    y = FrequencyCompression(percent, "released", clip=False).forward(x, None)
    np.testing.assert_allclose((y - x).flatten(1).norm(dim=1), figures["l2"], rtol=1e-9)
    extremes = [figures["min"], figures["max"]]
    np.testing.assert_allclose([y.min(), y.max()], extremes, rtol=0, atol=1e-9)
    mask = quarters(32, 32, percent)
    assert int(mask.sum()) == figures["kept_half"]
    assert 100 * (1 - mask.double().mean()) == pytest.approx(figures["removed_half_percent"])
    ends = mask[1:, [0, 16]]  # the columns that hold both a frequency and its negative
    assert int((ends != ends.flip(0)).sum()) == figures["nonhermitian_entries"]


@pytest.mark.shared
@pytest.mark.parametrize("percent", [30, 50])
def test_released_square(golden: dict[str, Any], percent: int) -> None:
    y = FrequencyCompression(percent=percent, form="squared", clip=False)
    moved = (y.forward(golden["x32"], None) - golden["x32"]).flatten(1).norm(dim=1)
    want = golden["figures"][f"fc32_lshape_{percent}"]["l2"]
    np.testing.assert_allclose(moved, want, rtol=1e-9)
    rows = MASKS["squared"](32, 32, percent)[:17, 0]
    assert int(rows.sum()) == golden["figures"][f"fc32_lshape_{percent}"]["n"] + 1  # and 0


@pytest.mark.shared
def test_what_the_released_percentages_remove(golden: dict[str, Any]) -> None:
    for percent in (1, 5, 10, 20, 30, 50, 60, 70, 75, 80, 90, 95):
        twice = np.where((np.arange(17) > 0) & (np.arange(17) < 16), 2, 1)
        lost = 100 * (1 - (quarters(32, 32, percent).numpy() * twice).sum() / 32**2)
        want = golden["figures"][f"fc32_{percent}"]["removed_full_percent"]
        assert lost == pytest.approx(want)
    assert torch.equal(quarters(32, 32, 1), quarters(32, 32, 5))


def by_numpy(x: NDArray[Any], percent: float) -> NDArray[Any]:
    """The paper's filter over the whole complex spectrum, a ring at a time."""
    height, width = x.shape[-2:]
    fy, fx = np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)
    radius = np.round(np.hypot(fy, fx), 12)
    rings = np.unique(radius)[::-1]
    mask = np.ones((height, width))
    for ring in rings[:-1]:
        without = np.where(radius == ring, 0, mask)
        if (without == 0).mean() * 100 > percent + 1e-9:
            break
        mask = without
    y = np.fft.ifft2(np.fft.fft2(x) * mask)
    assert np.abs(y.imag).max() < 1e-12
    return y.real


@pytest.mark.parametrize("shape", [(32, 32), (13, 17), (9, 40), (8, 6), (1, 5)], ids=str)
@pytest.mark.parametrize("percent", [0, 1, 20, 75, 99])
def test_hermitian_is_the_papers_filter(shape: tuple[int, int], percent: float) -> None:
    x = images(2, 3, *shape)
    link = FrequencyCompression(percent=percent, clip=False)
    np.testing.assert_allclose(link.forward(x, None), by_numpy(x.numpy(), percent), atol=1e-12)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 24), st.integers(1, 24), st.floats(0, 99.9))
def test_a_disc_removes_at_most_its_share_and_keeps_the_mean(
    height: int, width: int, percent: float
) -> None:
    mask = disc(height, width, percent)
    column = torch.arange(width // 2 + 1)
    twice = torch.where((column > 0) & (2 * column < width), 2, 1)
    assert bool(mask[0, 0])
    assert height * width - int((mask * twice).sum()) <= percent / 100 * height * width + 1e-9
    even = mask[(-torch.arange(height)) % height]
    assert torch.equal(mask, even)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("pad", [False, True])
def test_every_form_is_self_adjoint(form: str, pad: bool) -> None:
    """<F x, y> = <x, F y>: also the released mask, which is not even."""
    x, y = images(2, 3, 12, 12).split(1)
    link = FrequencyCompression(percent=30, form=form, pad=pad, clip=False)
    torch.testing.assert_close((link.forward(x, None) * y).sum(), (x * link.forward(y, None)).sum())


def test_the_released_mask_halves_what_is_not_even() -> None:
    """Row frequency 13 at 50 % is kept as -13 and lost as +13; a pure wave shows it."""
    rows = torch.arange(32, dtype=torch.float64)[:, None]
    wave = (2 * math.pi * 13 * rows / 32).cos().expand(1, 1, 32, 32)
    mask = quarters(32, 32, 50)
    assert bool(mask[32 - 13, 0])
    assert not bool(mask[13, 0])
    torch.testing.assert_close(filtered(wave, mask), wave / 2)
    whole = filtered(wave, disc(32, 32, 10))
    torch.testing.assert_close(whole, wave)


def test_a_low_and_a_high_pass_make_the_image() -> None:
    x = images(2, 3, 10, 15)
    low, high = (
        FrequencyCompression(percent=40, highpass=h, clip=False).forward(x, None)
        for h in (False, True)
    )
    torch.testing.assert_close(low + high, x)
    torch.testing.assert_close(high.mean((2, 3)), torch.zeros(2, 3, dtype=torch.float64))
    grey = FrequencyCompression(percent=40, highpass=True, clip=False, space="cifar10")
    torch.testing.assert_close(
        grey.forward(x, None).mean((0, 2, 3)), x.new_tensor([0.4914, 0.4822, 0.4465])
    )


def test_colour_depth_and_frequencies_do_not_commute() -> None:
    """CD + FC smooths what was rounded; FC + CD ends on the 16 levels."""
    x = images(2, 3, 32, 32)
    cd_fc, fc_cd = (
        parse_chain(text).forward(x, None)
        for text in ("bits:bits=4 + fft:percent=20", "fft:percent=20 + bits:bits=4")
    )
    levels = fc_cd * 15
    torch.testing.assert_close(levels, levels.round())
    assert ((cd_fc * 15 - (cd_fc * 15).round()).abs() > 0.01).double().mean() > 0.9
    assert (cd_fc - fc_cd).abs().mean() > 0.01


def test_wrong_settings() -> None:
    for percent in (-1, 100):
        with pytest.raises(BadSetting, match=r"in \[0, 100\)"):
            FrequencyCompression(percent=percent)
    with pytest.raises(UnknownName, match='Did you mean "released"'):
        FrequencyCompression(form="release")
    with pytest.raises(UnknownName, match='Did you mean "cifar10"'):
        FrequencyCompression(space="cifar")
    with pytest.raises(BadImages, match="needs images of 3 channels, got 1"):
        FrequencyCompression(space="imagenet").forward(torch.zeros(1, 1, 8, 8), None)
