"""Random resizing and padding: recorded outputs of the originals, and what each form may draw."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from besiege.core.errors import BadSetting, UnknownName
from besiege.core.key import Key
from besiege.defenses.resize_pad import FORMS, Placement, ResizePad
from besiege.ops import resampling

Golden = Callable[[str], dict[str, NDArray[Any]]]


@pytest.fixture(scope="module")
def golden(shared: Path) -> Golden:
    def load(name: str) -> dict[str, NDArray[Any]]:
        with np.load(shared / "golden" / "p0" / f"{name}.npz") as file:
            return {key: file[key] for key in file.files}

    return load


@pytest.fixture(scope="module")
def x96(golden: Golden) -> Tensor:
    return torch.from_numpy(golden("inputs")["x96"] / 255).permute(2, 0, 1)[None]


@pytest.fixture(scope="module")
def x299(golden: Golden) -> Tensor:
    pixels = golden("inputs")["x99"].repeat(4, 0).repeat(4, 1)[:299, :299]
    return torch.from_numpy(pixels / 255).permute(2, 0, 1)[None]


def placed(size: int, left: int, top: int, flip: bool = False) -> Placement:
    return Placement(
        torch.tensor([[size, size]]), torch.tensor([[top, left]]), torch.tensor([flip])
    )


def as_image(batch: Tensor) -> NDArray[Any]:
    return batch[0].permute(1, 2, 0).numpy()


def near(got: NDArray[Any], want: NDArray[Any], within: float = 1e-6) -> None:
    assert got.shape == want.shape
    np.testing.assert_allclose(got, want, atol=within, rtol=0)


@pytest.mark.shared
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("t", range(3))
def test_bpda_at_299(golden: Golden, x299: Tensor, t: int, dtype: torch.dtype) -> None:
    """All of it to 1e-6, the outermost ring included, since it is mirrored as scikit-image does."""
    rand = golden("rand")
    draw = placed(*map(int, rand[f"p0_{t}_r_left_top"]))
    got = as_image(ResizePad(form="bpda").forward(x299.to(dtype), draw))
    near(got[100:164, 100:164], rand[f"p0_{t}_crop100_164"])
    near(got[::13, ::13], rand[f"p0_{t}_sub"])
    assert abs(got.mean(dtype=np.float64) - rand[f"p0_{t}_mean"]) < 1e-6


@pytest.mark.shared
@pytest.mark.parametrize("t", range(3))
def test_bpda_at_96(golden: Golden, x96: Tensor, t: int) -> None:
    rand = golden("rand")
    draw = placed(*map(int, rand[f"g{t}_r_left_top"]))
    padded = as_image(ResizePad(form="bpda", back=False).forward(x96, draw))
    assert padded.shape == (128, 128, 3)
    near(padded if t == 1 else padded[::9, ::9], rand[f"g{t}_padded"])
    near(as_image(ResizePad(form="bpda").forward(x96, draw)), rand[f"g{t}_out"])


@pytest.mark.shared
def test_aligned_corners_at_96(golden: Golden, x96: Tensor) -> None:
    """Athalye et al.'s arithmetic; 331 / 299 of 96 is the canvas of 106 that was recorded."""
    rand = golden("rand")
    size, left, top, canvas = map(int, rand["tf_r_left_top_size"])
    padded = as_image(
        ResizePad(form="obfuscated", back=False).forward(x96, placed(size, left, top))
    )
    assert len(padded) == canvas
    near(padded, rand["tf_padded"], 2e-7)  # not met by coordinates in float64
    near(padded[top : top + size, left : left + size][::5, ::5], rand["tf_rescaled"], 2e-7)


@pytest.mark.shared
def test_eot_at_96(golden: Golden, x96: Tensor) -> None:
    rand = golden("rand")
    draw = placed(111, left=5, top=9)
    padded = as_image(ResizePad(form="eot", back=False).forward(x96, draw))
    near(padded[::9, ::9], rand["tf_p0_padded"], 2e-7)
    near(as_image(ResizePad(form="eot").forward(x96, draw)), rand["tf_p0_net96"], 2e-7)


