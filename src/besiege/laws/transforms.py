"""The laws that every transform obeys. Run them on your own: `check(Entry("mine", Mine, "me"))`.

A law is a function of one transform that raises AssertionError; `every_setting_matters` is one of
an entry. Images are keyed and not flat.
"""

from __future__ import annotations

import inspect
import pickle
import random  # noqa: TID251
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import combinations

import numpy as np
import torch
from torch import Tensor

from besiege.core.batch import Draw, take
from besiege.core.entry import Entry
from besiege.core.errors import BadSetting
from besiege.core.key import Key, watch_reuse
from besiege.defenses.transform import Graft, Shape, Transform

SHAPES: tuple[Shape, ...] = ((3, 32, 32), (1, 32, 32), (3, 13, 17), (1, 9, 40))
BATCH = 8
NOTICEABLE = 0.5 / 255  # rounding to 8 bits could show it
DRAWS = 16  # chances that a random link has to change an image

UNSEEN: Mapping[tuple[str, str], str] = {
    ("deflection", "map"): "the map is that of a classifier, and laws run on links by themselves",
}
"""Transform and setting -> why its output does not show the setting."""

Law = Callable[[Transform], None]


def images(shape: Shape, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Key]:
    """A batch of smooth and noisy images in [0, 1], and its keys."""
    key = Key.root(11, range(BATCH))
    _, height, width = shape
    slope = torch.linspace(0, 1, height)[:, None] + torch.linspace(0, 1, width)
    x = 0.25 * slope + 0.5 * key.fold("image").uniform(*shape)
    return x.to(dtype), key.fold("draw")


def _cases() -> Iterator[tuple[Shape, torch.dtype]]:
    for shape in SHAPES:
        yield shape, torch.float32
    yield SHAPES[0], torch.float64


def _tensors(draw: Draw) -> Iterator[Tensor]:
    if isinstance(draw, Tensor):
        yield draw
    elif draw is not None:
        for part in draw:
            yield from _tensors(part)


def _same(a: Draw, b: Draw) -> bool:
    left, right = list(_tensors(a)), list(_tensors(b))
    return len(left) == len(right) and all(map(torch.equal, left, right))


def an_example_never_sees_its_batch(link: Transform) -> None:
    """An image alone, in another order or in another batch gives the same bits."""
    for shape in SHAPES:
        x, key = images(shape)
        whole = link.forward(x, link.draw(key, shape))
        for rows in ([0], [5, 2, 7], [7, 6, 5, 4, 3, 2, 1, 0]):
            index = torch.tensor(rows)
            alone = link.forward(x[index], link.draw(key[index], shape))
            assert torch.equal(alone, whole[index]), (
                f"{link.name} mixes examples: rows {rows} of {BATCH} differ alone, shape {shape}"
            )


def a_draw_is_a_function_of_key_and_shape(link: Transform) -> None:
    """Drawn twice it is the same, and by rows too; another key gives another."""
    x, key = images(SHAPES[0])
    draw = link.draw(key, SHAPES[0])
    assert _same(draw, link.draw(key, SHAPES[0])), f"{link.name} draws otherwise the second time"
    index = torch.tensor([6, 1])
    assert _same(take(draw, index), link.draw(key[index], SHAPES[0])), (
        f"{link.name}: an example's draw depends on its batch"
    )
    for part in _tensors(draw):
        assert len(part) == len(x), f"{link.name}: the first axis of a draw is not the batch"


def it_is_deterministic_exactly_when_it_draws_nothing(link: Transform) -> None:
    """Equal draws give equal images; a link with draws gives others for another key."""
    x, key = images(SHAPES[0])
    draw = link.draw(key, SHAPES[0])
    once = link.forward(x, draw)
    assert torch.equal(once, link.forward(x, draw)), f"{link.name} varies under one draw"
    if draw is not None:
        others = [link.forward(x, link.draw(key.fold("other", i), SHAPES[0])) for i in range(4)]
        assert not all(torch.equal(once, other) for other in others), (
            f"{link.name} draws numbers but does not use them: draw must return None"
        )


