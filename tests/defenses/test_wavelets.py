"""Wavelets against PyWavelets, BayesShrink against scikit-image and the recorded outputs."""

import warnings
from pathlib import Path

import numpy as np
import pytest
import pywt
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.restoration import denoise_wavelet

from besiege.core.errors import BadSetting, UnknownName
from besiege.core.key import Key
from besiege.ops.wavelets import analysed, bayes_shrunk, denoised, synthesised, wavelet

NAMES = ["db1", "db2", "db5", "sym4", "coif1"]


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(NAMES), st.integers(1, 40), st.integers(1, 40), st.integers(1, 4))
def test_as_pywavelets_and_back(name: str, height: int, width: int, levels: int) -> None:
    x = Key.root(height, range(2)).uniform(2, height, width, dtype=torch.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # more levels than it likes
        want = pywt.wavedecn(x.numpy(), name, level=levels, axes=(-2, -1))
    coarse, details = analysed(x, name, levels)
    np.testing.assert_allclose(coarse, want[0], atol=1e-10)
    for ours, theirs in zip(details, want[:0:-1], strict=True):
        for part, letters in zip(ours, ("ad", "da", "dd"), strict=True):
            np.testing.assert_allclose(part, theirs[letters], atol=1e-10)
    back = synthesised(coarse, details, name, (height, width))
    torch.testing.assert_close(back, x, atol=1e-10, rtol=0)


@pytest.mark.filterwarnings("ignore:Level value")  # more levels than PyWavelets likes
@pytest.mark.parametrize("name", ["db1", "db2", "sym4"])
@pytest.mark.parametrize("shape", [(33, 50), (96, 96), (9, 40), (8, 8)])
def test_rescaled_is_scikit_image(name: str, shape: tuple[int, int]) -> None:
    x = Key.root(1, [0]).uniform(3, *shape, dtype=torch.float64)
    x = 0.3 * x + torch.linspace(0, 0.5, shape[1], dtype=torch.float64)
    got = denoised(x, 0.04, "rescaled", name)[0]
    want = denoise_wavelet(x[0].numpy(), 0.04, name, convert2ycbcr=True, channel_axis=0)
    np.testing.assert_allclose(got, want, atol=1e-12)
    grey = denoised(x[:, :1], 0.1, "rescaled", name)[0, 0]
    np.testing.assert_allclose(grey, denoise_wavelet(x[0, 0].numpy(), 0.1, name), atol=1e-12)


@pytest.mark.shared
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("convention", "name"), [("2018", "wav_sk014"), ("rescaled", "wav_sk016_rescaleTrue")]
)
def test_recorded_outputs(shared: Path, convention: str, name: str, dtype: torch.dtype) -> None:
    with np.load(shared / "golden" / "p0" / "pixel_deflection.npz") as golden:
        x = torch.from_numpy(golden["pd_out_96"] / 255).permute(2, 0, 1)[None].to(dtype)
        want = golden[name]
    got = denoised(x, 0.04, convention)[0].permute(1, 2, 0)
    np.testing.assert_allclose(got, want, atol=1e-6)


def test_a_flat_channel_stays_flat() -> None:
    x = torch.full((2, 3, 16, 16), 0.25)
    for convention in ("2018", "rescaled"):
        torch.testing.assert_close(denoised(x, 0.04, convention), x)


def test_no_noise_no_change() -> None:
    x = Key.root(0, range(2)).uniform(3, 20, 21, dtype=torch.float64)
    torch.testing.assert_close(bayes_shrunk(x, 0.0, "db2"), x)


@pytest.mark.parametrize("convention", ["2018", "rescaled"])
def test_gradient(convention: str) -> None:
    x = Key.root(3, [0]).uniform(3, 6, 9, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x: denoised(x, 0.1, convention, "db2"), x, fast_mode=True
    )


def test_bad_wavelets() -> None:
    with pytest.raises(UnknownName, match='Did you mean "haar"'):
        wavelet("har")
    with pytest.raises(BadSetting, match=r'"bior2\.2" is not orthogonal'):
        wavelet("bior2.2")