@pytest.mark.shared
def test_nearest_indices_of_xie(golden: Golden) -> None:
    ramp = torch.arange(96.0).expand(1, 1, 96, 96) / 96
    link = ResizePad(form="xie", back=False)
    got = link.forward(ramp, placed(105, left=1, top=0))[0, 0]
    np.testing.assert_array_equal(got[50, 1:] * 96, golden("rand")["xie_nearest_r105_idx"])
    assert got[:, 0].tolist() == [0.5] * 106


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("size", [32, 96, 224, 299])
def test_sizes_and_places_reach_their_ends(form: str, size: int) -> None:
    f = FORMS[form]
    low, end, canvas = (round(n * size / f.base) for n in (f.low, f.high + 1, f.canvas))
    draw = ResizePad(form=form).draw(Key.root(3, range(20000)), (3, size, size))
    r, start = draw.size, draw.start
    assert torch.equal(r[:, 0], r[:, 1])
    assert set(r[:, 0].tolist()) == set(range(low, max(end, low + 1)))
    room = canvas - r - int(not f.last)
    assert (start >= 0).all()
    assert (start <= room).all()
    for some in r[:, 0].unique()[-3:]:  # the sizes with the fewest places
        seen = start[r[:, 0] == some]
        places = int(canvas - some - int(not f.last)) + 1
        assert places > 20 or [set(seen[:, i].tolist()) for i in (0, 1)] == [{*range(places)}] * 2
    assert bool(draw.flip.any()) == (form == "xie")


def test_the_numbers_of_the_forms_at_299() -> None:
    """Ranges by the table of the ledger, both ends included."""
    want = {
        "paper": (299, 330, 400),
        "bpda": (299, 399, 400),
        "eot": (299, 399, 400),
        "xie": (310, 330, 331),
        "obfuscated": (299, 330, 331),
    }
    for form, (low, high, canvas) in want.items():
        link = ResizePad(form=form, back=False)
        r = link.draw(Key.root(0, range(20000)), (3, 299, 299)).size
        assert (int(r.min()), int(r.max())) == (low, high)
        assert link.out_shape((3, 299, 299)) == (3, canvas, canvas)


def test_draws_are_even() -> None:
    draw = ResizePad(form="cifar").draw(Key.root(1, range(9000)), (3, 32, 32))
    counts = draw.size[:, 0].bincount(minlength=33)[28:]
    assert (counts / 9000 - 1 / 5).abs().max() < 4 * (0.2 * 0.8 / 9000) ** 0.5
    corner = draw.start[draw.size[:, 0] == 28]
    shares = (corner[:, 0] * 9 + corner[:, 1]).bincount(minlength=81) / len(corner)
    assert (shares - 1 / 81).abs().max() < 5 * (1 / 81 / len(corner)) ** 0.5
    flips = ResizePad(form="xie").draw(Key.root(1, range(9000)), (3, 32, 32)).flip
    assert abs(float(flips.double().mean()) - 0.5) < 4 * 0.5 / 9000**0.5


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 1, 1), (1, 2, 5), (3, 40, 23)], ids=str)
def test_an_oblong_or_tiny_image_fits(form: str, shape: tuple[int, int, int]) -> None:
    key = Key.root(0, range(64))
    link = ResizePad(form=form, back=False)
    draw = link.draw(key, shape)
    canvas = torch.tensor(link.out_shape(shape)[1:])
    assert (draw.size >= 1).all()
    assert (draw.start + draw.size <= canvas).all()
    same = torch.full((64, *shape), 0.3)
    out = link.forward(same, draw)
    inside = (out - 0.3).abs() < 1e-6
    assert torch.equal(inside[:, 0].sum((1, 2)), draw.size.prod(1))


@pytest.mark.parametrize("form", ["paper", "cifar"])
def test_half_pixel_is_that_of_torch(form: str) -> None:
    x = Key.root(0, [0]).uniform(3, 40, 40, dtype=torch.float64)
    f = FORMS[form]
    canvas = (2 * f.canvas * 40 + f.base) // (2 * f.base)
    r, left, top = canvas - 5, 2, 4
    want = F.interpolate(x, (r, r), mode="bilinear")
    want = F.pad(want, (left, 5 - left, top, 5 - top), value=f.fill)
    draw = placed(r, left, top)
    torch.testing.assert_close(ResizePad(form=form, back=False).forward(x, draw), want)
    want = F.interpolate(want, (40, 40), mode="bilinear")
    torch.testing.assert_close(ResizePad(form=form).forward(x, draw), want)


@pytest.mark.parametrize("form", FORMS)
def test_the_way_back(form: str) -> None:
    """TensorFlow 1 reads i m / n in "eot" and "obfuscated"; elsewhere it is half-pixel."""
    x = Key.root(0, [0]).uniform(1, 64, 64, dtype=torch.float64)
    draw = placed(66, left=1, top=0)
    canvas = ResizePad(form=form, back=False).forward(x, draw)[0, 0].numpy()
    m = len(canvas)
    half = 0 if form in ("eot", "obfuscated") else 0.5
    at = (np.arange(64) + half) * m / 64 - half
    want = np.stack([np.interp(at, np.arange(m), row) for row in canvas])
    want = np.stack([np.interp(at, np.arange(m), column) for column in want.T]).T
    near(ResizePad(form=form).forward(x, draw)[0, 0].numpy(), want, 1e-5)


