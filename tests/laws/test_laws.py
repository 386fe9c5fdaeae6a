"""Every catalog entry obeys every law, and every law can fail."""

import random  # noqa: TID251
import re
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from besiege.attacks.attack import Attack, Point
from besiege.attacks.catalog import ATTACKS, load_attack
from besiege.attacks.threat import BALLS, L0, L1, L2, Linf
from besiege.attacks.wrappers.catalog import WRAPPERS
from besiege.core.entry import Entry
from besiege.defenses.catalog import TRANSFORMS, parse_chain
from besiege.defenses.transform import Transform
from besiege.laws import attacks, balls, transforms


@pytest.mark.parametrize("law", [*transforms.LAWS, "every_setting_matters"])
@pytest.mark.parametrize("entry", TRANSFORMS.values(), ids=list(TRANSFORMS))
def test_transforms_obey(entry, law):
    transforms.check(entry, law)


@pytest.mark.parametrize("law", transforms.LAWS.values(), ids=list(transforms.LAWS))
@pytest.mark.parametrize("chain", ["fd + rdg", "jpeg + again=jpeg:quality=20", "none"])
def test_chains_obey(chain, law):
    if (chain, law) == ("none", transforms.it_changes_every_image):
        with pytest.raises(AssertionError, match="returns its input"):
            law(parse_chain(chain))
    else:
        law(parse_chain(chain))


@pytest.mark.parametrize("entry", TRANSFORMS.values(), ids=list(TRANSFORMS))
def test_grey_images_are_changed_too(entry):
    """More than the law asks, since no built-in transform works on colours only."""
    want = list(range(transforms.BATCH)) if entry.name == "identity" else []
    for case in entry.cases:
        for shape in ((1, 32, 32), (1, 9, 40)):
            assert transforms.unchanged(entry.factory(**case), shape) == want, (case, shape)


@pytest.mark.parametrize("law", attacks.LAWS)
@pytest.mark.parametrize("entry", ATTACKS.values(), ids=list(ATTACKS))
def test_attacks_obey(entry, law):
    attacks.check(entry, law)


@pytest.mark.parametrize("law", attacks.LAWS)
@pytest.mark.parametrize("inner", ["pgd", "square"])
@pytest.mark.parametrize("outer", [spec for entry in WRAPPERS.values() for spec in entry.specs])
def test_wrapped_attacks_obey(outer, inner, law):
    attacks.check(Entry(outer, lambda: load_attack(f"{outer} of {inner}"), "test"), law)


@pytest.mark.parametrize("law", balls.LAWS)
@pytest.mark.parametrize("entry", BALLS.values(), ids=list(BALLS))
def test_balls_obey(entry, law):
    balls.check(entry, law)


@dataclass(frozen=True)
class Sound(Transform):
    """Adds keyed noise; what the broken ones below are made of."""

    name: str = "sound"

    def draw(self, key, shape):
        return key.uniform(*shape)

    def forward(self, x, draw):
        return (0.9 * x + 0.1 * draw.to(x.dtype)).clamp(0, 1)

    @property
    def surrogates(self):
        return {"exact": self.forward}


class Mixing(Sound):
    def forward(self, x, draw):
        return (x - x.mean() + 0.5).clamp(0, 1)


class Sequential(Sound):
    def draw(self, key, shape):
        return torch.arange(len(key)).float()[:, None, None, None].expand(-1, *shape) / len(key)


class Idle(Sound):
    def forward(self, x, draw):
        return x


class Bright(Sound):
    def forward(self, x, draw):
        return x + 1


class Dead(Sound):
    @property
    def surrogates(self):
        return {"dead": lambda x, draw: 0 * x}


class Writing(Sound):
    def forward(self, x, draw):
        return x.mul_(0.5)


class Global(Sound):
    def forward(self, x, draw):
        return (x + 0.1 * torch.rand(x.shape)).clamp(0, 1)  # noqa: TID251


class NumpyGlobal(Sound):
    def forward(self, x, draw):
        return (x + np.random.rand() * 0.1).clamp(0, 1)  # noqa: NPY002, TID251


