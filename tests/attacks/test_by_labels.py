"""Attacks by labels alone: near the known optimum, honest on random defenses, peers' pictures."""

import math
import warnings

import numpy as np
import pytest
import torch
from scipy import ndimage

from besiege.attacks.attack import Problem
from besiege.attacks.corruption import KINDS, corruption
from besiege.attacks.hop_skip_jump import hop_skip_jump
from besiege.attacks.loss import cross_entropy
from besiege.attacks.oracle import Meter, Oracle
from besiege.attacks.spatial import spatial
from besiege.attacks.surfree import surfree
from besiege.attacks.threat import L2, Box, RmsL2, Threat
from besiege.core.errors import BadSetting, UnknownName
from besiege.core.key import Key
from besiege.defenses.defense import Defense
from besiege.defenses.transform import Chain
from besiege.laws.problems import (
    code_images,
    coin_defense,
    largest_gain,
    linear_classifier,
    weights_of,
)
from besiege.ops.affine import turned
from besiege.ops.blur import gaussian_blur
from besiege.study.recipe import Recipe
from besiege.study.siege import Opponents, Siege

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of what Foolbox imports, not of what is tested
    from eagerpy import astensor
    from foolbox.attacks.spatial_attack_transformations import rotate_and_shift

SHAPE = (1, 4, 4)
MODEL = linear_classifier(2, SHAPE, dtype=torch.float64)
with torch.no_grad():  # the boundary runs next to grey, with label 1 on its side
    MODEL.network[1].bias.copy_(-0.5 * weights_of(MODEL).sum(1) + torch.tensor([0.0, 0.05]))
DEFENSE = Defense(Chain(), MODEL)
KEY = Key.root(7, range(6))
X = 0.4 + 0.2 * KEY.uniform(*SHAPE, dtype=torch.float64)
OWN = DEFENSE.labels(X, KEY)


def found(spec, ball, steps, *, targeted=False, goal=None, defense=DEFENSE, x=X, **how):
    """What a search with access to labels alone brings back."""
    threat = Threat(ball, targeted, "labels")
    recipe = Recipe("known", attack=spec, steps=steps, **how)
    siege = Siege(defense, recipe, threat, Opponents(micro_batch=64))
    return siege.attack(x, OWN if goal is None else goal, Key.root(3, range(len(x))))


def optimum(ball):
    """The smallest distance at which each label changes, (B,)."""
    with torch.no_grad():
        logits = MODEL(X)
    short = logits.gather(1, OWN[:, None])[:, 0] - logits.gather(1, (1 - OWN)[:, None])[:, 0]
    return short / largest_gain(MODEL, ball, OWN, 1 - OWN) * ball.eps


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize(
    ("spec", "ball", "steps", "most"),
    [
        ("hop-skip-jump:probe=0.05", L2(3.0), 12, 1.02),
        ("hop-skip-jump:probe=0.05", RmsL2(0.7), 12, 1.02),
        ("surfree", L2(3.0), 80, 1.1),
    ],
)
def test_the_nearest_point_of_a_linear_model_is_found(spec, ball, steps, most, targeted):
    done = found(spec, ball, steps, targeted=targeted, goal=1 - OWN if targeted else OWN)
    far = ball.size(done.x, X)
    assert bool((done.claim == 1).all())
    assert bool((DEFENSE.labels(done.x, KEY) != OWN).all())
    ratio = far / optimum(ball)
    assert bool((ratio >= 1 - 1e-6).all())
    assert float(ratio.max()) <= most, ratio


@pytest.mark.parametrize(
    "spec",
    [
        "hop-skip-jump:images=2,repeats=5",
        "surfree:images=2,repeats=5",
        "corruption:kind=gaussian-noise,points=4,repeats=5",
    ],
)
def test_a_random_defense_keeps_its_true_value(spec):
    """Where no point does better than chance, none is claimed to be adversarial."""
    labels = torch.arange(8) % 10
    x = code_images(labels, 10)
    ball, defense = L2(0.04), coin_defense(0.8)
    done = found(spec, ball, 4, goal=labels, defense=defense, x=x, confirm=64)
    assert bool((done.claim <= 0.5).all())
    assert bool(done.lucky.any())  # there was luck to fall for


def test_an_example_without_a_start_is_given_up():
    """Inside a ball without any success nothing is asked after the first step."""
    few = found("hop-skip-jump", L2(1e-3), 1)
    many = found("hop-skip-jump", L2(1e-3), 9)
    assert torch.equal(few.forwards, many.forwards)
    assert not bool((many.claim > 0).any())


def test_the_least_contrast_is_that_of_the_formula():
    """Along (1 - s) x + s / 2 a linear model's gap is linear: its root is the least strength."""
    grey = torch.full_like(X, 0.5)
    with torch.no_grad():
        here, there = MODEL(X), MODEL(grey)
    gap, end = (v[:, 1] - v[:, 0] for v in (here, there))
    crosses = gap.sign() != end.sign()
    assert bool(crosses.any())
    done = found("corruption", L2(9.0), 4)
    assert torch.equal(done.claim == 1, crosses)
    strength = gap / (gap - end)
    expected = strength * L2(9.0).size(grey, X)
    far = L2(9.0).size(done.x, X)
    assert torch.allclose(far[crosses], expected[crosses], rtol=2e-3)


