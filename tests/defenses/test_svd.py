"""Low-rank images against recorded outputs and NumPy, and the gradient of a truncation."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from besiege.core.errors import BadSetting, UnknownName
from besiege.core.key import Key
from besiege.defenses.svd import LowRank
from besiege.defenses.transform import Graft, surrogate_of
from besiege.models.catalog import load_model
from besiege.ops.low_rank import largest, projected, shrunk, truncated


def images(count: int, *shape: int) -> Tensor:
    return Key.root(6, range(count)).uniform(*shape, dtype=torch.float64)


@pytest.mark.shared
@pytest.mark.parametrize(
    ("name", "space"),
    [*((p, "pixels") for p in ("30", "50", "70", "90")), ("50_normspace", "cifar10")],
)
def test_released_outputs(shared: Path, name: str, space: str) -> None:
    folder = shared / "golden" / "p1p3p4"
    with np.load(folder / "inputs.npz") as inputs, np.load(folder / "channels.npz") as golden:
        x = torch.from_numpy(inputs["imgs32"][:2] / 255).permute(0, 3, 1, 2)
        want = golden[f"svd32_out_{name}"]
    link = LowRank(percent=int(name[:2]), space=space, clip=False)
    np.testing.assert_allclose(link.forward(x, None), want, atol=1e-6)


@pytest.mark.shared
@pytest.mark.parametrize("percent", [10, 25, 30, 40, 50, 60, 70, 75, 90])
def test_released_distances(shared: Path, percent: int) -> None:
    """Also of the percentages and the space of which no output is recorded."""
    folder = shared / "golden" / "p1p3p4"
    figures = json.loads((folder / "channels.json").read_text())[f"svd32_{percent}"]
    with np.load(folder / "inputs.npz") as inputs:
        x = torch.from_numpy(inputs["imgs32"][:2] / 255).permute(0, 3, 1, 2)
    links = [LowRank(percent=percent, space=s, clip=False) for s in ("pixels", "cifar10")]
    plain, normal = (link.forward(x, None) for link in links)
    for y, key in ((plain, "l2"), (normal, "l2_norm_space")):
        np.testing.assert_allclose((y - x).flatten(1).norm(dim=1), figures[key], rtol=1e-9)
    apart = float((plain - normal).abs().max())
    assert apart == pytest.approx(figures["max_abs_norm_vs_raw"], rel=1e-9)


@pytest.mark.shared
def test_ranks_of_both_rules(shared: Path) -> None:
    figures = json.loads((shared / "golden" / "p1p3p4" / "channels.json").read_text())
    for percent, (side, storage) in figures["svd_rank_table_224"].items():
        assert LowRank(percent=int(percent)).rank_of(224, 224) == side
        assert LowRank(percent=int(percent), rule="storage").rank_of(224, 224) == storage
    for percent in (10, 25, 30, 40, 50, 60, 70, 75, 90):
        row = figures[f"svd32_{percent}"]
        assert LowRank(percent=percent).rank_of(32, 32) == row["rank"]
        link = LowRank(percent=percent, rule="storage")
        assert link.rank_of(32, 32) == row["rank_storage_formula"]


def test_storage_keeps_its_promise_on_oblong_images() -> None:
    rank = LowRank(percent=60, rule="storage").rank_of(30, 80)
    assert rank * (30 + 80 + 1) <= 0.4 * 30 * 80 < (rank + 1) * (30 + 80 + 1)


@pytest.mark.parametrize("shape", [(32, 32), (13, 17), (20, 7)], ids=str)
@pytest.mark.parametrize("rank", [1, 3, 7])
def test_truncation_is_numpys(shape: tuple[int, int], rank: int) -> None:
    x = images(2, 3, *shape)
    u, s, v = np.linalg.svd(x.numpy(), full_matrices=False)
    want = (u[..., :rank] * s[..., None, :rank]) @ v[..., :rank, :]
    np.testing.assert_allclose(truncated(x, rank), want, atol=1e-12)
    np.testing.assert_allclose(projected(x, rank), want, atol=1e-12)
    least = np.sqrt((s[..., rank:] ** 2).sum(-1))
    np.testing.assert_allclose((truncated(x, rank) - x).flatten(2).norm(dim=2), least, atol=1e-12)


@pytest.mark.parametrize("rank", [2, 12, 20])
def test_truncation_is_right_to_1e_8_of_the_largest_value(rank: int) -> None:
    """Singular values from 1 to 1e-12, whose squares are beyond float64."""
    u, v = np.linalg.qr(images(2, 24, 24).numpy()).Q
    s = np.logspace(0, -12, 24)
    x = torch.from_numpy((u * s) @ v.T)
    want = (u[:, :rank] * s[:rank]) @ v.T[:rank]
    np.testing.assert_allclose(truncated(x, rank), want, atol=3e-8)
    np.testing.assert_allclose(projected(x, rank), want, atol=3e-8)


@pytest.mark.parametrize("shape", [(6, 6), (5, 9), (9, 5)], ids=str)
@pytest.mark.parametrize("rank", [1, 3, 5, 9])
def test_the_gradient_of_a_truncation(shape: tuple[int, int], rank: int) -> None:
    x = images(1, 2, *shape).requires_grad_()
    assert torch.autograd.gradcheck(lambda z: truncated(z, rank), x)


def test_the_gradient_is_that_through_the_decomposition() -> None:
    """Torch's own, in float64 on a matrix without ties."""
    x = images(1, 1, 12, 12).requires_grad_()
    weight = images(2, 1, 12, 12)[1:]
    u, s, v = torch.linalg.svd(x, full_matrices=False)
    through = (u[..., :4] * s[..., None, :4]) @ v[..., :4, :]
    (want,) = torch.autograd.grad((through * weight).sum(), x)
    (got,) = torch.autograd.grad((truncated(x, 4) * weight).sum(), x)
    torch.testing.assert_close(got, want, atol=1e-9, rtol=1e-7)


