"""Every array of the goldens fd, rdg, jpeg, bitdepth and adjoint, made from the released codes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.fft
import torch
from numpy.typing import NDArray
from torch import Tensor

from besiege.defenses.bit_depth import BitDepth
from besiege.defenses.feature_distillation import FeatureDistillation
from besiege.defenses.jpeg import Jpeg
from besiege.defenses.random_distortion import RandomDistortion, Stretches
from besiege.defenses.transform import Chain, Transform, surrogate_of
from besiege.ops import grid
from besiege.ops.border import reflect
from besiege.ops.dct import dct
from besiege.ops.jpeg import recoded

pytestmark = pytest.mark.shared
Golden = Callable[[str], dict[str, NDArray[Any]]]

RELEASED_FD = FeatureDistillation(form="released")
ALIGNED_FD = FeatureDistillation()


@pytest.fixture(scope="module")
def golden(shared: Path) -> Golden:
    def load(name: str) -> dict[str, NDArray[Any]]:
        with np.load(shared / "golden" / "p0" / f"{name}.npz") as file:
            return {key: file[key] for key in file.files}

    return load


@pytest.fixture(scope="module")
def images(golden: Golden) -> dict[str, Tensor]:
    """The inputs as float64 (1, 3, H, W) in [0, 1]."""
    pixels = golden("inputs")
    x99 = pixels["x99"]
    floats = {name: value / 255 for name, value in pixels.items()}
    floats["x299"] = x99.repeat(4, 0).repeat(4, 1)[:299, :299] / 255
    for name in ("x96", "x32"):
        floats[f"{name}_noise"] = noise(pixels[name])
    return {name: as_batch(value) for name, value in floats.items()}


def noise(pixels: NDArray[Any]) -> NDArray[Any]:
    i, j, c = np.indices(pixels.shape)
    return np.clip(pixels / 255 + (((7 * i + 13 * j + 5 * c) % 3) - 1) * 4 / 255, 0, 1)


def as_batch(image: NDArray[Any]) -> Tensor:
    return torch.from_numpy(image.copy()).permute(2, 0, 1)[None]


def as_image(batch: Tensor) -> NDArray[Any]:
    return batch[0].permute(1, 2, 0).numpy()


def as_grey(batch: Tensor) -> NDArray[Any]:
    """Output k/255 as uint8, checked to be that."""
    levels = as_image(batch).astype(np.float64) * 255
    assert np.abs(levels - levels.round()).max() < 1e-4
    return levels.round().astype(np.uint8)


def tied(blocks: NDArray[Any], size: int, shift: int = 0) -> NDArray[Any]:
    """The pixels (size, size, 3) of blocks (channel, block row, block column), moved by shift."""
    mask = np.zeros((size + 16, size + 16, 3), dtype=bool)
    for c, row, column in blocks:
        top, left = 8 * row + shift + 8, 8 * column + shift + 8
        mask[top : top + 8, left : left + 8, c] = True
    return mask[8:-8, 8:-8]


def assert_near(got: NDArray[Any], want: NDArray[Any], within: float) -> None:
    worst = np.abs(got.astype(np.float64) - want).max()
    assert worst <= within, worst


@pytest.mark.parametrize(("dtype", "within"), [(torch.float64, 2e-7), (torch.float32, 6e-7)])
@pytest.mark.parametrize("name", ["96", "32", "32_noise"])
def test_fd_without_padding(
    golden: Golden, images: dict[str, Tensor], name: str, dtype: torch.dtype, within: float
) -> None:
    fd = golden("fd")
    got = as_image(ALIGNED_FD.forward(images[f"x{name}"].to(dtype), None))
    want = fd[f"fd_core_{name}"]
    ties = tied(fd[f"fd_tie_blocks_{name}"], len(want))
    assert_near(got[~ties], want[~ties], within)
    assert_near(got, want, 0.029)


@pytest.mark.parametrize("link", [RELEASED_FD, ALIGNED_FD], ids=lambda link: link.form)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_fd_with_padding(
    golden: Golden, images: dict[str, Tensor], link: FeatureDistillation, dtype: torch.dtype
) -> None:
    fd = golden("fd")
    got = as_image(link.forward(images["x99"].to(dtype), None))
    want = fd[f"fd1_{link.form}_99"]
    # Block 0 of the padded image starts at pixel -2 of the aligned output, 0 of the released one.
    ties = tied(fd["fd_tie_blocks_99pad"], 99, shift=-2 if link is ALIGNED_FD else 0)
    assert 0 < ties.mean() < 0.02
    assert_near(got[~ties], want[~ties], 1e-6)
    assert_near(got, want, 0.029)


@pytest.mark.parametrize(("form", "times"), [("released", 2), ("released", 3), ("aligned", 2)])
def test_fd_again(golden: Golden, form: str, times: int) -> None:
    """Each pass on the golden of the one before, since a tie there would spread from here on."""
    fd = golden("fd")
    before = as_batch(fd[f"fd{times - 1}_{form}_99"].astype(np.float64))
    got = as_image(FeatureDistillation(form=form).forward(before, None))
    off = np.abs(got - fd[f"fd{times}_{form}_99"]) > 1e-5
    assert off.mean() <= 0.002


@pytest.mark.parametrize("name", ["96", "32", "32_noise", "99pad"])
def test_where_a_coefficient_is_a_tie(golden: Golden, images: dict[str, Tensor], name: str) -> None:
    """The tables of ties, which other tests except, name those blocks and no other."""
    x = as_image(images[f"x{name.removesuffix('pad')}"])
    _, tie = scipy_fd(np.pad(x, ((2, 3), (2, 3), (0, 0)), "reflect") if name == "99pad" else x)
    got = {tuple(block) for block in np.argwhere(tie[::8, ::8].transpose(2, 0, 1))}
    assert got == {tuple(block) for block in golden("fd")[f"fd_tie_blocks_{name}"]}


def test_fd_coefficients(golden: Golden, images: dict[str, Tensor]) -> None:
    fd = golden("fd")
    table = torch.full((8, 8, 1, 1, 1, 1), 30.0, dtype=torch.float64)
    table[:4, :4] = 25
    steps = (dct(images["x32"] * 255) / table).round()
    got = steps[:, :, 0].permute(2, 3, 4, 0, 1).numpy()
    off = np.abs(got - fd["fd_qcoef_32"])
    for block in fd["fd_tie_blocks_32"]:
        assert off[tuple(block)].max() <= 1
        off[tuple(block)] = 0
    assert off.max() == 0


def test_fd_at_299(golden: Golden, images: dict[str, Tensor]) -> None:
    """The goldens are two corners and a sum; between them stands SciPy, which meets all of them."""
    fd = golden("fd")
    x = images["x299"]
    whole, ties = scipy_fd(np.pad(as_image(x), ((2, 3), (2, 3), (0, 0)), "reflect"))
    released, aligned = whole[:299, :299], whole[2:301, 2:301]
    np.testing.assert_array_equal(released[:32, :32], fd["fd299_released_tl"])
    np.testing.assert_array_equal(released[-32:, -32:], fd["fd299_released_br"])
    np.testing.assert_array_equal(aligned[-32:, -32:], fd["fd299_aligned_br"])
    sums = [released.sum(dtype=np.float64), aligned.sum(dtype=np.float64)]
    np.testing.assert_allclose(sums, fd["fd299_sum"], rtol=1e-6)

    for link, want, tie in (
        (RELEASED_FD, released, ties[:299, :299]),
        (ALIGNED_FD, aligned, ties[2:301, 2:301]),
    ):
        got = as_image(link.forward(x, None))
        assert tie.mean() < 0.05
        assert_near(got[~tie], want[~tie], 2e-7)


def scipy_fd(x: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Quantised (8n, 8n, 3) float32, and where a coefficient lies half way between two steps."""
    n = len(x) // 8
    table = np.full((8, 8), 30.0)
    table[:4, :4] = 25
    blocks = (x * 255).reshape(n, 8, n, 8, 3).transpose(0, 2, 4, 1, 3)
    steps = scipy.fft.dct(scipy.fft.dct(blocks, axis=-2, norm="ortho"), norm="ortho") / table
    tie = (np.abs(steps - np.floor(steps) - 0.5) < 1e-9).any((3, 4), keepdims=True)
    back = np.round(steps) * table
    back = scipy.fft.idct(scipy.fft.idct(back, axis=-2, norm="ortho"), norm="ortho")
    image, ties = (
        part.transpose(0, 3, 1, 4, 2).reshape(8 * n, 8 * n, 3)
        for part in (back, np.broadcast_to(tie, back.shape))
    )
    return np.clip(np.float32(image / 255), 0, 1), ties


