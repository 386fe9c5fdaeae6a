"""Foreign functions: keyed, put back, checked."""

import random  # noqa: TID251 - the generators that foreign functions use
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from torch import Tensor, nn

from besiege.core.errors import BadImages, BadSetting, BesiegeError, UnknownName
from besiege.core.key import Key
from besiege.defenses.bit_depth import BitDepth
from besiege.defenses.catalog import parse_chain
from besiege.defenses.opaque import Opaque
from besiege.defenses.transform import Chain, Graft

KEY = Key.root(0, range(5))
X = KEY.fold("image").uniform(3, 6, 4)


def shaken(image: Tensor) -> Tensor:
    """Noise from all three global generators."""
    image += 0.1 * torch.rand_like(image)  # noqa: TID251
    image *= random.random()
    return (image * np.random.uniform()).clamp(0, 1)  # noqa: NPY002, TID251


def states() -> list[Any]:
    numpy = np.random.get_state()  # noqa: NPY002, TID251
    return [random.getstate(), numpy[1].tolist(), numpy[2], torch.get_rng_state().tolist()]


def test_rows_do_not_depend_on_the_batch() -> None:
    link = Opaque(shaken)
    draw = link.draw(KEY, (3, 6, 4))
    together = link.forward(X, draw)
    assert not torch.equal(together, link.forward(X, link.draw(KEY.fold(1), (3, 6, 4))))
    some = torch.tensor([3, 0])
    assert torch.equal(link.forward(X[some], draw[some]), together[some])
    assert torch.equal(link.forward(X, draw), together)


def test_generators_are_put_back_even_after_an_error() -> None:
    def fails(image: Tensor) -> Tensor:
        shaken(image)
        raise ValueError("on purpose")

    before = states()
    with pytest.raises(BadSetting, match="on purpose"):
        Opaque(fails).forward(X, Opaque(fails).draw(KEY, (3, 6, 4)))
    assert states() == before
    Opaque(shaken).forward(X, Opaque(shaken).draw(KEY, (3, 6, 4)))
    assert states() == before


def test_the_input_is_out_of_reach() -> None:
    before = X.clone()
    Opaque(shaken).forward(X, Opaque(shaken).draw(KEY, (3, 6, 4)))
    assert torch.equal(X, before)


def test_a_function_that_draws_nothing() -> None:
    link = Opaque(lambda image: 1 - image, is_random=False)
    assert link.draw(KEY, (3, 6, 4)) is None
    assert torch.equal(link.forward(X, None), 1 - X)


@pytest.mark.parametrize(
    ("layout", "kind", "shape"),
    [
        ("tensor", Tensor, (3, 6, 4)),
        ("batch", Tensor, (1, 3, 6, 4)),
        ("array", np.ndarray, (6, 4, 3)),
        ("uint8", np.ndarray, (6, 4, 3)),
        ("pillow", Image.Image, (4, 6)),
    ],
)
def test_layouts(layout: str, kind: type, shape: tuple[int, ...]) -> None:
    def same(image: Any) -> Any:
        assert isinstance(image, kind)
        assert (image.size if kind is Image.Image else tuple(image.shape)) == shape
        return image

    link = Opaque(same, layout=layout)
    y = link.forward(X, link.draw(KEY, (3, 6, 4)))
    eight_bit = layout in ("uint8", "pillow")
    assert torch.equal(y, (X * 255).round() / 255 if eight_bit else X)
    assert y.dtype == X.dtype


def test_one_channel() -> None:
    x = X[:, :1]
    blurred = Opaque(lambda p: p.filter(ImageFilter.BLUR), layout="pillow", is_random=False)
    assert blurred.forward(x, None).shape == x.shape
    flat = Opaque(lambda a: a[..., 0], layout="array", is_random=False)
    assert torch.equal(flat.forward(x, None), x)


def test_a_module_that_changes_the_shape() -> None:
    link = Opaque(nn.AvgPool2d(2), layout="batch", is_random=False, shape=(3, 3, 2))
    assert link.out_shape((3, 6, 4)) == (3, 3, 2)
    y = Chain((link,)).forward(X, None)
    torch.testing.assert_close(y, nn.functional.avg_pool2d(X, 2))


def test_its_surrogate_is_the_identity() -> None:
    leaf = X.clone().requires_grad_()
    link = Opaque(lambda image: image.round(), is_random=False)
    out = Graft(link).forward(leaf, None)
    assert torch.equal(out, X.round())
    assert torch.equal(torch.autograd.grad(out.sum(), leaf)[0], torch.ones_like(X))


@pytest.mark.parametrize(
    ("f", "layout", "says"),
    [
        (lambda x: x[:, 1:], "tensor", "pass shape=(3, 5, 4)"),
        (lambda x: x * 255, "tensor", "scale them in f"),
        (lambda x: x / 0, "tensor", "not finite"),
        (lambda x: x.numpy(), "tensor", "a torch tensor was expected"),
        (lambda x: 3.0, "array", "(H, W, C) was expected"),
    ],
)
def test_bad_answers(f: Callable[[Any], Any], layout: str, says: str) -> None:
    with pytest.raises(BadImages) as caught:
        Opaque(f, layout=layout, is_random=False).forward(X, None)
    assert says in str(caught.value).replace("Pass", "pass")