def test_rows_of_one_batch_have_their_own_size() -> None:
    key = Key.root(5, range(6))
    x = key.fold("image").uniform(3, 32, 32)
    link = ResizePad(form="bpda")
    draw = link.draw(key.fold("draw"), (3, 32, 32))
    assert len(draw.size[:, 0].unique()) > 2
    whole = link.forward(x, draw)
    for i in range(6):
        one = link.forward(x[i : i + 1], Placement(*(part[i : i + 1] for part in draw)))
        assert torch.equal(one[0], whole[i])


def test_the_flip_comes_first() -> None:
    x = Key.root(0, [0]).uniform(1, 32, 32)
    link = ResizePad(form="xie")
    got = link.forward(x, placed(33, left=0, top=1, flip=True))
    assert torch.equal(got, link.forward(x.flip(-1), placed(33, left=0, top=1)))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("back", [True, False])
def test_the_backward_pass_is_the_adjoint(form: str, back: bool) -> None:
    """<A x, y> = <x, A^T y>, A being forward without the constant of its canvas."""
    key, shape = Key.root(2, range(3)), (2, 21, 17)
    link = ResizePad(form=form, back=back)
    draw = link.draw(key.fold("draw"), shape)
    x = key.fold("x").uniform(*shape, dtype=torch.float64).requires_grad_()
    y = key.fold("y").uniform(*link.out_shape(shape), dtype=torch.float64)
    out = link.surrogates["exact"](x, draw)
    (pulled,) = torch.autograd.grad(out, x, y)
    linear = out - link.forward(torch.zeros_like(x), draw)
    torch.testing.assert_close((linear * y).flatten(1).sum(1), (x * pulled).flatten(1).sum(1))


def test_the_canvas_is_of_the_fill() -> None:
    x, draw = torch.full((1, 1, 32, 32), 0.2), placed(33, left=0, top=0)
    for link, want in (
        (ResizePad(back=False), 0.0),
        (ResizePad(form="eot", back=False), 0.5),
        (ResizePad(fill=1, back=False), 1.0),
    ):
        assert link.forward(x, draw)[0, 0, -1].unique().tolist() == [want]


def test_identity_is_a_surrogate_only_of_what_keeps_the_shape() -> None:
    assert list(ResizePad().surrogates) == ["exact", "identity"]
    assert list(ResizePad(back=False).surrogates) == ["exact"]


def test_bad_settings() -> None:
    with pytest.raises(UnknownName, match='Did you mean "xie"'):
        ResizePad(form="xi")
    with pytest.raises(BadSetting, match=r"fill is a grey in \[0, 1\], got 2"):
        ResizePad(fill=2)
    with pytest.raises(BadSetting, match=r'form="eot" is at least 399, its largest size, got 331'):
        ResizePad(form="eot", canvas=331)


def test_a_canvas_of_another_size() -> None:
    """As that of a form if it is given, larger ones scale, and the smallest fits exactly."""
    x, key = Key.root(1, range(6)).uniform(3, 64, 64), Key.root(0, range(6))
    usual, given = ResizePad(), ResizePad(canvas=400)
    assert torch.equal(
        usual.forward(x, usual.draw(key, (3, 64, 64))),
        given.forward(x, given.draw(key, (3, 64, 64))),
    )
    wide = ResizePad(canvas=598, back=False)
    assert wide.out_shape((3, 64, 32)) == (3, 128, 64)
    assert wide.forward(x, wide.draw(key, (3, 64, 64))).shape == (6, 3, 128, 128)
    tight = ResizePad(canvas=330)
    draw = tight.draw(Key.root(0, range(999)), (3, 299, 299))
    assert int(draw.size.max()) == 330
    assert bool((draw.start <= 330 - draw.size).all())


@pytest.mark.parametrize("rule", resampling.RULES)
@pytest.mark.parametrize("size", [1, 2, 7, 32])
def test_the_same_size_is_the_identity_under_every_rule(rule: str, size: int) -> None:
    got = resampling.resized(size, size, resampling.RULES[rule], torch.zeros(2))
    assert torch.equal(got, torch.arange(size).double().expand(2, -1))
