"""Cropping and rescaling: Pillow as the oracle, the released boxes, and where parts may lie."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from besiege.core.errors import BadSetting, UnknownName
from besiege.core.key import Key
from besiege.defenses.catalog import parse_chain
from besiege.defenses.crop import Crop
from besiege.defenses.defense import VOTES, Defense
from besiege.laws.problems import linear_classifier


def pixels_of(*shape: int) -> NDArray[np.uint8]:
    return Key.root(5, [0]).integers(256, *shape)[0].to(torch.uint8).numpy()


def as_batch(pixels: NDArray[np.uint8], dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].to(dtype) / 255


def by_pillow(pixels: NDArray[np.uint8], y: int, x: int, h: int, w: int) -> NDArray[np.uint8]:
    height, width = pixels.shape[:2]
    part = Image.fromarray(pixels).crop((x, y, x + w, y + h))
    return np.asarray(part.resize((width, height), Image.Resampling.BILINEAR))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("height", "width"), [(224, 224), (32, 96), (33, 17)])
def test_released_is_pillow_to_the_bit(height: int, width: int, dtype: torch.dtype) -> None:
    pixels, key = pixels_of(height, width, 3), Key.root(0, range(6))
    link = Crop(form="released")
    draw = link.draw(key, (3, height, width))
    x = as_batch(pixels, dtype).expand(6, -1, -1, -1)
    got = (link.forward(x, draw) * 255).round().permute(0, 2, 3, 1).numpy()
    for one, (top, left) in zip(got, draw.tolist(), strict=True):
        want = by_pillow(pixels, top, left, link.side(height), link.side(width))
        np.testing.assert_array_equal(one, want)


def test_paper_is_pillow_on_floats() -> None:
    values = Key.root(1, [0]).uniform(40, 53)[0]
    link = Crop(share=0.55)
    got = link.forward(values[None, None], torch.tensor([[3, 20]]))[0, 0]
    part = Image.fromarray(values.numpy()).crop((20, 3, 20 + link.side(53), 3 + link.side(40)))
    want = np.asarray(part.resize((53, 40), Image.Resampling.BILINEAR))
    np.testing.assert_allclose(got, want, atol=1e-6)


def test_released_truncates_first() -> None:
    x = torch.full((1, 1, 4, 4), 100.9 / 255)
    link = Crop(share=1.0, place=4, form="released")
    assert (link.forward(x, None) * 255).round().unique().tolist() == [100]


@pytest.mark.shared
@pytest.mark.parametrize("size", [224, 299, 96, 32])
def test_released_boxes_are_possible_ones(shared: Path, size: int) -> None:
    """The recorded boxes have our side, lie among our places and come out as Pillow makes them."""
    golden = released(shared)[f"crop_{size}"]
    link = Crop(share=golden["frac"], form="released")
    boxes = torch.tensor(golden["boxes_y_x_h_w"])
    assert boxes[:, 2:].unique().tolist() == [golden["h2"]] == [link.side(size)]
    ours = link.draw(Key.root(0, range(20000)), (3, size, size))
    assert ours.min() == 0
    assert ours.max() == size - link.side(size)
    assert boxes[:, :2].max() <= ours.max()
    pixels = pixels_of(size, size, 3)
    few = boxes[:3]
    x = as_batch(pixels).expand(3, -1, -1, -1)
    got = (link.forward(x, few[:, :2]) * 255).round().permute(0, 2, 3, 1).numpy()
    for one, box in zip(got, few.tolist(), strict=True):
        np.testing.assert_array_equal(one, by_pillow(pixels, *box))


def test_fixed_places_are_the_sliding_ones() -> None:
    """The start, the middle and the end of the room of each axis, row by row."""
    x, link = Key.root(3, [0]).uniform(3, 21, 30), Crop(share=0.5)
    rooms = 21 - link.side(21), 30 - link.side(30)
    for i in range(9):
        corner = [(0, room // 2, room)[at] for at, room in zip(divmod(i, 3), rooms, strict=True)]
        got = Crop(share=0.5, place=i).forward(x, None)
        assert torch.equal(got, link.forward(x, torch.tensor([corner])))


@pytest.mark.shared
def test_sliding_places(shared: Path) -> None:
    want = released(shared)["sliding_224"]
    drawn = Crop(place="sliding").draw(Key.root(0, range(500)), (3, 224, 224))
    assert sorted({(y, x) for y, x in drawn.tolist()}) == [tuple(place) for place in want]
    x = Key.root(3, [0]).uniform(3, 224, 224)
    for i, place in enumerate(want):
        assert Crop(place=i).draw(Key.root(0, [0]), (3, 224, 224)) is None
        got = Crop(place=i).forward(x, None)
        assert torch.equal(got, Crop().forward(x, torch.tensor([place])))


def released(shared: Path) -> dict[str, Any]:
    text = (shared / "golden" / "p1p3p4" / "quilting_crop.json").read_text()
    return json.loads(text)  # type: ignore[no-any-return]


def test_places_are_even() -> None:
    draw = Crop(share=0.5).draw(Key.root(2, range(20000)), (1, 8, 6))
    counts = (draw[:, 0] * 4 + draw[:, 1]).bincount(minlength=20) / 20000
    assert (counts - 1 / 20).abs().max() < 4 * (0.0475 / 20000) ** 0.5


def test_the_backward_pass_is_the_adjoint() -> None:
    key, link = Key.root(2, range(3)), Crop(share=0.6)
    draw = link.draw(key.fold("draw"), (2, 21, 17))
    x = key.fold("x").uniform(2, 21, 17, dtype=torch.float64).requires_grad_()
    y = key.fold("y").uniform(2, 21, 17, dtype=torch.float64)
    out = link.surrogates["exact"](x, draw)
    (pulled,) = torch.autograd.grad(out, x, y)
    torch.testing.assert_close((out * y).flatten(1).sum(1), (x * pulled).flatten(1).sum(1))


def test_the_whole_part_is_the_image() -> None:
    x = Key.root(0, range(2)).uniform(3, 9, 11)
    link = Crop(share=1.0)
    assert torch.equal(link.forward(x, link.draw(Key.root(1, range(2)), (3, 9, 11))), x)


def test_the_papers_ensemble() -> None:
    """The mean logits of n crops, each drawn by its own fold."""
    chain, classifier = parse_chain("crop:share=0.5"), linear_classifier()
    defense = Defense(chain, classifier, VOTES.build("mean:draws=30,of=logits"))
    key = Key.root(0, range(2))
    x = key.fold("image").uniform(1, 4, 4)
    each = [
        classifier(chain.forward(x, chain.draw(key.fold("vote", i), (1, 4, 4)))) for i in range(30)
    ]
    torch.testing.assert_close(defense.logits(x, key), torch.stack(each).mean(0))


def crop_and_resize(
    image: NDArray[np.float64], y: float, x: float, part: tuple[float, float], n: tuple[int, int]
) -> NDArray[np.float64]:
    """TensorFlow's, pixel by pixel: image (H, W), the box's corner and size in shares of it."""
    height, width = image.shape
    out = np.empty(n)
    for i in range(n[0]):
        row = y * (height - 1) + i * part[0] * (height - 1) / (n[0] - 1)
        top, low = int(np.floor(row)), int(np.ceil(row))
        for j in range(n[1]):
            column = x * (width - 1) + j * part[1] * (width - 1) / (n[1] - 1)
            left, right = int(np.floor(column)), int(np.ceil(column))
            above = image[top, left] + (image[top, right] - image[top, left]) * (column - left)
            below = image[low, left] + (image[low, right] - image[low, left]) * (column - left)
            out[i, j] = above + (below - above) * (row - top)
    return out


@pytest.mark.parametrize(("height", "width", "part"), [(299, 299, (90, 90)), (33, 48, (10, 14))])
def test_obfuscated_is_crop_and_resize(height: int, width: int, part: tuple[int, int]) -> None:
    link, key = Crop(form="obfuscated"), Key.root(4, range(3))
    draw = link.draw(key, (1, height, width))
    assert draw is not None
    x = key.fold("x").uniform(1, height, width, dtype=torch.float64)
    got = link.forward(x, draw)
    assert tuple(got.shape) == (3, 1, *part)
    assert tuple(got.shape[1:]) == link.out_shape((1, height, width))
    shares = part[0] / height, part[1] / width
    for image, out, way in zip(x[:, 0].numpy(), got[:, 0].numpy(), draw.numpy(), strict=True):
        start = way * (1 - np.array(shares))  # U[0, (299 - 90) / 299)
        np.testing.assert_allclose(
            out, crop_and_resize(image, start[0], start[1], shares, part), atol=1e-12
        )


def test_obfuscated_reads_beyond_whole_pixels() -> None:
    """On a ramp the pixels are 298/299 x 90/89 apart; the start is even over all it can be."""
    ramp = torch.arange(299.0, dtype=torch.float64).expand(1, 1, 299, 299) / 298
    link = Crop(form="obfuscated", place=4)
    row = link.forward(ramp, None)[0, 0, 0] * 298
    torch.testing.assert_close(row.diff(), torch.full((89,), 298 / 299 * 90 / 89).double())
    assert float(row.mean()) == pytest.approx(149)
    draw = Crop(form="obfuscated").draw(Key.root(2, range(20000)), (1, 299, 299))
    assert draw is not None
    assert abs(float(draw.mean()) - 0.5) < 4 * (1 / 12 / 40000) ** 0.5
    assert "identity" not in link.surrogates
    three = Crop(form="obfuscated", place="sliding").draw(Key.root(2, range(50)), (1, 299, 299))
    assert three is not None
    assert three.unique().tolist() == [0, 0.5, 1]


def test_bad_settings() -> None:
    with pytest.raises(BadSetting, match=r"lies in \(0, 1\], got 90"):
        Crop(share=90)
    with pytest.raises(UnknownName, match='Unknown place in transform crop: "9"'):
        Crop(place=9)
    with pytest.raises(UnknownName, match='Did you mean "released"'):
        Crop(form="release")
