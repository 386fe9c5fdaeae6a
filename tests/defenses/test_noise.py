"""Noise: how strong it is under each convention, and where its gradient is."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from besiege.core.errors import BadImages, BadSetting, UnknownName
from besiege.core.key import Key
from besiege.defenses.noise import RANGES, Noise

KINDS = ["gaussian", "uniform", "laplace"]
GREY = torch.full((4, 3, 64, 64), 0.5)


def spread(link: Noise) -> torch.Tensor:
    """What is added to mid-grey."""
    return link.forward(GREY, link.draw(Key.root(0, range(4)), (3, 64, 64))) - 0.5


@pytest.mark.parametrize(
    ("convention", "deviations"),
    [
        ("parameter", [1, 3**-0.5, 2**0.5]),
        ("deviation", [1, 1, 1]),
        ("released", [3**-0.5, 3**-0.5, (2 / 3) ** 0.5]),
    ],
)
def test_standard_deviations(convention: str, deviations: list[float]) -> None:
    for kind, want in zip(KINDS, deviations, strict=True):
        noise = spread(Noise(kind=kind, scale=0.02, convention=convention))
        assert float(noise.std()) == pytest.approx(0.02 * want, rel=0.02)
        assert abs(float(noise.mean())) < 5 * 0.02 * want / math.sqrt(noise.numel())


@pytest.mark.parametrize(("kind", "kurtosis"), [*zip(KINDS, [3, 9 / 5, 6], strict=True)])
def test_shapes_of_the_distributions(kind: str, kurtosis: float) -> None:
    z = spread(Noise(kind=kind, scale=0.01, clip=False)).double()
    assert float((z**4).mean() / (z**2).mean() ** 2) == pytest.approx(kurtosis, rel=0.1)


def test_uniform_reaches_its_half_width() -> None:
    noise = spread(Noise(kind="uniform", scale=0.1))
    assert -0.1 <= float(noise.min()) < -0.0999
    assert 0.0999 < float(noise.max()) <= 0.1 + 1e-7


@pytest.mark.shared
def test_samples_of_the_released_code(shared: Path) -> None:
    folder = shared / "golden" / "p1p3p4"
    random = np.random.RandomState(31)  # noqa: TID251
    draws = [random.normal, lambda size: random.uniform(-1, 1, size), random.laplace]
    with np.load(folder / "channels.npz") as golden:
        for kind, name, draw in zip(KINDS, ["gauss", "uniform", "laplace"], draws, strict=True):
            link = Noise(kind=kind, scale=0.03, convention="released", clip=False)
            z = torch.from_numpy(draw(size=(3, 8, 8)))[None]
            got = link.forward(torch.zeros(1, 3, 8, 8, dtype=torch.float64), z)[0]
            np.testing.assert_allclose(got, golden[f"noise_{name}_sample"], atol=1e-12, rtol=0)


@pytest.mark.shared
def test_strengths_in_normalised_space(shared: Path) -> None:
    notes = json.loads((shared / "golden" / "p1p3p4" / "channels.json").read_text())
    factors = notes["noise_pixel_scale"]
    unit = notes["noise_unit"]
    for space, name in (("cifar10", "cifar_factor"), ("imagenet", "imagenet_factor")):
        np.testing.assert_allclose(RANGES[space], factors[name], rtol=1e-6)
        for kind, key in zip(KINDS, ["gauss_std", "uniform_halfwidth", "laplace_b"], strict=True):
            link = Noise(kind=kind, scale=0.03, convention="released", space=space, clip=False)
            one = torch.ones(1, 3, 1, 1, dtype=torch.float64)
            got = link.forward(0 * one, one).flatten()
            np.testing.assert_allclose(got, unit[key] * np.array(factors[name]), rtol=1e-6)


def test_clipping() -> None:
    x = torch.tensor([0.01, 0.5, 0.99]).reshape(1, 1, 1, 3)
    draw = torch.tensor([-1.0, 1.0, 1.0]).reshape(1, 1, 1, 3)
    want = torch.tensor([0.0, 0.6, 1.0])
    torch.testing.assert_close(Noise(scale=0.1).forward(x, draw).flatten(), want)
    want = torch.tensor([-0.09, 0.6, 1.09])
    torch.testing.assert_close(Noise(scale=0.1, clip=False).forward(x, draw).flatten(), want)
    leaf = x.clone().requires_grad_()
    Noise(scale=0.1).forward(leaf, draw).sum().backward()
    assert leaf.grad is not None
    assert leaf.grad.flatten().tolist() == [0, 1, 0]


def test_values_are_independent() -> None:
    z = spread(Noise(scale=0.01)).flatten(2)
    pairs = torch.corrcoef(torch.stack([z[:, 0].flatten(), z[:, 1].flatten(), z[:, 2].flatten()]))
    assert float((pairs - torch.eye(3)).abs().max()) < 5 / math.sqrt(z[:, 0].numel())


def test_bad_settings() -> None:
    for scale in (0, -1, math.nan, math.inf):
        with pytest.raises(BadSetting, match="scale is a number above 0"):
            Noise(scale=scale)
    with pytest.raises(UnknownName, match='Did you mean "gaussian"'):
        Noise(kind="gauss")
    with pytest.raises(UnknownName, match="Unknown convention"):
        Noise(convention="sigma")
    with pytest.raises(UnknownName, match='Did you mean "cifar10"'):
        Noise(space="cifar")
    with pytest.raises(BadImages, match="needs images of 3 channels, got 1"):
        Noise(space="imagenet").forward(GREY[:, :1], GREY[:, :1])