class PythonGlobal(Sound):
    def forward(self, x, draw):
        return (x + random.random() * 0.1).clamp(0, 1)


class Twice(Sound):
    def draw(self, key, shape):
        return key.uniform(*shape) + key.uniform(*shape)


class Faint(Sound):
    def forward(self, x, draw):
        return (x + 1e-3 * draw.to(x.dtype)).clamp(0, 1)


class SparesBright(Sound):
    def forward(self, x, draw):
        bright = x.mean((1, 2, 3)) > 0.5
        return torch.where(bright[:, None, None, None], x, super().forward(x, draw))


class Unpicklable(Sound):
    def __reduce__(self):
        return Idle, ()


BROKEN = [
    ("an_example_never_sees_its_batch", Mixing()),
    ("a_draw_is_a_function_of_key_and_shape", Sequential()),
    ("it_is_deterministic_exactly_when_it_draws_nothing", Idle()),
    ("it_is_deterministic_exactly_when_it_draws_nothing", Global()),
    ("the_output_is_an_image", Bright()),
    ("a_surrogate_changes_the_gradient_only", Dead()),
    ("nothing_given_is_modified", Writing()),
    ("no_global_generator_is_touched", Global()),
    ("no_global_generator_is_touched", NumpyGlobal()),
    ("no_global_generator_is_touched", PythonGlobal()),
    ("it_pickles", Unpicklable()),
    ("it_changes_every_image", Idle()),
    ("it_changes_every_image", Faint()),
    ("it_changes_every_image", SparesBright()),
]


@pytest.mark.parametrize("law", transforms.LAWS.values(), ids=list(transforms.LAWS))
def test_the_sound_transform_obeys(law):
    law(Sound())


@pytest.mark.parametrize(
    ("law", "link"), BROKEN, ids=[f"{law}-{type(link).__name__}" for law, link in BROKEN]
)
def test_each_law_finds_what_breaks_it(law, link):
    with pytest.raises(AssertionError):
        transforms.LAWS[law](link)


def test_the_law_names_the_images_that_come_back():
    with pytest.raises(AssertionError, match=r"sound returns its input: rows \[0, 1, 2, 3, 4, 5, "):
        transforms.it_changes_every_image(Idle())
    x, _ = transforms.images((3, 32, 32))
    bright = (x.mean((1, 2, 3)) > 0.5).nonzero().flatten().tolist()
    assert 0 < len(bright) < transforms.BATCH
    with pytest.raises(AssertionError, match=re.escape(f"rows {bright} of 8")):
        transforms.it_changes_every_image(SparesBright())


def test_a_rare_change_is_one():
    """One image in two is left alone, each time others."""

    class Seldom(Sound):
        def forward(self, x, draw):
            moved = draw[:, 0, 0, 0] < 0.5
            return torch.where(moved[:, None, None, None], super().forward(x, draw), x)

    transforms.it_changes_every_image(Seldom())


@dataclass(frozen=True)
class Dimmed(Transform):
    """Has a setting that matters and one that does not."""

    by: float = 0.1
    idle: int = 1
    name: str = "dimmed"

    def forward(self, x, draw):
        return (1 - self.by) * x

    @property
    def surrogates(self):
        return {"exact": self.forward}


@pytest.mark.parametrize(
    ("cases", "says"),
    [
        (({}, {"idle": 2}), '"dimmed" and "dimmed:idle=2" give the same images'),
        (({}, {"by": 0.2, "idle": 2}), "same images without idle: it is ignored"),
    ],
)
def test_an_ignored_setting_is_found(cases, says):
    with pytest.raises(AssertionError, match=says):
        transforms.check(Entry("dimmed", Dimmed, "test", cases=cases), "every_setting_matters")
    transforms.check(Entry("dimmed", Dimmed, "test", cases=({}, {"by": 0.2})))


def test_an_exception_that_is_none_is_found(monkeypatch):
    monkeypatch.setattr(transforms, "UNSEEN", {("dimmed", "by"): "no reason"})
    with pytest.raises(AssertionError, match="remove it from UNSEEN"):
        transforms.check(Entry("dimmed", Dimmed, "test", cases=({"by": 0.2},)))


