"""The laws that every attack obeys, on a linear classifier; run them on your own with `check`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from besiege.attacks.attack import Attack, Problem
from besiege.attacks.loss import LOSSES
from besiege.attacks.oracle import Meter, Oracle, Reading
from besiege.attacks.search import Found, Plan, search
from besiege.attacks.threat import L0, L1, Ball, Box, Linf, RmsL2, Threat
from besiege.core.entry import Entry
from besiege.core.key import Key
from besiege.defenses.defense import Defense
from besiege.defenses.transform import Chain, Shape
from besiege.laws.problems import linear_classifier

BATCH, STEPS, MICRO_BATCH = 8, 4, 4
SHAPES: tuple[Shape, ...] = ((1, 5, 4), (3, 4, 4))

Law = Callable[[Attack], None]


class Run(NamedTuple):
    """One search, with every point at which the oracle was asked."""

    problem: Problem
    found: Found
    asked: list[tuple[Tensor, Tensor]]  # point, clean image; rows that the attack gave up are gone


def threats(attack: Attack, eps: float | None = None) -> Iterator[tuple[Shape, Threat]]:
    """Balls that it is made for (cube, sphere, octahedron), both goals, one and three channels.

    It is granted no more than it says that it needs. Few pixels are for those who name that ball.
    """
    balls: tuple[Ball, ...] = (
        Linf(0.05 if eps is None else eps),
        RmsL2(0.03 if eps is None else eps),
        L1(0.6 if eps is None else eps),
        *((L0(3 if eps is None else eps),) if "l0" in attack.balls else ()),
    )
    if "box" in attack.balls:
        balls = (*balls, Box(0.3 if eps is None else eps))
    for shape in SHAPES:
        for ball in balls:
            for targeted in (False, True):
                if not attack.balls or ball.name in attack.balls:
                    yield shape, Threat(ball, targeted, attack.access)


def _clean(key: Key, shape: Shape) -> Tensor:
    """The clean images of a root key."""
    return key.fold("x").uniform(*shape)


def run(attack: Attack, shape: Shape, threat: Threat, rows: Tensor | None = None) -> Run:
    """Search on some rows of the same images, without dropping any."""
    key = Key.root(3, range(BATCH))
    x0, goal = _clean(key, shape), key.fold("goal").integers(3)
    meter, asked = Meter(None), list[tuple[Tensor, Tensor]]()
    view = Defense(Chain(), linear_classifier(3, shape))
    oracle = Oracle(view, LOSSES.build(attack.loss), threat, meter, micro_batch=MICRO_BATCH)

    def ask(x: Tensor, goal: Tensor, key: Key, **how: Any) -> Reading:
        points = x.reshape(len(x), -1, *shape).clone()
        asked.extend((point, _clean(key.origin(), shape)) for point in points.unbind(1))
        return oracle(x, goal, key, **how)

    problem = Problem(x0, goal, key, ask, threat, STEPS)
    if rows is not None:
        problem = problem.take(rows)
    return Run(problem, search(problem, attack, meter, Plan(STEPS, confirm=1)), asked)


def every_point_is_admitted(attack: Attack) -> None:
    """Wherever the oracle is asked, and what comes back at the end."""
    for shape, threat in threats(attack):
        done = run(attack, shape, threat)
        for i, (x, x0) in enumerate([*done.asked, (done.found.x, done.problem.x0)]):
            assert bool(threat.admits(x, x0).all()), (
                f"point {i} of {len(done.asked)} is outside {threat.name}, {shape}"
            )


def no_radius_no_change(attack: Attack) -> None:
    """At eps = 0 the clean image comes back."""
    for shape, threat in threats(attack, eps=0.0):
        done = run(attack, shape, threat)
        assert torch.equal(done.found.x, done.problem.x0), f"{threat.name} moves the image"


def an_example_never_sees_its_batch(attack: Attack) -> None:
    """Some rows alone, in another order, give the same bits."""
    rows = torch.tensor([6, 1, 3])
    for shape, threat in threats(attack):
        whole, some = run(attack, shape, threat).found, run(attack, shape, threat, rows).found
        assert torch.equal(whole.x[rows], some.x), f"rows mix under {threat.name}, {shape}"
        assert torch.equal(whole.loss[rows].nan_to_num(), some.loss.nan_to_num()), "losses mix"


def the_key_decides(attack: Attack) -> None:
    """The same key gives the same points."""
    for shape, threat in threats(attack):
        first, second = run(attack, shape, threat), run(attack, shape, threat)
        assert torch.equal(first.found.x, second.found.x), f"{threat.name}: it varies"


def the_state_is_rows(attack: Attack) -> None:
    """Every tensor of the state has the batch as its first axis, at first and after a step."""
    for shape, threat in threats(attack):
        problem = run(attack, shape, threat).problem
        state = attack.init(problem)
        for moment in ("init", "step"):
            for name in state._fields:
                part = getattr(state, name)
                assert not isinstance(part, Tensor) or len(part) == BATCH, (
                    f"{name} after {moment} has the shape {tuple(part.shape)}, not {BATCH} rows"
                )
            state = attack.step(problem, state, 0)


LAWS: Mapping[str, Law] = {
    law.__name__: law
    for law in (
        every_point_is_admitted,
        no_radius_no_change,
        an_example_never_sees_its_batch,
        the_key_decides,
        the_state_is_rows,
    )
}


def check(entry: Entry[Attack], only: str | None = None) -> None:
    """Run the laws (or `only` one) on every case of an entry; raises AssertionError."""
    for name, law in LAWS.items():
        if only in (None, name):
            for case in entry.cases:
                law(entry.factory(**case))
