"""Bit depth: the levels of each rounding."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from besiege.defenses.bit_depth import BitDepth
from besiege.defenses.transform import surrogate_of

GREYS = torch.arange(256) / 255


@pytest.mark.parametrize("bits", range(1, 9))
def test_levels(bits: int) -> None:
    nearest, floor, multiple = (
        BitDepth(bits=bits, rounding=r).forward(GREYS, None)
        for r in ("nearest", "floor", "multiple")
    )
    torch.testing.assert_close(nearest.unique(), torch.linspace(0, 1, 2**bits))
    assert torch.equal(floor, ((torch.arange(256) >> (8 - bits)) << (8 - bits)) / 255)
    if bits < 8:
        torch.testing.assert_close(multiple.unique(), torch.linspace(0, 1, 2**bits + 1))


def test_three_bits_of_floor_end_at_224_and_darken() -> None:
    y = BitDepth(rounding="floor").forward(GREYS, None)
    assert y.max() == 224 / 255
    assert abs(float((y - GREYS).mean()) * 255 + 15.5) < 0.01


def test_halves_go_to_even() -> None:
    x = torch.tensor([1 / 2, 1 / 6, 5 / 6], dtype=torch.float64)
    y = BitDepth(bits=2).forward(torch.tensor([0.5, 0.5]), None)
    assert y.tolist() == [pytest.approx(2 / 3)] * 2
    assert BitDepth(bits=1).forward(x, None).tolist() == [0, 0, 1]


@pytest.mark.parametrize("rounding", ["nearest", "floor", "multiple"])
def test_soft_is_near_the_value_with_a_true_gradient(rounding: str) -> None:
    link = BitDepth(rounding=rounding)
    soft = surrogate_of(link, "soft")
    x = (GREYS[::7].double() + 1e-3).requires_grad_()
    assert torch.autograd.gradcheck(lambda z: soft(z, None), x)
    assert (soft(x, None) - link.forward(x, None)).abs().max() < 0.5 / 7


@pytest.mark.shared
@pytest.mark.parametrize(
    ("rounding", "name", "extra"), [("nearest", "cd32", -1), ("multiple", "p3quant32", 0)]
)
@pytest.mark.parametrize("bits", range(1, 9))
def test_colour_depth_of_the_released_codes(
    shared: Path, bits: int, rounding: str, name: str, extra: int
) -> None:
    """Dziedzic and Krishnan's colour depth is "nearest", Guo et al.'s is "multiple"."""
    folder = shared / "golden" / "p1p3p4"
    with np.load(folder / "inputs.npz") as inputs, np.load(folder / "channels.npz") as golden:
        x = torch.from_numpy(inputs["imgs32"][:2] / 255).permute(0, 3, 1, 2)
        want = golden[f"{name}_levels_{bits}"]
    got = BitDepth(bits=bits, rounding=rounding).forward(x, None) * (2**bits + extra)
    np.testing.assert_allclose(got, want, atol=1e-9)


@pytest.mark.shared
@pytest.mark.parametrize("bits", range(1, 9))
def test_distances_of_the_released_codes(shared: Path, bits: int) -> None:
    """Of three codes; that of Athalye et al. works in float32."""
    folder = shared / "golden" / "p1p3p4"
    figures = json.loads((folder / "channels.json").read_text())[f"cd_{bits}"]
    with np.load(folder / "inputs.npz") as inputs:
        x = torch.from_numpy(inputs["imgs32"][:2] / 255).permute(0, 3, 1, 2)
    for rounding, key in (("nearest", "l2_p4"), ("multiple", "l2_p3"), ("floor", "l2_obf")):
        y = BitDepth(bits=bits, rounding=rounding).forward(x, None)
        moved, within = (y - x).flatten(1).norm(dim=1), 1e-5 if rounding == "floor" else 1e-9
        np.testing.assert_allclose(moved, figures[key], rtol=within, atol=0.1 * within)
    assert float(y.max()) == pytest.approx(figures["max_obf"], abs=1e-6)


@pytest.mark.shared
def test_float32_keeps_every_grey_level(shared: Path) -> None:
    with np.load(shared / "golden" / "p1p3p4" / "channels.npz") as golden:
        lost = (BitDepth(bits=8, rounding="floor").forward(GREYS, None) != GREYS).double().mean()
        assert float(lost) == golden["obf_trunc_matches_uint8"]