def the_output_is_an_image(link: Transform) -> None:
    """Finite, in [0, 1], of the declared shape, and of the input's dtype and device."""
    for shape, dtype in _cases():
        x, key = images(shape, dtype)
        out = link.forward(x, link.draw(key, shape))
        what = f"{link.name} on {shape} {dtype}"
        assert out.shape == (BATCH, *link.out_shape(shape)), f"{what}: shape {tuple(out.shape)}"
        assert out.dtype == x.dtype, f"{what}: dtype {out.dtype}"
        assert out.device == x.device, f"{what}: device {out.device}"
        assert bool(out.isfinite().all()), f"{what}: not finite"
        assert bool((out >= 0).all() and (out <= 1).all()), (
            f"{what}: values {float(out.min()):.4g} to {float(out.max()):.4g}, not in [0, 1]"
        )


def a_surrogate_changes_the_gradient_only(link: Transform) -> None:
    """Under Graft the value is the link's own bit for bit, and the gradient is finite and alive."""
    for shape, dtype in _cases():
        x, key = images(shape, dtype)
        draw = link.draw(key, shape)
        value = link.forward(x, draw)
        weight = key.fold("weight").uniform(*link.out_shape(shape)).to(dtype)
        for name in link.surrogates or ["identity"]:
            leaf = x.clone().requires_grad_()
            out = Graft(link, name).forward(leaf, draw)
            what = f'surrogate "{name}" of {link.name} on {shape} {dtype}'
            assert torch.equal(out.detach(), value), f"{what} changes the value"
            assert out.requires_grad, f"{what} cuts the graph"
            (slope,) = torch.autograd.grad((out * weight).sum(), leaf)
            assert bool(slope.isfinite().all()), f"{what} has a gradient that is not finite"
            dead = (slope == 0).flatten(1).all(1)
            assert not bool(dead.any()), f"{what} has no gradient on {int(dead.sum())} images"


def nothing_given_is_modified(link: Transform) -> None:
    """Image, draw and key are as before, and so are the parameters."""
    x, key = images(SHAPES[0])
    draw = link.draw(key, SHAPES[0])
    before = (x.clone(), [t.clone() for t in _tensors(draw)], key.values.clone(), repr(link))
    link.forward(x, draw)
    assert torch.equal(x, before[0]), f"{link.name} writes into its input"
    assert all(map(torch.equal, _tensors(draw), before[1])), f"{link.name} writes into its draw"
    assert torch.equal(key.values, before[2]), f"{link.name} writes into its key"
    assert repr(link) == before[3], f"{link.name} changes its own parameters"


def _generators() -> dict[str, str]:
    """Where the global generators stand: looked at, never drawn from."""
    return {
        "Python's": repr(random.getstate()),
        "NumPy's": repr(np.random.get_state(legacy=False)),  # noqa: NPY002, TID251
        "torch's": repr(torch.get_rng_state().tolist()),
    }


def no_global_generator_is_touched(link: Transform) -> None:
    """Python's, NumPy's and torch's generators are where they were."""
    x, key = images(SHAPES[0])
    before = _generators()
    link.forward(x, link.draw(key, SHAPES[0]))
    for owner, state in _generators().items():
        assert state == before[owner], f"{link.name} draws from {owner} global generator"


def no_key_is_used_twice(link: Transform) -> None:
    """Two parts of a draw never come from one key, which would tie them together."""
    _, key = images(SHAPES[0])
    with watch_reuse():
        link.draw(key, SHAPES[0])


def it_pickles(link: Transform) -> None:
    """A copy that went through pickle gives the same image."""
    x, key = images(SHAPES[0])
    copy = pickle.loads(pickle.dumps(link))
    out = link.forward(x, link.draw(key, SHAPES[0]))
    again = copy.forward(x, copy.draw(key, SHAPES[0]))
    assert torch.equal(out, again), f"{link.name} is another one after pickling"