def released_map(
    u: NDArray[Any], limit: float, size: int
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Cell ends, map and mirrored map of one axis for released numbers u in [-limit, limit]."""
    step = grid.step_of(size, 10)
    ends = grid.cell_ends(torch.from_numpy(u)[None], size, step)
    near = grid.both_ends(ends, size, step)
    far = grid.mirrored(near, torch.tensor([True]))
    return ends[0].numpy(), near[0].numpy(), far[0].numpy()


def released_draw(u: dict[str, NDArray[Any]], limit: float, bottom: bool, right: bool) -> Stretches:
    x, y = (torch.from_numpy((u[axis] / limit + 1) / 2)[None] for axis in ("x", "y"))
    return Stretches(x=x, y=y, far=torch.tensor([[bottom, right]]))


@pytest.mark.parametrize("t", range(5))
def test_rdg_maps_at_299(golden: Golden, t: int) -> None:
    rdg = golden("rdg")
    limit = float(rdg[f"r{t}_limit"])
    for axis in ("x", "y"):
        u = rdg[f"r{t}_u{axis}"]
        assert len(u) == grid.count_of(299, 10)
        ends, near, far = released_map(u, limit, 299)
        if axis == "x":
            np.testing.assert_allclose(ends, rdg[f"r{t}_nodes_x"], rtol=0, atol=1e-9)
        np.testing.assert_array_equal(near, rdg[f"r{t}_{axis * 2}"])
        np.testing.assert_array_equal(far, rdg[f"r{t}_mirror_{axis * 2}"])


@pytest.mark.parametrize("size", [96, 32])
def test_rdg_images(golden: Golden, images: dict[str, Tensor], size: int) -> None:
    rdg = golden("rdg")
    u = {axis: rdg[f"g{size}_u{axis}"] for axis in ("x", "y")}
    limit = 0.25
    link = RandomDistortion(limit=limit, sampling="nearest")
    for axis in ("x", "y"):
        _, near, _ = released_map(u[axis], limit, size)
        np.testing.assert_array_equal(near, rdg[f"g{size}_{axis * 2}"])
    for name in [key for key in rdg if key.startswith(f"g{size}_out")]:
        bottom, right = name[-2] == "l", name[-1] == "r"
        got = link.forward(images[f"x{size}"], released_draw(u, limit, bottom, right))
        np.testing.assert_array_equal(as_grey(got), rdg[name])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_jpeg(golden: Golden, images: dict[str, Tensor], dtype: torch.dtype) -> None:
    jpeg = golden("jpeg")
    trunc = np.floor(as_image(images["x32_noise"]) * 255)
    np.testing.assert_array_equal(trunc, jpeg.pop("trunc_in_32_noise"))
    for name, want in jpeg.items():
        quality, _, size = name.removeprefix("jpeg").partition("_")
        x = images[f"x{size}"]
        # The noise lies on whole levels up to float64 rounding, which float32 would not keep.
        x = x if size.endswith("noise") else x.to(dtype)
        got = Jpeg(quality=int(quality), rounding="truncate").forward(x, None)
        np.testing.assert_array_equal(as_grey(got), want, err_msg=name)


def test_jpeg_in_tensors(golden: Golden, images: dict[str, Tensor]) -> None:
    for name, want in golden("jpeg").items():
        if name.startswith("trunc"):
            continue
        quality, _, size = name.removeprefix("jpeg").partition("_")
        grey = (images[f"x{size}"] * 255).floor()
        got = as_image(recoded(grey, int(quality), (2, 2), torch.round).round().clamp(0, 255))
        off = np.abs(got - want)
        assert off.mean() < 1.2, name
        assert off.max() <= 13, name  # a coefficient near a tie, one step off


def test_bit_depth(golden: Golden, images: dict[str, Tensor]) -> None:
    for name, want in golden("bitdepth").items():
        kind, _, rest = name.partition("_d")
        bits, _, size = rest.partition("_")
        x = images["x32_noise" if size == "float" else f"x{size}"]
        rounding = "floor" if kind == "p0_trunc" else "nearest"
        got = as_image(BitDepth(bits=int(bits), rounding=rounding).forward(x, None))
        if size == "float":
            assert_near(got, want, 1e-7)
        else:
            top = 255 if rounding == "floor" else 2 ** int(bits) - 1
            assert_near(got * top, want, 1e-6)


def seed_gradient(size: int) -> Tensor:
    i, j, c = np.indices((size, size, 3))
    return as_batch((((3 * i + 5 * j + 7 * c) % 11) - 5).astype(np.float64))


def pulled_back(link: Transform, name: str, x: Tensor, draw: Any, g: Tensor) -> NDArray[Any]:
    leaf = x.clone().requires_grad_()
    out = surrogate_of(link, name)(leaf, draw)
    return as_image(torch.autograd.grad(out, leaf, g)[0])


def test_adjoint_of_released_fd(golden: Golden, images: dict[str, Tensor]) -> None:
    got = pulled_back(RELEASED_FD, "straight-through", images["x99"], None, seed_gradient(99))
    np.testing.assert_array_equal(got, golden("adjoint")["fd_released_ste_99"])


@pytest.mark.parametrize(("corner", "far"), [("ul", False), ("lr", True)])
def test_adjoint_of_rdg(golden: Golden, images: dict[str, Tensor], corner: str, far: bool) -> None:
    rdg = golden("rdg")
    draw = released_draw({a: rdg[f"g32_u{a}"] for a in ("x", "y")}, 0.25, far, far)
    link = RandomDistortion(limit=0.25, sampling="nearest")
    got = pulled_back(link, "exact", images["x32"], draw, seed_gradient(32))
    np.testing.assert_array_equal(got, golden("adjoint")[f"rdg32_{corner}"])


@pytest.mark.parametrize("name", ["row", "col"])
def test_sources_through_fd_and_rdg(golden: Golden, name: str) -> None:
    """Which input row or column each output row or column of FD + RDG carries."""
    rdg = golden("rdg")
    limit = float(rdg["r0_limit"])
    draw = released_draw({a: rdg[f"r0_u{a}"] for a in ("x", "y")}, limit, False, False)
    chain = Chain((RELEASED_FD, RandomDistortion(limit=limit, sampling="nearest")))
    straight = [surrogate_of(chain.links[0], "straight-through"), chain.links[1].forward]
    ramp = torch.arange(299, dtype=torch.float64)
    x = (ramp[:, None] if name == "row" else ramp).expand(1, 1, 299, 299)
    for link, part in zip(straight, (None, draw), strict=True):
        x = link(x, part)
    got = x[0, 0, :, 0] if name == "row" else x[0, 0, 0]
    np.testing.assert_array_equal(got.numpy(), golden("adjoint")[f"fd_rdg299_{name}"])


def test_reflection_is_that_of_the_released_padding(images: dict[str, Tensor]) -> None:
    x = images["x99"]
    padded = reflect(x, (2, 2), (3, 3))[0].permute(1, 2, 0).numpy()
    np.testing.assert_array_equal(padded, np.pad(as_image(x), ((2, 3), (2, 3), (0, 0)), "reflect"))
