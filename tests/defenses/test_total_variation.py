"""Total variation: least values and recorded outputs, scikit-image, derivatives."""

import json
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from skimage.restoration import denoise_tv_bregman
from torch import Tensor

from besiege.core.errors import BadSetting, UnknownName
from besiege.core.key import Key
from besiege.defenses.total_variation import TotalVariation
from besiege.defenses.transform import surrogate_of
from besiege.ops import bregman, total_variation
from besiege.ops.total_variation import KINDS, adjoint, differences, minimise, objective, variation
from besiege.ops.variation_slope import attached

IMAGES = [*(f"img32_{i}" for i in range(4)), "photo96", "photo96_pixmask"]
SHORT = {"isotropic": "iso", "anisotropic": "aniso", "rows": "rows"}


def as_batch(image: NDArray[Any]) -> Tensor:
    return torch.from_numpy(image.copy()).permute(2, 0, 1)[None]


def as_image(batch: Tensor) -> NDArray[Any]:
    return batch[0].permute(1, 2, 0).numpy()


class Golden:
    """Inputs, masks and results of P3's code, and least values by an interior-point method."""

    def __init__(self, folder: Path) -> None:
        self.pixels = dict(np.load(folder / "inputs.npz"))
        self.arrays = dict(np.load(folder / "tvm.npz"))
        self.values = json.loads((folder / "tvm.json").read_text())
        self.unmasked = json.loads((folder / "skimage_tv.json").read_text())

    def image(self, name: str) -> Tensor:
        if name.startswith("photo96"):
            return as_batch(self.pixels["photo96"] / 255)
        return as_batch(self.pixels["imgs32"][int(name[-1])] / 255)

    def kept(self, name: str) -> Tensor:
        shape = as_image(self.image(name)).shape
        packed = self.arrays[name if name.endswith("mask") else f"{name}_mask"]
        return as_batch(np.unpackbits(packed)[: np.prod(shape)].reshape(shape) > 0)


@pytest.fixture(scope="module")
def golden(shared: Path) -> Golden:
    return Golden(shared / "golden" / "p1p3p4")


def reaches(got: Tensor, least: float) -> None:
    assert least * (1 - 2e-6) <= float(got) <= least * (1 + 1e-4)


@pytest.mark.shared
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", IMAGES)
def test_least_values(golden: Golden, name: str, kind: str) -> None:
    x, kept = golden.image(name).float(), golden.kept(name)
    found = minimise(x, kept, 0.03, kind)
    least = golden.values[f"{name}_opt_{SHORT[kind]}"]
    # Also for "rows" of img32_2, where Clarabel warned: the gap proves that its value is right.
    reaches(found.value, least)
    released = [v for k, v in golden.values.items() if k.startswith(f"{name}_orig_")]
    assert len(released) == 5
    assert all(float(found.value) < solver[SHORT[kind]] for solver in released)
    assert float(found.value - found.gap) <= least * (1 + 2e-6)
    again = objective(found.image.double(), x.double(), kept.double(), 0.03, kind)
    torch.testing.assert_close(again.float(), found.value, rtol=1e-5, atol=0)
    got = TotalVariation(kind=kind).forward(x, kept)
    assert torch.equal(got, found.image)


@pytest.mark.shared
def test_the_least_value_that_came_with_a_warning(golden: Golden) -> None:
    """Clarabel called it inaccurate; our value and bound close on it from outside."""
    x, kept = golden.image("img32_2"), golden.kept("img32_2")
    found = minimise(x, kept, 0.03, "rows", 1e-6)
    least = golden.values["img32_2_opt_rows"]
    assert float(found.gap) <= 1e-6 * float(found.value)
    np.testing.assert_allclose(float(found.value), least, rtol=1e-8)


@pytest.mark.shared
@pytest.mark.parametrize(
    ("name", "weight"), [*product(["img32_0", "img32_1"], [0.03, 0.1, 0.3]), ("photo96", 0.03)]
)
def test_least_values_without_a_mask(golden: Golden, name: str, weight: float) -> None:
    x = golden.image(name).float()
    for kind, key, least in (
        ("isotropic", f"chambolle_{name}_w{weight}", "opt"),
        ("anisotropic", f"bregman_{name}_lam{weight}", "opt_aniso"),
    ):
        link = TotalVariation(weight=weight, drop=0, kind=kind)
        got = link.forward(x, link.draw(Key.root(0, [0]), (3, 32, 32)))
        value = objective(got, x, torch.ones_like(x), weight, kind)
        reaches(value, golden.unmasked[key][least])
    notes = golden.unmasked[f"chambolle_{name}_w{weight}"]
    whole = float(objective(x, x, torch.ones_like(x), weight, "isotropic"))
    assert whole == pytest.approx(notes["input"], rel=1e-5)
    assert notes["opt"] <= notes["tight"] < notes["default"]  # scikit-image's, above the least


