"""Pixel deflection: recorded moves and outputs, the loop that it resolves, and where it looks."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor, nn

from besiege.core.errors import BadSetting, UnknownName
from besiege.core.key import Key
from besiege.defenses.catalog import parse_chain
from besiege.defenses.defense import Defense
from besiege.defenses.deflection import Deflection
from besiege.defenses.transform import Chain, Frozen, Graft, Named
from besiege.models.activation import activation_map
from besiege.models.classifier import Classifier
from besiege.ops.moves import moved

RELEASED = Deflection(form="released", map=False, sigma=0)


def golden(shared: Path) -> dict[str, NDArray[Any]]:
    with np.load(shared / "golden" / "p0" / "pixel_deflection.npz") as file:
        found = {key: file[key] for key in file.files}
    with np.load(shared / "golden" / "p0" / "inputs.npz") as file:
        return {**found, "x96": file["x96"]}


def drawn(moves: NDArray[Any], size: int, window: int) -> Tensor:
    """The uniform numbers (1, n, 3) that stand for moves (channel, row, column, offsets)."""
    _, row, column, down, right = moves.astype(np.int64).T
    parts = [(row * size + column + 0.5) / size**2]
    for at, offset in ((row, down), (column, right)):
        low, high = np.maximum(at - window, 1), np.minimum(at + window, size - 1)
        parts.append((at + offset - low + 0.5) / (high - low + 1))
    return torch.from_numpy(np.stack(parts, 1))[None]


@pytest.mark.shared
@pytest.mark.parametrize("name", ["pd", "p0"])
def test_recorded_moves(shared: Path, name: str) -> None:
    recorded = golden(shared)
    moves = recorded[f"{name}_moves_cxyab"]
    assert (moves[:, 0] == np.arange(len(moves)) % 3).all()
    link = replace(RELEASED, deflections=len(moves) - 1)  # rounded up to whole turns
    assert link.draw(Key.root(0, [0]), (3, 96, 96)).shape == (1, len(moves), 3)
    x = torch.from_numpy(recorded["x96"].astype(np.float64)).permute(2, 0, 1)[None]
    got = link.forward(x, drawn(moves, 96, 10))[0].permute(1, 2, 0)
    np.testing.assert_array_equal(got, recorded[f"{name}_out_96"])


@pytest.mark.shared
def test_recorded_moves_and_denoising(shared: Path) -> None:
    recorded = golden(shared)
    link = replace(RELEASED, deflections=200, sigma=0.04)
    x = torch.from_numpy(recorded["x96"] / 255).permute(2, 0, 1)[None].float()
    got = link.forward(x, drawn(recorded["pd_moves_cxyab"], 96, 10))[0].permute(1, 2, 0)
    np.testing.assert_allclose(got, recorded["wav_sk014"], atol=1e-5)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 60), st.integers(1, 12), st.integers(0, 10**6))
def test_moves_at_once_are_moves_in_order(count: int, size: int, seed: int) -> None:
    """Few places and many moves, so that chains and double targets abound."""
    key = Key.root(seed, range(2))
    target, source = (key.fold(name).integers(size, count) for name in ("to", "from"))
    places = torch.arange(size).repeat(2, 1)
    got = moved(places[:, None], target, source)[:, 0]
    for i in range(2):
        for to, origin in zip(target[i], source[i], strict=True):
            places[i, to] = places[i, origin].clone()
    assert torch.equal(got, places)


@pytest.mark.parametrize("form", ["paper", "released"])
def test_where_pixels_come_from(form: str) -> None:
    """Within the window, all of it; the released form never reads row or column 0."""
    link = Deflection(deflections=1, window=2, form=form, map=False, sigma=0)
    n, height, width = 20000, 6, 7
    index = torch.arange(height * width).double().reshape(1, 1, height, width).expand(n, -1, -1, -1)
    draw = link.draw(Key.root(0, range(n)), (1, height, width))
    out = link.forward(index, draw)
    moved = (out != index).flatten(1)
    assert moved.sum(1).max() == 1
    at, source = moved.nonzero()[:, 1], out.flatten(1)[moved].long()
    rows, columns = (source // width - at // width).abs(), (source % width - at % width).abs()
    first = int(form == "released")
    assert int(rows.max()) == int(columns.max()) == 2
    assert int((source // width).min()) == int((source % width).min()) == first
    middle = source[at == 3 * width + 3].bincount(minlength=height * width)
    assert int((middle > 0).sum()) == 24  # all but itself
    stayed = 1 - len(at) / n
    assert 1 / 25 < stayed < 1 / 6


def test_the_paper_moves_all_channels() -> None:
    x = Key.root(1, [0]).uniform(3, 20, 20)
    link = Deflection(deflections=50, map=False, sigma=0)
    same = link.forward(x, link.draw(Key.root(0, [0]), (3, 20, 20))) == x
    assert torch.equal(same[:, 0], same[:, 1])
    assert 300 < int(same[:, 0].sum()) < 400
    same = RELEASED.forward(x, RELEASED.draw(Key.root(0, [0]), (3, 20, 20))) == x
    assert not torch.equal(same[:, 0], same[:, 1])


class LeftIsBright(nn.Module):
    """Looks where the image is bright."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = nn.AvgPool2d(4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.pool(x).mean((1, 2, 3))
        return torch.stack([8 * y, -y], 1)