@pytest.mark.parametrize("image", [torch.eye(8), torch.zeros(8, 8), torch.full((8, 8), 0.5)])
def test_the_gradient_is_finite_where_singular_values_meet(image: Tensor) -> None:
    leaf = image[None, None].clone().requires_grad_()
    (slope,) = torch.autograd.grad(truncated(leaf, 2).sum(), leaf)
    assert bool(slope.isfinite().all())
    assert float(slope.abs().max()) > 0.1


def test_an_unreadable_image_spoils_no_other() -> None:
    x = images(3, 3, 9, 9)
    broken = x.clone()
    broken[1, 2, 4, 4] = torch.nan
    y, want = LowRank(rank=3).forward(broken, None), LowRank(rank=3).forward(x, None)
    assert torch.equal(y[[0, 2]], want[[0, 2]])
    assert bool(y[1, 2].isnan().all())
    assert torch.equal(y[1, :2], want[1, :2])


def test_shrinking_is_the_proximal_step() -> None:
    x, amount = images(4, 5, 11), torch.tensor([0.0, 0.3, 0.6, 9.0], dtype=torch.float64)
    u, s, v = np.linalg.svd(x.numpy(), full_matrices=False)
    want = (u * np.maximum(s - amount.numpy()[:, None], 0)[:, None, :]) @ v
    np.testing.assert_allclose(shrunk(x, amount), want, atol=1e-12)


def test_shrinking_an_unreadable_matrix_spoils_no_other() -> None:
    x, amount = images(3, 5, 11), torch.full((3,), 0.3)
    want, x[1, 2, 3] = shrunk(x, amount), torch.inf
    got = shrunk(x, amount)
    assert torch.equal(got[[0, 2]], want[[0, 2]])
    assert bool(got[1].isnan().all())
    assert largest(x).isnan().tolist() == [False, True, False]


@pytest.mark.shared
def test_the_true_gradient_is_the_best_surrogate(shared: Path) -> None:
    """One step of l2 length 0.1 for 20 images of CIFAR-10, judged by the loss of the whole."""
    with np.load(shared / "data" / "cifar10_test_subset.npz") as file:
        x = torch.from_numpy(file["images"][:20]).permute(0, 3, 1, 2).float() / 255
        y = torch.from_numpy(file["labels"][:20].astype(np.int64))
    net = load_model(f"resnet20:weights={shared / 'data' / 'cifar10_resnet20.safetensors'}")
    link = LowRank(percent=70)
    before = F.cross_entropy(net(link.forward(x, None)), y)
    gained = {}
    for name in link.surrogates:
        leaf = x.clone().requires_grad_()
        loss = F.cross_entropy(net(Graft(link, name).forward(leaf, None)), y)
        (slope,) = torch.autograd.grad(loss, leaf)
        point = x + 0.1 * slope / slope.flatten(1).norm(dim=1)[:, None, None, None]
        gained[name] = float(F.cross_entropy(net(link.forward(point, None)), y) - before)
    assert list(gained) == sorted(gained, key=lambda name: -gained[name])
    assert gained["exact"] > 1.2 * gained["identity"] > 1.2 * gained["projection"]


def test_the_projection_is_linear_in_a_fixed_frame() -> None:
    """P v Q for the gradient v, with P and Q of the image."""
    x, v = images(2, 1, 8, 8).split(1)
    leaf = x.clone().requires_grad_()
    out = surrogate_of(LowRank(rank=2, clip=False), "projection")(leaf, None)
    (got,) = torch.autograd.grad(out, leaf, v)
    u, _, w = np.linalg.svd(x.numpy())
    p, q = u[..., :2] @ u[..., :2].swapaxes(-1, -2), w[..., :2, :].swapaxes(-1, -2) @ w[..., :2, :]
    np.testing.assert_allclose(got, p @ v.numpy() @ q, atol=1e-12)


def test_wrong_settings() -> None:
    with pytest.raises(BadSetting, match=r"in \[0, 100\)"):
        LowRank(percent=100)
    with pytest.raises(BadSetting, match="rank is a whole number"):
        LowRank(rank=-1)
    with pytest.raises(UnknownName, match='Did you mean "storage"'):
        LowRank(rule="store")