@pytest.mark.shared
@pytest.mark.parametrize(("name", "tol"), [("img32_0", 1e-6), ("img32_1", 1e-6), ("photo96", 1e-5)])
def test_the_minimiser_itself(golden: Golden, name: str, tol: float) -> None:
    x, kept, recorded = golden.image(name), golden.kept(name), golden.arrays[f"{name}_opt_iso"]
    found = minimise(x, kept, 0.03, "isotropic", tol)
    off = np.abs(as_image(found.image) - recorded)
    assert off.mean() < 5e-4  # where everything near was dropped it is hardly determined
    value = float(objective(as_batch(recorded).double(), x, kept.double(), 0.03, "isotropic"))
    assert value == pytest.approx(golden.values[f"{name}_opt_iso"], rel=1e-5)


@pytest.mark.shared
@pytest.mark.parametrize("kind", ["isotropic", "anisotropic"])
@pytest.mark.parametrize("name", ["img32_0", "img32_1", "photo96"])
def test_as_released(golden: Golden, name: str, kind: str) -> None:
    x, kept = golden.image(name), golden.kept(name)
    drawn = kept & (x > 0)  # the golden's mask has the zeros in; the form must add them by itself
    got = as_image(TotalVariation(form="released", kind=kind).forward(x, drawn))
    want = golden.arrays[f"{name}_out_{SHORT[kind]}"].clip(0, 1)  # three entries are just below 0
    np.testing.assert_allclose(got, want, atol=1e-6)


@pytest.mark.shared
@pytest.mark.parametrize("kind", ["isotropic", "anisotropic"])
@pytest.mark.parametrize("name", IMAGES)
def test_values_of_the_released_solver(golden: Golden, name: str, kind: str) -> None:
    """Also of the images of which no output is recorded; the masks are as the solver had them."""
    x, kept = golden.image(name), golden.kept(name)
    given = torch.where(kept, x, 0)
    u = bregman.nested(given, kept, 0.03, kind, 0.01).image
    want = golden.values[f"{name}_orig_{SHORT[kind]}_eps0.01"]
    for of, short in SHORT.items():
        value = float(objective(u, x, kept.double(), 0.03, of))
        assert value == pytest.approx(want[short], rel=1e-9)


@pytest.mark.shared
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_as_in_the_code_of_athalye(shared: Path, dtype: torch.dtype) -> None:
    recorded = dict(np.load(shared / "golden" / "p0" / "tv.npz"))
    x = as_batch(np.load(shared / "golden" / "p0" / "inputs.npz")["x32"] / 255).to(dtype)
    kept = torch.from_numpy(recorded["mask_32"])[None, None]
    got = as_image(TotalVariation(form="obfuscated").forward(x, kept))
    np.testing.assert_allclose(got, recorded["out_32"], atol=1e-6)


def example(*shape: int, seed: int = 0) -> Tensor:
    """Smooth and noisy images in (0, 1), float64."""
    rough = Key.root(seed, range(shape[0])).uniform(*shape[1:], dtype=torch.float64)
    slope = torch.linspace(0, 1, shape[-2])[:, None] + torch.linspace(0, 1, shape[-1])
    return 0.1 + 0.3 * slope + 0.2 * rough


def mask(*shape: int) -> Tensor:
    return Key.root(1, range(shape[0])).bernoulli(0.5, *shape[1:])


@pytest.mark.parametrize("kind", ["isotropic", "anisotropic"])
def test_sweeps_of_scikit_image(kind: str) -> None:
    """Inside: beyond the border, today's version has other values than the codes of 2018."""
    x = example(2, 1, 13, 17)
    kept = torch.ones_like(x, dtype=torch.bool)
    got = bregman.interleaved(x, kept, 0.1, kind, limit=2).image
    for image, mine in zip(x[:, 0].numpy(), got[:, 0].numpy(), strict=True):
        isotropic = kind == "isotropic"
        want = denoise_tv_bregman(image, weight=10, max_num_iter=2, isotropic=isotropic)
        np.testing.assert_allclose(mine[2:-2, 2:-2], want[2:-2, 2:-2], atol=1e-6)


def test_the_code_of_athalye_smooths_by_half_the_weight() -> None:
    x, kept = example(1, 3, 9, 8), mask(1, 1, 9, 8)
    got = TotalVariation(form="obfuscated", weight=0.2).forward(x, kept)
    want = bregman.interleaved(x, kept.expand(x.shape), 0.1, "anisotropic").image
    assert torch.equal(got, want)