def guarded() -> tuple[Classifier, Tensor]:
    x = 0.02 * Key.root(0, range(40)).uniform(3, 16, 16)
    x[..., :8] += 0.9
    return Classifier(LeftIsBright().eval(), 2), x


def test_the_map_keeps_moves_away() -> None:
    """Position weights are 1 - map: none where it is 1, as often as by rejection elsewhere."""
    classifier, x = guarded()
    link = Deflection(deflections=100, sigma=0).beside(classifier)
    draw = link.draw(Key.root(1, range(40)), (3, 16, 16))
    row, column = link._positions(x, draw[..., 0])
    free = 1 - activation_map(classifier, x).double()
    want = (free / free.sum((1, 2), keepdim=True)).mean(0)
    got = (row * 16 + column).flatten().bincount(minlength=256) / (row.numel())
    assert (column < 6).double().mean() < 0.02
    assert (got - want.flatten()).abs().max() < 5 * (float(want.max()) / row.numel()) ** 0.5


def test_a_defense_shows_links_their_classifier() -> None:
    classifier, x = guarded()
    inner = Deflection(deflections=9)
    wrapped = Chain((Named(Graft(Frozen(Chain((inner,)))), "mine"), *parse_chain("bits").links))
    link = Defense(wrapped, classifier).chain.links[0].link.link.link.links[0]
    assert link.classifier is classifier
    assert link == inner  # settings and representation are as before
    assert repr(link) == repr(inner)
    other = Classifier(LeftIsBright().eval(), 2)
    again = replace(Defense(wrapped, classifier), classifier=other)
    assert again.chain.links[0].link.link.link.links[0].classifier is other
    uniform = Defense(Chain((replace(inner, map=False),)), classifier)
    assert uniform.chain.links[0].classifier is None
    with torch.inference_mode():
        assert Defense(Chain((inner,)), classifier).logits(x, Key.root(0, range(40))).shape == (
            40,
            2,
        )


def test_the_gradient_goes_to_where_values_came_from() -> None:
    """Also with a map, which is constant to it."""
    classifier, x = guarded()
    x = x.double().requires_grad_()
    link = replace(Deflection(sigma=0, deflections=300).beside(classifier.double()), window=3)
    draw = link.draw(Key.root(1, range(40)), (3, 16, 16))
    out = Graft(link, "exact").forward(x, draw)
    weight = Key.root(2, range(40)).uniform(3, 16, 16, dtype=torch.float64)
    (slope,) = torch.autograd.grad((out * weight).sum(), x)
    torch.testing.assert_close((slope * x).sum((1, 2, 3)), (weight * out).sum((1, 2, 3)))
    (moves,) = torch.autograd.grad((Graft(link, "moves").forward(x, draw) * weight).sum(), x)
    assert torch.equal(moves, slope)


def test_exact_is_the_gradient_of_the_whole() -> None:
    link = Deflection(deflections=20, map=False, sigma=0.1)
    draw = link.draw(Key.root(0, [0]), (3, 8, 9))
    x = (0.3 + 0.4 * Key.root(3, [0]).uniform(3, 8, 9, dtype=torch.float64)).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: link.surrogates["exact"](x, draw), x, fast_mode=True)


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 1, 9), (2, 7, 1)])
@pytest.mark.parametrize("form", ["paper", "released"])
def test_tiny_images(shape: tuple[int, int, int], form: str) -> None:
    x = Key.root(0, range(2)).uniform(*shape)
    link = Deflection(form=form)
    out = link.forward(x, link.draw(Key.root(1, range(2)), shape))
    assert out.shape == x.shape
    assert out.isfinite().all()


def test_bad_settings() -> None:
    with pytest.raises(BadSetting, match="window is a whole number above 0, got 0"):
        Deflection(window=0)
    with pytest.raises(BadSetting, match=r"deflections is a whole number above 0, got 2.5"):
        Deflection(deflections=2.5)
    with pytest.raises(BadSetting, match="sigma is at least 0, got nan"):
        Deflection(sigma=float("nan"))
    with pytest.raises(UnknownName, match='Did you mean "rescaled"'):
        Deflection(convention="rescale")
    with pytest.raises(UnknownName, match='Unknown form in transform deflection: "p0"'):
        Deflection(form="p0")
