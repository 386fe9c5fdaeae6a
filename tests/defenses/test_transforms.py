"""What every transform of the catalog keeps, and chains written as text."""

from typing import Any

import pytest
import torch

from besiege.core import batch
from besiege.core.batch import take
from besiege.core.errors import BadImages, BadSetting, UnknownName
from besiege.core.key import Key
from besiege.defenses.catalog import TRANSFORMS, parse_chain
from besiege.defenses.transform import Graft, Named, Shape, Transform

CASES = {
    spec: (name, params)
    for name, entry in TRANSFORMS.items()
    for spec, params in zip(entry.specs, entry.cases, strict=True)
}
SHAPES: list[Shape] = [(1, 32, 32), (3, 1, 1), (3, 2, 3), (1, 7, 6), (3, 33, 28), (3, 48, 64)]


@pytest.fixture(params=CASES.values(), ids=CASES)
def link(request: pytest.FixtureRequest) -> Transform:
    name, params = request.param
    return TRANSFORMS[name].factory(**params)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_images_in_images_out(link: Transform, shape: Shape, dtype: torch.dtype) -> None:
    key = Key.root(0, range(4))
    x = key.fold("image").uniform(*shape, dtype=dtype)
    before = x.clone()
    if link.name == "quilt" and min(shape[1:]) < 6:
        with pytest.raises(BadImages, match="smaller than"):
            link.forward(x, link.draw(key, shape))
        return
    y = link.forward(x, link.draw(key, shape))
    assert torch.equal(x, before)
    assert y.dtype == dtype
    assert tuple(y.shape[1:]) == link.out_shape(shape)
    assert y.min() >= 0
    assert y.max() <= 1


@pytest.mark.parametrize("shape", [(1, 32, 32), (3, 45, 31)], ids=str)
def test_rows_have_the_same_bits_in_any_batch(link: Transform, shape: Shape) -> None:
    key = Key.root(0, range(8))
    # Whole grey levels, so that quantisers meet ties.
    x = (key.fold("image").uniform(*shape) * 255).round() / 255
    together = link.forward(x, link.draw(key, shape))
    for rows in ([3], [5, 0, 2], [7, 6, 5, 4, 3, 2, 1, 0]):
        some = torch.tensor(rows)
        draw = link.draw(key[some], shape)
        assert_equal_draws(draw, take(link.draw(key, shape), some))
        assert torch.equal(link.forward(x[some], draw), together[some])


def assert_equal_draws(one: Any, other: Any) -> None:
    assert (one is None) == (other is None)
    if one is None:
        return
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
        return
    for a, b in zip(one, other, strict=True):
        assert_equal_draws(a, b)


def test_an_empty_batch_stays_empty(link: Transform) -> None:
    key = Key.root(0, [])
    y = link.forward(torch.zeros(0, 3, 9, 9), link.draw(key, (3, 9, 9)))
    assert y.shape == (0, *link.out_shape((3, 9, 9)))


def test_surrogates_keep_the_value_and_have_a_gradient(link: Transform) -> None:
    key = Key.root(1, range(3))
    x = key.fold("image").uniform(3, 21, 18)
    draw = link.draw(key, (3, 21, 18))
    weights = key.fold("weights").normal(*link.out_shape((3, 21, 18)))
    keeps_shape = link.out_shape((3, 21, 18)) == (3, 21, 18)
    for name in ("best", *(["identity"] if keeps_shape else []), *link.surrogates):
        leaf = x.clone().requires_grad_()
        out = Graft(link, name).forward(leaf, draw)
        assert torch.equal(out, link.forward(x, draw)), name
        (grad,) = torch.autograd.grad((out * weights).sum(), leaf)
        assert grad.isfinite().all(), name
        assert grad.flatten(1).abs().amax(1).min() > 0, name


def test_a_chain_as_text() -> None:
    chain = parse_chain("fd:form=released+rdg:limit=2e-1,cells=4 + again = fd:low=1e+1")
    fd, rdg, again = chain.links
    assert (fd.form, rdg.limit, rdg.cells) == ("released", 0.2, 4)
    assert isinstance(again, Named)
    assert (again.name, again.link.low) == ("again", 10)


@pytest.mark.parametrize("text", ["", "none", "  "])
def test_an_empty_chain(text: str) -> None:
    assert parse_chain(text).links == ()


@pytest.mark.parametrize(
    ("text", "error", "says"),
    [
        ("jpg + fd", UnknownName, 'Did you mean "jpeg"'),
        ("fd:hihg=3", UnknownName, 'Did you mean "high"'),
        ("fd +", BadSetting, "empty link"),
        ("fd + fd", BadSetting, "other=fd"),
        ("fd:form=relased", UnknownName, 'Did you mean "released"'),
        ("fd:low=0", BadSetting, "low=0"),
        ("fd:low_size=9", BadSetting, "got 9"),
        ("fd:high=much", BadSetting, "fd:high=much"),
        ("rdg:limit=1", BadSetting, "got 1"),
        ("rdg:cells=2.5", BadSetting, "got 2.5"),
        ("rdg:sampling=bicubic", UnknownName, "bilinear, nearest"),
        ("rdg:corner=left", UnknownName, "random, upper-left"),
        ("jpeg:quality=0", BadSetting, "from 1 to 100, got 0"),
        ("jpeg:rounding=trunc", UnknownName, 'Did you mean "truncate"'),
        ("jpeg:subsampling=4:1:1", UnknownName, "4:2:2"),
        ("bits:bits=9", BadSetting, "from 1 to 8, got 9"),
        ("bits:rounding=floot", UnknownName, 'Did you mean "floor"'),
    ],
)
def test_bad_chains_say_what_is_wrong(text: str, error: type[Exception], says: str) -> None:
    with pytest.raises(error) as caught:
        parse_chain(text)
    assert says in str(caught.value)


@pytest.mark.parametrize("name", ["median", "deflection", "quilt"])
def test_what_works_in_pieces_has_the_bits_of_the_whole(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, shape = Key.root(0, range(5)), (3, 9, 13)
    x, link = key.fold("x").uniform(*shape), TRANSFORMS[name].factory()
    draw = link.draw(key, shape)
    whole = link.forward(x, draw)
    monkeypatch.setattr(batch, "PIECE_CPU", 2 * 3 * 9 * 13)
    assert torch.equal(link.forward(x, draw), whole)