def test_variations_by_numpy() -> None:
    x = example(1, 2, 5, 7)
    down, right = np.diff(x[0].numpy(), axis=1), np.diff(x[0].numpy(), axis=2)
    square = np.pad(down**2, ((0, 0), (0, 1), (0, 0))) + np.pad(right**2, ((0, 0), (0, 0), (0, 1)))
    rows = np.linalg.norm(down, axis=2).sum() + np.linalg.norm(right, axis=1).sum()
    want = (np.sqrt(square).sum(), np.abs(down).sum() + np.abs(right).sum(), rows)
    for kind, value in zip(KINDS, want, strict=True):
        np.testing.assert_allclose(float(variation(kind, x)), value, rtol=1e-12)


def test_adjoint() -> None:
    x, y = example(1, 1, 5, 6), example(1, 1, 5, 6, seed=3)
    down, right = differences(y)
    (a, b) = differences(x)
    torch.testing.assert_close((a * down + b * right).sum(), (x * adjoint(down, right)).sum())


def test_flat_and_empty_images_and_images_without_any_kept_entry() -> None:
    x = torch.full((2, 3, 8, 9), 0.25)
    for kind in KINDS:
        found = minimise(x, mask(2, 3, 8, 9), 0.03, kind)
        torch.testing.assert_close(found.image, x, atol=2e-2, rtol=0)
        assert minimise(x, torch.zeros_like(x) > 0, 0.03, kind).image.isfinite().all()
        assert minimise(x[:0], mask(2, 3, 8, 9)[:0], 0.03, kind).image.shape == (0, 3, 8, 9)


def test_a_tall_step_loses_its_known_height() -> None:
    """Halves of height 1 and 0, n x 2n: the edge has length n, each half moves by weight / n."""
    n, weight = 8, 0.4
    x = torch.zeros(1, 1, n, 2 * n, dtype=torch.float64)
    x[..., :n] = 1
    for kind in ("isotropic", "anisotropic"):
        got = minimise(x, torch.ones_like(x) > 0, weight, kind, tol=1e-6).image
        want = x + (1 - 2 * x) * weight / n
        torch.testing.assert_close(got, want, atol=1e-3, rtol=0)


def test_a_row_ends_by_itself_and_at_the_limit() -> None:
    x = torch.cat([example(1, 3, 16, 16), torch.full((1, 3, 16, 16), 0.5)]).double()
    kept = mask(2, 3, 16, 16)
    found = minimise(x, kept, 0.03, "isotropic")
    assert found.steps[0] > found.steps[1]
    alone = minimise(x[:1], kept[:1], 0.03, "isotropic")
    assert all(torch.equal(a, b[:1]) for a, b in zip(alone, found, strict=True))
    cut = minimise(x, kept, 0.03, "isotropic", tol=1e-6, limit=13)
    assert cut.steps.tolist() == [13, 10]
    assert float(cut.gap[0]) > 1e-6 * float(cut.value[0])


