"""ME-Net: masks, and completions against recorded outputs and conditions of optimality."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from besiege.core.errors import BadSetting, UnknownName
from besiege.core.key import Key
from besiege.defenses.menet import MENet
from besiege.defenses.transform import surrogate_of
from besiege.ops.matrix_completion import nuclear, soft_impute

KEY = Key.root(7, range(3))
X = KEY.fold("x").uniform(3, 16, 12, dtype=torch.float64)


@pytest.fixture(scope="module")
def golden(shared: Path) -> dict[str, Any]:
    folder = shared / "golden" / "p1p3p4"
    with np.load(folder / "menet.npz") as file, np.load(folder / "inputs.npz") as inputs:
        arrays = {key: file[key] for key in file.files}
        x = torch.from_numpy(inputs["imgs32"][:2] / 255).permute(0, 3, 1, 2)
    return {"arrays": arrays, "x": x, "figures": json.loads((folder / "menet.json").read_text())}


def mask_of(golden: dict[str, Any], matrix: str, keep: str, image: int) -> Tensor:
    """The recorded mask as a draw, (1, 3, 32, 32) or (1, 1, 32, 32)."""
    bits = np.unpackbits(golden["arrays"][f"mask_{matrix}_{keep}_{image}"]).astype(bool)
    if matrix == "separate":
        return torch.from_numpy(bits[: 32 * 32].reshape(1, 1, 32, 32).copy())
    return side_by_side(torch.from_numpy(bits[: 32 * 96].reshape(1, 32, 96).copy()))


def side_by_side(matrix: Tensor) -> Tensor:
    """(1, H, 3 W) -> (1, 3, H, W)."""
    return torch.stack(matrix.chunk(3, -1), 1)


@pytest.mark.shared
@pytest.mark.parametrize("image", [0, 1])
@pytest.mark.parametrize("keep", ["0.5", "0.9"])
@pytest.mark.parametrize("matrix", ["concat", "separate"])
@pytest.mark.parametrize(("method", "short"), [("usvt", "usvt"), ("soft-impute", "softimp")])
def test_released_outputs(
    golden: dict[str, Any], method: str, short: str, matrix: str, keep: str, image: int
) -> None:
    """To 1e-3 of a grey level; of image 1 only the distance is recorded."""
    x = golden["x"][image : image + 1]
    y = MENet(method=method, matrix=matrix).forward(x, mask_of(golden, matrix, keep, image))
    want = golden["figures"][f"{matrix}_{keep}_{image}"][f"{short}_l2"]
    assert float((y - x).norm()) == pytest.approx(want, rel=1e-9)
    known = golden["figures"][f"{matrix}_{keep}_{image}"]["p_obs"]
    assert float(mask_of(golden, matrix, keep, image).double().mean()) == pytest.approx(known)
    if image == 0:
        got = y[0].permute(1, 2, 0).numpy() * 255
        np.testing.assert_allclose(got, golden["arrays"][f"{short}_{matrix}_{keep}_0"], atol=1e-3)


@pytest.mark.shared
@pytest.mark.parametrize("image", [0, 1])
@pytest.mark.parametrize("keep", ["0.5", "0.9"])
def test_the_nuclear_norm_reaches_its_recorded_optimum(
    golden: dict[str, Any], keep: str, image: int
) -> None:
    x, kept = golden["x"][image : image + 1], mask_of(golden, "concat", keep, image)
    a, m = (torch.cat(list(t[0]), -1)[None] for t in (2 * x - 1, kept))
    y = nuclear(a, m)
    got = torch.linalg.svdvals(y).sum() + (torch.where(m, y - a, 0) ** 2).sum()
    best = golden["figures"][f"concat_{keep}_{image}"]["nuc_opt_obj"]
    assert float(got) <= best * (1 + 1e-8)
    assert float(got) <= golden["figures"][f"concat_{keep}_{image}"]["nuc_scs_obj"]
    if image == 0:
        want = golden["arrays"][f"nucnorm_opt_{keep}_0"]
        np.testing.assert_allclose(y[0], want, atol=1e-4)
        whole = MENet(method="nuclear").forward(x, kept)
        shown = ((side_by_side(torch.from_numpy(want)[None]) + 1) / 2).clamp(0, 1)
        np.testing.assert_allclose(whole, shown, atol=1e-4)


def truncated_by_numpy(a: NDArray[Any], values: int, less: float = 0) -> NDArray[Any]:
    u, s, v = np.linalg.svd(a, full_matrices=False)
    return (u[:, :values] * (s[:values] - less).clip(0)) @ v[:values]


def test_both_methods_of_the_code_by_numpy() -> None:
    """Of one channel, 16 x 12, in [-1, 1] with 0 for what is missing."""
    x, kept = X[:1, :1], KEY[:1].fold("m").bernoulli(0.7, 1, 16, 12)
    a, known = (2 * x - 1)[0, 0].numpy(), kept[0, 0].numpy()
    start = np.where(known, a, 0)
    want = truncated_by_numpy(start, int(0.8 * 16)) / known.mean()
    got = MENet(method="usvt").forward(x, kept)[0, 0]
    np.testing.assert_allclose(got, ((want + 1) / 2).clip(0, 1), rtol=0, atol=1e-9)

    y, less = start, np.linalg.norm(start, 2) / 50
    for _ in range(100):
        before, y = y, np.where(known, start, truncated_by_numpy(y, 12, less))
        if np.linalg.norm(y - before) < 1e-3 * np.linalg.norm(np.where(known, 0, before)):
            break
    got = MENet(method="soft-impute").forward(x, kept)[0, 0]
    np.testing.assert_allclose(got, ((y + 1) / 2).clip(0, 1), rtol=0, atol=1e-9)


@pytest.mark.parametrize("weight", [0.1, 1.0, 4.0])
def test_the_nuclear_norm_is_optimal(weight: float) -> None:
    """2 (a - x) on the known entries is weight times a subgradient of the norm of x."""
    a = 2 * X - 1
    kept = KEY.fold("m").bernoulli(0.6, 3, 16, 12)
    a, kept = a.mT, kept.mT
    x = nuclear(a, kept, weight)
    g = 2 * torch.where(kept, a - x, 0)
    assert float(torch.linalg.matrix_norm(g, 2).max()) <= weight * (1 + 1e-4)
    inner, norm = (g * x).sum((-2, -1)), torch.linalg.matrix_norm(x, "nuc")
    torch.testing.assert_close(inner, weight * norm, rtol=1e-4, atol=1e-6)


def test_a_matrix_of_rank_one_is_found() -> None:
    left, right = KEY.fold("l").uniform(16, 1), KEY.fold("r").uniform(1, 24)
    a = ((left + 0.5) * (right + 0.5)).double()
    kept = KEY.fold("m").bernoulli(0.7, 16, 24)
    torch.testing.assert_close(nuclear(a, kept, 1e-3, within=1e-9), a, atol=2e-3, rtol=0)
    known = soft_impute(a, kept)
    assert torch.equal(known[kept], a[kept])
    assert float((known - a)[~kept].abs().max()) < 0.15


@pytest.mark.parametrize("matrix", ["concat", "separate"])
def test_nothing_dropped_is_nothing_changed(matrix: str) -> None:
    for method in ("usvt", "soft-impute"):
        link = MENet(method=method, keep=1.0, values=1.0, matrix=matrix)
        draw = link.draw(KEY, (3, 16, 12))
        assert bool(draw.all())
        torch.testing.assert_close(link.forward(X, draw), X)


def test_known_entries_survive_soft_imputing() -> None:
    link = MENet(method="soft-impute")
    draw = link.draw(KEY, (3, 16, 12))
    y = link.forward(X, draw)
    torch.testing.assert_close(y[draw], X[draw])
    assert float((y - X)[~draw].abs().mean()) > 0.05


def test_masks_have_their_share_and_separate_ones_are_of_whole_pixels() -> None:
    key = Key.root(0, range(50))
    for matrix, channels in (("concat", 3), ("separate", 1)):
        draw = MENet(keep=0.3, matrix=matrix).draw(key, (3, 32, 32))
        assert draw.shape == (50, channels, 32, 32)
        assert abs(float(draw.double().mean()) - 0.3) < 4 * (0.21 / draw.numel()) ** 0.5


def test_a_mask_that_keeps_nothing_is_grey() -> None:
    draw = torch.zeros(3, 3, 16, 12, dtype=torch.bool)
    for method in ("usvt", "soft-impute", "nuclear"):
        y = MENet(method=method).forward(X, draw)
        torch.testing.assert_close(y, torch.full_like(X, 0.5))


def test_the_gradient_of_usvt_is_exact() -> None:
    link = MENet(values=0.5)
    x = (0.4 + 0.2 * X[:1, :2, :8, :6]).requires_grad_()
    draw = link.draw(KEY[:1], (2, 8, 6))
    assert torch.autograd.gradcheck(lambda z: link.forward(z, draw), x)


def test_surrogates_of_the_mask() -> None:
    draw = MENet().draw(KEY, (3, 16, 12))
    for name, want in (("kept", draw.double()), ("identity", torch.ones_like(X))):
        leaf = X.clone().requires_grad_()
        out = surrogate_of(MENet(), name)(leaf, draw)
        assert torch.equal(torch.autograd.grad(out.sum(), leaf)[0], want)


def test_wrong_settings() -> None:
    for setting in ({"keep": 0}, {"values": 1.5}):
        with pytest.raises(BadSetting, match=r"a share in \(0, 1\]"):
            MENet(**setting)
    with pytest.raises(BadSetting, match="weight is a number above 0"):
        MENet(weight=0)
    with pytest.raises(UnknownName, match='Did you mean "soft-impute"'):
        MENet(method="softimpute")
    with pytest.raises(UnknownName, match='Did you mean "concat"'):
        MENet(matrix="concatenated")