def unchanged(link: Transform, shape: Shape) -> list[int]:
    """Which of the images of this shape come back as they went in, at 16 draws where it draws."""
    x, key = images(shape)
    same = torch.ones(BATCH, dtype=torch.bool)
    for t in range(DRAWS):
        draw = link.draw(key.fold("again", t), shape)
        out = link.forward(x, draw)
        if out.shape != x.shape:
            return []
        same &= (out - x).abs().flatten(1).amax(1) < NOTICEABLE
        if draw is None or not bool(same.any()):
            break
    return [i for i, kept in enumerate(same.tolist()) if kept]


def it_changes_every_image(link: Transform) -> None:
    """No colour image comes back as it went in; grey ones may, from what works on colours."""
    for shape in SHAPES:
        if shape[0] > 1:
            rows = unchanged(link, shape)
            assert not rows, (
                f"{link.name} returns its input: rows {rows} of {BATCH} are changed by less than "
                f"half a level of 255, shape {shape}"
            )


LAWS: Mapping[str, Law] = {
    law.__name__: law
    for law in (
        an_example_never_sees_its_batch,
        a_draw_is_a_function_of_key_and_shape,
        it_is_deterministic_exactly_when_it_draws_nothing,
        the_output_is_an_image,
        a_surrogate_changes_the_gradient_only,
        nothing_given_is_modified,
        no_global_generator_is_touched,
        no_key_is_used_twice,
        it_pickles,
        it_changes_every_image,
    )
}


def every_setting_matters(entry: Entry[Transform]) -> None:
    """Two cases never give the same images, nor does one with a setting put back to its default.

    Settings without a default, and those which the others do not go without, are left as they are.
    """
    links = [entry.factory(**case) for case in entry.cases]
    for (a, one), (b, other) in combinations(zip(entry.specs, links, strict=True), 2):
        assert _differ(one, other), f'"{a}" and "{b}" give the same images'
    for spec, case, link in zip(entry.specs, entry.cases, links, strict=True):
        for setting in case:
            if entry.parameters[setting] is inspect.Parameter.empty:
                continue
            try:
                plain = entry.factory(**{k: v for k, v in case.items() if k != setting})
            except BadSetting:
                continue
            seen = (entry.name, setting) not in UNSEEN
            assert _differ(link, plain) is seen, (
                f'"{spec}" gives the same images without {setting}: it is ignored'
                if seen
                else f'"{spec}" differs without {setting}: remove it from UNSEEN'
            )


def _differ(a: Transform, b: Transform) -> bool:
    """Whether two links give other images somewhere."""
    for shape in reversed(SHAPES):  # the small ones first
        x, key = images(shape)
        one, other = (link.forward(x, link.draw(key, shape)) for link in (a, b))
        if not torch.equal(one, other):
            return True
    return False


def check(entry: Entry[Transform], only: str | None = None) -> None:
    """Run the laws (or `only` one) on every case of an entry, and `every_setting_matters` on it.

    Raises AssertionError with what is broken; also where a law listed in entry.known_failures
    holds, since the list is then stale.
    """
    for name, law in LAWS.items():
        if only in (None, name):
            for case in entry.cases:
                _hold(entry, name, partial(law, entry.factory(**case)))
    name = every_setting_matters.__name__
    if only in (None, name):
        _hold(entry, name, partial(every_setting_matters, entry))


def _hold(entry: Entry[Transform], name: str, law: Callable[[], None]) -> None:
    """Run one law, which fails exactly where it is listed to."""
    if name not in entry.known_failures:
        law()
        return
    try:
        law()
    except AssertionError:
        return
    raise AssertionError(
        f"{entry.name} is listed to break the law {name}, but keeps it: "
        "remove it from known_failures."
    )