@pytest.mark.parametrize("kind", KINDS)
def test_a_whole_image_takes_its_own_step(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside images with dropped entries or alone; with theirs it would iterate more."""
    x, kept = example(2, 3, 32, 32), mask(2, 3, 32, 32)
    kept[0] = True
    found = minimise(x, kept, 0.03, kind, 1e-5)
    alone = minimise(x[:1], kept[:1], 0.03, kind, 1e-5)
    assert all(torch.equal(a, b[:1]) for a, b in zip(alone, found, strict=True))
    turned = minimise(x.mT.contiguous().mT, kept, 0.03, kind, 1e-5)
    assert all(torch.equal(a, b) for a, b in zip(turned, found, strict=True))
    monkeypatch.setattr(total_variation, "WHOLE", total_variation.PRIMAL)
    longer = minimise(x, kept, 0.03, kind, 1e-5).steps
    assert longer[0] > found.steps[0]
    assert longer[1] == found.steps[1]


def unrolled(x: Tensor, kept: Tensor, weight: float) -> Tensor:
    """Plain primal-dual iterations, isotropic, for autograd to go through."""
    down, right, u, step = torch.zeros_like(x), torch.zeros_like(x), x * kept, 0.35
    for _ in range(500):
        new = (u - step * adjoint(down, right) + step * kept * x) / (1 + step * kept)
        a, b = differences(2 * new - u)
        a, b = down + a / 8 / step, right + b / 8 / step
        size = ((a * a + b * b + 1e-24).sqrt() / weight).clamp_min(1)
        down, right, u = a / size, b / size, new
    return u


def cosine(a: Tensor, b: Tensor) -> float:
    return float((a * b).sum() / a.norm() / b.norm())


def test_the_implicit_derivative_is_that_of_unrolled_iterations() -> None:
    x, kept = example(1, 1, 16, 16), mask(1, 1, 16, 16)
    g = example(1, 1, 16, 16, seed=5) - 0.5
    leaf = x.clone().requires_grad_()
    out = unrolled(leaf, kept.double(), 0.03)
    (want,) = torch.autograd.grad(out, leaf, g)
    (got,) = torch.autograd.grad(attached(out.detach(), leaf, kept, 0.03, "isotropic"), leaf, g)
    assert cosine(got, want) > 0.95
    assert 0.9 < float(got.norm() / want.norm()) < 1.1
    assert cosine(g, want) < 0.8  # the identity


@pytest.mark.parametrize(("kind", "least"), [("rows", 0.99), ("isotropic", 0.95)])
def test_the_implicit_derivative_by_finite_differences(kind: str, least: float) -> None:
    x, kept = example(1, 1, 12, 14), mask(1, 1, 12, 14)
    move = Key.root(7, [0]).normal(1, 12, 14).sign().double() / 255
    ends = (minimise(x + s * move, kept, 0.03, kind, 1e-6).image for s in (0.5, -0.5))
    want = next(ends) - next(ends)
    eye = torch.eye(12 * 14, dtype=torch.float64).reshape(-1, 1, 12, 14)
    n = len(eye)
    leaf = x.expand(n, -1, -1, -1).clone().requires_grad_()
    u = minimise(x, kept, 0.03, kind, 1e-6).image
    out = attached(u.expand(n, -1, -1, -1), leaf, kept.expand(n, -1, -1, -1), 0.03, kind)
    (rows,) = torch.autograd.grad(out, leaf, eye)  # a row of the Jacobian each
    got = (rows * move).sum((1, 2, 3)).reshape(1, 1, 12, 14)
    assert cosine(got, want) > least
    assert 0.9 < float(got.norm() / want.norm()) < 1.1


@pytest.mark.parametrize("form", ["released", "obfuscated"])
def test_the_exact_derivative_by_finite_differences(form: str) -> None:
    link = TotalVariation(form=form, kind="isotropic", tol=0.02)
    x, kept, g = example(1, 3, 9, 8), mask(1, 3, 9, 8), example(1, 3, 9, 8, seed=5)
    leaf = x.clone().requires_grad_()
    out = surrogate_of(link, "best")(leaf, kept)
    (slope,) = torch.autograd.grad(out, leaf, g)
    move = Key.root(7, [0]).normal(3, 9, 8).double()
    ends = [float((g * link.forward(x + s * move, kept)).sum()) for s in (1e-6, -1e-6)]
    np.testing.assert_allclose(float((slope * move).sum()), (ends[0] - ends[1]) / 2e-6, rtol=1e-5)


def test_what_is_dropped() -> None:
    key, shape = Key.root(0, range(3)), (3, 40, 40)
    entries = TotalVariation(drop=0.3).draw(key, shape)
    pixels = TotalVariation(drop=0.3, of="pixels").draw(key, shape)
    assert entries is not None
    assert entries.shape == (3, *shape)
    assert pixels is not None
    assert pixels.shape == (3, 1, 40, 40)
    for drawn in (entries, pixels):
        assert abs(float(drawn.double().mean()) - 0.7) < 5 * (0.21 / drawn.numel()) ** 0.5
    assert TotalVariation(form="obfuscated").draw(key, shape).shape[1] == 1
    assert TotalVariation(drop=0).draw(key, shape) is None


def test_zeros_are_kept_as_released() -> None:
    x = example(1, 1, 12, 12)
    x[..., 4:8, 4:8] = 0
    kept = mask(1, 1, 12, 12)
    assert 0 < int((kept & (x == 0)).sum()) < 16
    link, paper = (TotalVariation(form=form, kind="isotropic") for form in ("released", "paper"))
    assert torch.equal(link.forward(x, kept), link.forward(x, kept | (x == 0)))
    assert not torch.equal(link.forward(x, kept), link.forward(x, torch.ones_like(kept)))
    # To drop them would matter, as it does in the paper's form.
    assert not torch.equal(paper.forward(x, kept), paper.forward(x, kept | (x == 0)))
    given = torch.where(kept, x, 0)
    dropped = bregman.nested(given, kept, 0.03, "isotropic", 0.01).image.clamp(0, 1)
    assert float((dropped - link.forward(x, kept)).abs().max()) > 0.01


@pytest.mark.parametrize(
    ("setting", "error"),
    [
        ({"form": "relesed"}, UnknownName),
        ({"of": "pixel"}, UnknownName),
        ({"kind": "iso"}, UnknownName),
        ({"form": "released", "kind": "rows"}, BadSetting),
        ({"weight": 0}, BadSetting),
        ({"weight": float("nan")}, BadSetting),
        ({"drop": 1}, BadSetting),
        ({"tol": 0}, BadSetting),
        ({"tol": 1e-7}, BadSetting),
    ],
)
def test_wrong_settings(setting: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error, match="tvm"):
        TotalVariation(**setting)