def test_bad_settings() -> None:
    with pytest.raises(UnknownName, match="Did you mean"):
        Opaque(shaken, layout="uint")
    with pytest.raises(BadSetting, match="not int"):
        Opaque(3)  # type: ignore[arg-type]
    with pytest.raises(BadImages, match="1 or 3 channels"):
        Opaque(shaken, layout="pillow", is_random=False).forward(X[:, :2], None)


def test_a_function_of_a_batch_is_called_once() -> None:
    sizes = []

    def half(images: Tensor) -> Tensor:
        sizes.append(len(images))
        return images / 2

    y = Opaque(half, layout="batch", is_random=False).forward(X, None)
    assert torch.equal(y, X / 2)
    assert sizes == [len(X), 1]


def test_a_function_that_mixes_its_batch_is_refused() -> None:
    link = Opaque(lambda images: images - images.mean(), layout="batch", is_random=False)
    with pytest.raises(BadImages, match="depends on the others in its batch"):
        link.forward(X, None)


def test_values_a_little_outside_are_a_defense_of_its_own_right() -> None:
    y = Opaque(lambda image: image * 1.5 - 0.2, is_random=False).forward(X, None)
    assert float(y.min()) < 0 or float(y.max()) > 1


def test_the_gradient_of_a_differentiable_function_is_its_own() -> None:
    def dimmed(image: Tensor) -> Tensor:
        return image * torch.rand(1)  # noqa: TID251

    link = Opaque(dimmed, differentiable=True)
    draw = link.draw(KEY, (3, 6, 4))
    x = X.clone().requires_grad_()
    y = Graft(link).forward(x, draw)
    y.sum().backward()
    factor = (y / x).detach()
    assert x.grad is not None
    assert torch.allclose(x.grad, factor, atol=1e-5)
    assert len(factor[:, 0, 0, 0].unique()) == len(X)
    assert next(iter(link.surrogates)) == "exact"


def test_a_change_of_size_is_seen_through_a_resize() -> None:
    link = Opaque(lambda image: image[:, ::2, ::2], is_random=False, shape=(3, 3, 2))
    x = X.clone().requires_grad_()
    y = Graft(link).forward(x, None)
    assert torch.equal(y, X[:, :, ::2, ::2])
    y.sum().backward()
    assert x.grad is not None
    assert abs(float(x.grad.sum()) - y.numel()) < 1e-3


def test_gradients_pass_through_tensors_only() -> None:
    with pytest.raises(BadSetting, match="gradients pass through"):
        Opaque(lambda image: image, layout="uint8", differentiable=True)


OWN = """
import numpy as np
import besiege

def make_defense(levels=4):
    def coarse(image):
        return (image // (256 // levels) * (256 // levels)).astype(np.uint8)
    return coarse

def inverted(image):
    return 1 - image

def make_transform():
    return besiege.parse_chain("bits:bits=1").links[0]

class Needs:
    def __init__(self, something):
        pass

three = 3

def fails():
    raise RuntimeError("no luck")
"""


@pytest.fixture
def own(tmp_path: Path) -> Path:
    path = tmp_path / "own.py"
    path.write_text(OWN)
    return path


def test_a_file_of_ones_own_is_a_link(own: Path) -> None:
    chain = parse_chain(f"{own}:make_defense:layout=uint8,levels=2 + {own}:inverted + bits:bits=1")
    assert [link.name for link in chain.links] == ["make_defense", "inverted", "bits"]
    key = KEY
    y = chain.forward(X, chain.draw(key, (3, 6, 4)))
    assert torch.equal(y, 1 - ((X * 255).round() >= 128).float())
    assert isinstance(parse_chain(f"{own}:make_transform").links[0], BitDepth)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("make_defence", 'Did you mean "make_defense"?'),
        ("Needs", "a function or module that takes an image"),
        ("three", "a function or module that takes an image"),
        ("fails", "fails() in"),
        ("make_defense:level=3", "level"),
        ("make_transform:layout=uint8", "settings of plain functions only"),
    ],
)
def test_a_bad_object_in_a_file_is_named(own: Path, name: str, says: str) -> None:
    with pytest.raises(BesiegeError, match=re.escape(says)):
        parse_chain(f"{own}:{name}")


def test_a_missing_or_broken_file_is_named(own: Path) -> None:
    with pytest.raises(BadSetting, match=r"Did you mean .*own\.py"):
        parse_chain(f"{own.with_name('owm.py')}:inverted")
    own.write_text("1 / 0")
    with pytest.raises(BadSetting, match="does not run: ZeroDivisionError"):
        parse_chain(f"{own}:inverted")
