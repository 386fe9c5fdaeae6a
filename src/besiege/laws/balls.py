"""The laws that every ball obeys; run them on your own with `check`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from besiege.attacks.balls.ball import Ball
from besiege.attacks.threat import Threat
from besiege.core.batch import row_sum
from besiege.core.entry import Entry
from besiege.core.key import Key
from besiege.defenses.transform import Shape

BATCH = 6
SHAPES: tuple[Shape, ...] = ((1, 5, 4), (3, 7, 6))
SPREADS = (0.02, 0.3, 5.0)  # how far from the clean image what is projected lies
DTYPES = (torch.float32, torch.float64)

Law = Callable[[Ball], None]


class Case(NamedTuple):
    """Images to project, and the clean ones."""

    x: Tensor
    x0: Tensor
    key: Key


def cases() -> Iterator[Case]:
    """8-bit images, some of their entries at 0 or 1, and points near and far, in and out of range.

    One row is all black, one has moved nowhere, one has moved everywhere alike.
    """
    for shape in SHAPES:
        for dtype in DTYPES:
            for spread in SPREADS:
                key = Key.root(11, range(BATCH)).fold(*shape)
                x0 = (key.fold("x0").uniform(*shape) * 1.4 - 0.2).clamp(0, 1)
                x0 = (x0 * 255).round().to(dtype) / 255
                x0[1] = 0
                x = x0 + spread * key.fold("x").normal(*shape).to(dtype)
                x[2] = x0[2]
                x[3] = x0[3] + spread
                yield Case(x, x0, key)


def a_projection_is_admitted(ball: Ball) -> None:
    """It is in the ball and in [0, 1], to the last bit that the edge allows."""
    for x, x0, _ in cases():
        found = ball.project(x, x0)
        assert found.dtype == x.dtype
        assert bool(Threat(ball).admits(found, x0).all()), f"{ball.title}: a row is outside"


def what_is_admitted_stays(ball: Ball) -> None:
    """The clean image, a random start and a projection are their own projections."""
    for x, x0, key in cases():
        for inside in (x0, ball.start(x0, key.fold("start")), ball.project(x, x0)):
            gap = float((ball.project(inside, x0) - inside).abs().max())
            assert gap <= 1e-6, f"{ball.title}: an admitted image moves by {gap:.2g}"


def no_admitted_image_is_nearer(ball: Ball) -> None:
    """|x - p| <= |x - y| for the projection p and every admitted y.

    Where the ball is convex (so is the box), even <x - p, y - p> <= 0.
    """
    for x, x0, key in cases():
        p = ball.project(x, x0).double()
        away = x.double() - p
        for i in range(12):
            y = ball.start(x0, key.fold("other", i)).double()
            for other in (y, ball.project((x + y) / 2, x0).double()):
                slack = row_sum(away.abs()) * 1e-6 + 1e-12
                beyond = row_sum(away * (other - p))
                if not ball.convex:
                    beyond = row_sum(away**2) - row_sum((x.double() - other) ** 2)
                assert bool((beyond <= slack).all()), (
                    f"{ball.title}: a point beside the projection is nearer"
                )


def a_start_is_admitted_and_moves(ball: Ball) -> None:
    """A random start is in the ball; with a radius, and an image that is not black, it moves."""
    for _, x0, key in cases():
        first = ball.start(x0, key.fold("start"))
        assert bool(Threat(ball).admits(first, x0).all()), f"{ball.title}: a start is outside"
        moved = (first != x0).flatten(1).any(1)
        assert bool(moved[2:].all()), f"{ball.title}: a start that is the clean image"


def an_ascent_climbs(ball: Ball) -> None:
    """Its size around mid grey is 1, its slope is positive, and no gradient is no step.

    Of a count, which does not shrink with the step, eps times it is at most 1 in every entry.
    """
    for x, x0, _ in cases():
        slope = x - 0.3
        step = ball.ascent(slope)
        grey = torch.full_like(x0, 0.5).double()
        free = not torch.isinf(ball.size(grey + step.double(), grey)).any()
        if not ball.convex:
            assert torch.allclose(ball.eps * step.flatten(1).abs().amax(1), torch.ones(BATCH).to(x))
            assert bool(Threat(ball).admits(grey + step.double() / 2, grey).all()), ball.title
        elif free:  # else the step leaves fixed bounds, and has no size
            size = ball.size(grey + step.double(), grey)
            assert torch.allclose(size, torch.ones_like(size), atol=1e-4), f"{ball.title}: {size}"
        assert bool((row_sum(step * slope) > 0).all()), f"{ball.title}: a step that descends"
        assert not bool(ball.ascent(torch.zeros_like(x)).any())


def a_rounded_image_has_8_bits_and_is_admitted(ball: Ball) -> None:
    """What is handed over under an 8-bit threat is on the lattice and in the ball."""
    threat = Threat(ball, eight_bit=True)
    for x, x0, _ in cases():
        sent = threat.submitted(ball.project(x, x0), x0)
        assert bool(threat.admits(sent, x0).all()), f"{ball.title}: rounding leaves the ball"
        off = float((sent * 255 - (sent * 255).round()).abs().max())
        assert off < 1e-4, f"{ball.title}: {off:.2g} of a level off the lattice"
        assert torch.equal(threat.submitted(sent, x0), sent), "rounding twice moves it again"


def an_example_never_sees_its_batch(ball: Ball) -> None:
    """Some rows alone, in another order, give the same bits."""
    index = torch.tensor([4, 0, 3])
    threat = Threat(ball, eight_bit=True)
    for x, x0, key in cases():
        whole, some = ball.project(x, x0), ball.project(x[index], x0[index])
        assert torch.equal(whole[index], some), f"{ball.title}: projections mix rows"
        first, alone = ball.start(x0, key), ball.start(x0[index], key[index])
        assert torch.equal(first[index], alone), f"{ball.title}: starts mix rows"
        assert torch.equal(ball.ascent(x)[index], ball.ascent(x[index])), "steps mix rows"
        sent = threat.submitted(whole, x0)[index]
        assert torch.equal(sent, threat.submitted(some, x0[index])), "rounding mixes rows"


LAWS: Mapping[str, Law] = {
    law.__name__: law
    for law in (
        a_projection_is_admitted,
        what_is_admitted_stays,
        no_admitted_image_is_nearer,
        a_start_is_admitted_and_moves,
        an_ascent_climbs,
        a_rounded_image_has_8_bits_and_is_admitted,
        an_example_never_sees_its_batch,
    )
}


def check(entry: Entry[Ball], only: str | None = None) -> None:
    """Run the laws (or `only` one) on every case of an entry; raises AssertionError."""
    for name, law in LAWS.items():
        if only in (None, name):
            for case in entry.cases:
                law(entry.factory(**case))