def test_a_key_used_twice_is_found():
    with pytest.raises(Exception, match="drawn twice"):
        transforms.LAWS["no_key_is_used_twice"](Twice())


def test_a_known_failure_must_fail():
    stale = Entry("sound", Sound, "test", known_failures={"it_pickles": "no reason"})
    with pytest.raises(AssertionError, match="listed to break the law it_pickles, but keeps it"):
        transforms.check(stale, "it_pickles")
    true = Entry("bright", Bright, "test", known_failures={"the_output_is_an_image": "bright"})
    transforms.check(true, "the_output_is_an_image")


def bad(step):
    return Attack(lambda p: Point(p.x0), step)


BAD_ATTACKS = [
    ("every_point_is_admitted", bad(lambda p, s, t: Point(s.x + p.slope(s.x, t).sign()))),
    ("no_radius_no_change", bad(lambda p, s, t: Point((s.x + 0.1 * p.slope(s.x, t)).clamp(0, 1)))),
    (
        "an_example_never_sees_its_batch",
        bad(lambda p, s, t: Point(p.threat.project(s.x + p.slope(s.x, t).mean(0), p.x0))),
    ),
    (
        "the_key_decides",
        bad(lambda p, s, t: Point(p.threat.project(s.x + torch.randn(s.x.shape), p.x0))),  # noqa: TID251
    ),
    ("the_state_is_rows", Attack(lambda p: Point(p.x0[:1]), lambda p, s, t: s)),
]


@pytest.mark.parametrize(("law", "attack"), BAD_ATTACKS, ids=[law for law, _ in BAD_ATTACKS])
def test_each_law_of_attacks_finds_what_breaks_it(law, attack):
    with pytest.raises((AssertionError, RuntimeError, IndexError)):
        attacks.LAWS[law](attack)


class ScaledThenClipped(L2):
    """Admitted, but not the nearest."""

    def project(self, x, x0):
        size = self.size(x, x0).clamp_min(self.eps)[:, None, None, None]
        return (x0 + self.eps * (x - x0) / size).clamp(0, 1)


class Generous(L1):
    def project(self, x, x0):
        return L1(1.1 * self.eps).project(x, x0)


class Pulled(Linf):
    def project(self, x, x0):
        return x0 + 0.9 * (super().project(x, x0) - x0)


class Positional(L0):
    def project(self, x, x0):
        change = (torch.arange(x0[0, 0].numel()) < self.eps).reshape(x0.shape[2:])
        return torch.where(change, x.clamp(0, 1), x0)


class Whole(L0):
    def ascent(self, gradient):
        return gradient.sign() / self.eps


class Still(Linf):
    def start(self, x0, key):
        return x0


class Steep(L2):
    def ascent(self, gradient):
        return gradient


class PlainlyRounded(L2):
    def rounded(self, x, x0):
        return (x * 255).round() / 255


class Crowded(Linf):
    def project(self, x, x0):
        return super().project(x.mean(0, keepdim=True) + 0 * x, x0)


BAD_BALLS = [
    ("a_projection_is_admitted", Generous(0.5)),
    ("what_is_admitted_stays", Pulled(0.1)),
    ("no_admitted_image_is_nearer", ScaledThenClipped(2.0)),
    ("no_admitted_image_is_nearer", Positional(2)),
    ("a_start_is_admitted_and_moves", Still(0.1)),
    ("an_ascent_climbs", Whole(3)),
    ("an_ascent_climbs", Steep(0.5)),
    ("a_rounded_image_has_8_bits_and_is_admitted", PlainlyRounded(0.04)),
    ("an_example_never_sees_its_batch", Crowded(0.1)),
]


@pytest.mark.parametrize(
    ("law", "ball"), BAD_BALLS, ids=[f"{law}-{type(ball).__name__}" for law, ball in BAD_BALLS]
)
def test_each_law_of_balls_finds_what_breaks_it(law, ball):
    with pytest.raises(AssertionError):
        balls.LAWS[law](ball)