@pytest.mark.parametrize("kind", ["gaussian-noise", "uniform-noise", "salt-and-pepper"])
def test_the_nearest_of_several_patterns_beats_all_strengths_of_the_first(kind):
    """Of two hundred strengths of one pattern, all read."""
    threat, made = Threat(L2(9.0), access="labels"), corruption(kind, points=10)
    ask = Oracle(DEFENSE, cross_entropy(), threat, Meter(None), micro_batch=64)
    p = Problem(X, OWN, Key.root(3, range(6)), ask, threat, 20)
    state, first = made.init(p), p.key.fold("pattern")
    for t in range(20):
        state = made.step(p, state, t)
    best = torch.full((6,), torch.inf, dtype=torch.float64)
    for i in range(1, 201):
        x = KINDS[kind](X, X.new_full((6,), i / 200), first).clamp(0, 1)
        best = torch.where(DEFENSE.labels(x, KEY) != OWN, best.minimum(p.distance(x)), best)
    assert bool((state.size <= 1.05 * best).all()), state.size / best
    assert float((state.size / best).min()) < 0.9
    own = KINDS[kind](X, state.high, Key(state.pattern, p.key.origins)).clamp(0, 1)
    assert torch.equal(state.x, own)
    assert bool((DEFENSE.labels(state.x, KEY) != OWN).all())


@pytest.mark.parametrize(
    ("kind", "moved"),
    [("gaussian-noise", 1.0), ("uniform-noise", math.sqrt(1 / 3)), ("salt-and-pepper", None)],
)
def test_noises_are_as_strong_as_they_say(kind, moved):
    x, key = torch.full((4, 3, 40, 40), 0.5, dtype=torch.float64), Key.root(0, range(4))
    strength = torch.tensor([0.0, 0.1, 0.4, 0.8], dtype=torch.float64)
    change = KINDS[kind](x, strength, key) - x
    if moved is None:  # a share of the pixels, by half, all channels at once
        share = (change.abs() == 0.5).all(1).flatten(1).double().mean(1)
        assert torch.allclose(share, strength, atol=0.05)
        assert torch.equal(change[:, 0], change[:, 2])
    else:
        rms = change.flatten(1).pow(2).mean(1).sqrt()
        assert torch.allclose(rms, moved * strength, rtol=0.05)


@pytest.mark.parametrize("size", [(12, 12), (9, 15)])
def test_blur_is_scipys(size):
    x = Key.root(1, [0]).uniform(2, *size, dtype=torch.float64)
    for sigma, gap in ((1.0, 2e-3), (2.5, 1e-6), (6.0, 1e-6)):  # SciPy samples the Gaussian
        mine = gaussian_blur(x, torch.tensor([sigma], dtype=torch.float64))[0].numpy()
        other = ndimage.gaussian_filter(
            x[0].numpy(), (0, sigma, sigma), mode="reflect", truncate=9.0
        )
        assert np.abs(mine - other).max() < gap
    same = gaussian_blur(x, torch.zeros(1, dtype=torch.float64))
    assert torch.allclose(same, x, atol=1e-12)


@pytest.mark.parametrize(("angle", "down", "right"), [(30, 0, 0), (-12, 1.5, -2), (0, 2, 1)])
def test_turned_images_are_scipys(angle, down, right):
    x = Key.root(2, [0]).uniform(1, 9, 12, dtype=torch.float64)
    mine = turned(x, *(torch.tensor([float(v)]) for v in (angle, down, right)))[0, 0].numpy()
    turn = math.radians(angle)
    back = np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
    centre = np.array([4.0, 5.5])
    offset = centre - back @ (centre + np.array([down, right]))
    other = ndimage.affine_transform(
        x[0, 0].numpy(), back, offset, order=1, mode="grid-constant", cval=0.0
    )
    assert np.abs(mine - other).max() < 1e-6


def test_turned_square_images_are_foolboxs():
    """Its angles run the other way; its shifts move the source."""
    size, angle = 9, 20.0
    x = Key.root(3, [0]).uniform(2, size, size, dtype=torch.float32)
    mine = turned(x, torch.tensor([angle]), torch.zeros(1), torch.zeros(1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        other = rotate_and_shift(astensor(x), rotation=-angle).raw
    assert (mine - other).abs().max() < 1e-5


@pytest.mark.parametrize("search", ["grid", "random"])
def test_spatial_finds_the_shift_that_moves_a_bar_out(search):
    """The label is whether the left columns are bright: only a shift to the right empties them."""
    model = linear_classifier(2, (1, 8, 8))
    with torch.no_grad():
        weight = torch.zeros(2, 8, 8)
        weight[0, :, 2:4] = 1
        model.network[1].weight.copy_(weight.flatten(1))
        model.network[1].bias.copy_(torch.tensor([0.0, 2.0]))
    x = torch.zeros(3, 1, 8, 8)
    x[..., 2:4] = 1
    how = {"goal": torch.zeros(3).long(), "defense": Defense(Chain(), model), "x": x}
    wide = found(f"spatial:angle=0,angles=1,shift=3,search={search},shifts=7", Box(), 7, **how)
    assert bool((wide.claim == 1).all())
    narrow = found(f"spatial:angle=0,angles=1,shift=1,search={search},shifts=7", Box(), 7, **how)
    assert not bool((narrow.claim > 0).any())


@pytest.mark.parametrize(
    ("make", "error", "says"),
    [
        (lambda: hop_skip_jump(directions=0), BadSetting, "at least 1"),
        (lambda: hop_skip_jump(probe=0), BadSetting, "probe > 0"),
        (lambda: surfree(angle=90), BadSetting, "in (0, 90)"),
        (lambda: corruption("blurr"), UnknownName, 'Did you mean "blur"?'),
        (lambda: corruption(points=0), BadSetting, "points is at least 1, got 0"),
        (lambda: spatial(search="all"), UnknownName, "Unknown search in attack spatial"),
        (lambda: spatial(shifts=0), BadSetting, "at least 1"),
    ],
)
def test_bad_settings_say_what_is_wrong(make, error, says):
    with pytest.raises(error) as caught:
        make()
    assert says in str(caught.value)
