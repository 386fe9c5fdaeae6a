"""Attacks reach the optimum where it is known, and nobody scores what luck gave."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from besiege.attacks.attack import Problem
from besiege.attacks.bim import bim
from besiege.attacks.fgsm import fgsm
from besiege.attacks.gradient_descent import gradient_descent
from besiege.attacks.loss import cross_entropy, margin
from besiege.attacks.mi_fgsm import mi_fgsm
from besiege.attacks.oracle import Meter, Oracle
from besiege.attacks.pgd import pgd
from besiege.attacks.threat import L1, L2, Linf, RmsL2, Threat
from besiege.core.errors import BadSetting, UnknownName
from besiege.core.key import Key
from besiege.defenses.defense import Defense
from besiege.defenses.transform import Chain
from besiege.laws.problems import largest_gain, linear_classifier
from besiege.study.recipe import Recipe
from besiege.study.siege import Siege

SHAPE = (1, 4, 4)
MODEL = linear_classifier(2, SHAPE, dtype=torch.float64)
DEFENSE = Defense(Chain(), MODEL)
KEY = Key.root(7, range(5))
X = 0.4 + 0.2 * KEY.uniform(*SHAPE, dtype=torch.float64)  # [0, 1] never binds at these radii
BALLS = [Linf(0.05), RmsL2(0.05), L2(0.2), L1(0.3)]


def gain(spec, ball, targeted, steps):
    """How far the wanted logit gains on the other, and what is possible, each (B,)."""
    own = DEFENSE.labels(X, KEY)
    other = 1 - own
    # A margin that is never met keeps the search going: the optimum is what counts here.
    recipe = Recipe("known", attack=spec, loss="margin", steps=steps)
    siege = Siege(DEFENSE, recipe, Threat(ball, targeted))
    found = siege.attack(X, other if targeted else own, KEY)
    with torch.no_grad():
        change = MODEL(found.x) - MODEL(X)
    wanted = change.gather(1, other[:, None])[:, 0] - change.gather(1, own[:, None])[:, 0]
    return wanted, largest_gain(MODEL, ball, own, other), found


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("ball", BALLS, ids=lambda b: b.name)
@pytest.mark.parametrize(
    ("spec", "steps"),
    [
        ("fgsm", 1),
        ("bim:step=0.2", 8),
        ("mi-fgsm:step=0.2", 8),
        ("adam", 60),
        ("pgd", 80),
        ("pgd:start=clean,decay=cosine", 20),
        ("gradient-descent:rate=0.1", 40),
    ],
)
def test_the_optimum_of_a_linear_model_is_reached(spec, steps, ball, targeted):
    reached, possible, found = gain(spec, ball, targeted, steps)
    lost = found.claim >= 1  # a deterministic defense: the first success is kept as it is
    assert bool((reached <= possible * (1 + 1e-9)).all())
    if spec == "adam" and ball.name != "linf":
        return  # it follows signs in the long run, whatever the ball
    if "gradient-descent" in spec and ball.name in ("linf", "l1"):
        return  # the gradient's own direction reaches a corner late, that of a box in the limit
    assert torch.allclose(reached[~lost], possible[~lost], rtol=1e-5)
    assert bool((possible[lost] > 0).all())


def test_the_optima_above_are_not_all_successes():
    _, _, found = gain("pgd", Linf(0.05), False, 20)
    assert int((found.claim < 1).sum()) > 0


def test_success_is_reached_just_above_the_smallest_radius():
    own = DEFENSE.labels(X, KEY)
    with torch.no_grad():
        logits = MODEL(X)
    short = logits.gather(1, own[:, None])[:, 0] - logits.gather(1, (1 - own)[:, None])[:, 0]
    smallest = short / largest_gain(MODEL, Linf(1.0), own, 1 - own)
    for i in range(len(X)):
        for factor, falls in ((1.01, True), (0.99, False)):
            eps = float(smallest[i]) * factor
            siege = Siege(DEFENSE, Recipe("r", steps=30), Threat(Linf(eps)))
            found = siege.attack(X[i : i + 1], own[i : i + 1], KEY[i : i + 1])
            assert bool(found.claim[0] >= 1) is falls, f"example {i} at {factor} x the optimum"


def test_losses_are_their_formulas():
    logits = torch.tensor([[2.0, -1.0, 0.5], [0.0, 3.0, 3.0]])
    y = torch.tensor([0, 2])
    plain = functional.cross_entropy(logits, y, reduction="none")
    assert torch.equal(cross_entropy()(logits, y, False), plain)
    assert torch.equal(cross_entropy()(logits, y, True), -plain)
    assert margin()(logits, y, False).tolist() == [-1.5, 0.0]
    assert margin()(logits, y, True).tolist() == [1.5, 0.0]


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([1, 3]), st.floats(0, 0.5), st.booleans())
def test_projections_are_admitted_idempotent_and_nearest(seed, channels, eps, box):
    ball = Linf(eps) if box else RmsL2(eps)
    key = Key.root(seed, range(3))
    x0 = key.fold("x0").uniform(channels, 4, 4)
    x = x0 + key.fold("x").normal(channels, 4, 4)
    inside = ball.project(x, x0)
    threat = Threat(ball)
    assert bool(threat.admits(inside, x0).all())
    assert torch.allclose(ball.project(inside, x0), inside, atol=1e-6)
    if box:
        for i in range(20):  # no admitted point is nearer
            other = ball.start(x0, key.fold("other", i))
            near = ((inside - x) ** 2).flatten(1).sum(1)
            assert bool((near <= ((other - x) ** 2).flatten(1).sum(1) + 1e-5).all())


@pytest.mark.parametrize("ball", BALLS, ids=lambda b: b.name)
def test_ascent_has_size_one_and_climbs(ball):
    gradient = KEY.normal(*SHAPE).double()
    step = ball.ascent(gradient)
    assert torch.allclose(ball.size(step, torch.zeros_like(step)), torch.ones(5).double())
    assert bool(((step * gradient).flatten(1).sum(1) > 0).all())
    assert not ball.ascent(torch.zeros_like(gradient)).any()


def test_the_edge_of_a_ball_is_admitted_and_what_is_beyond_is_not():
    x0 = torch.full((1, 1, 2, 2), 0.5)
    threat = Threat(Linf(8 / 255))
    assert bool(threat.admits(x0 + 8 / 255, x0))
    assert not bool(threat.admits(x0 + 8 / 255 * 1.0001, x0))
    assert not bool(threat.admits(torch.full_like(x0, 1.001), x0 + 0.5))


def test_eight_bit_points_are_rounded_before_they_are_judged():
    x = torch.tensor([[[[0.5]]]])
    assert Threat(Linf(1.0), eight_bit=True).submitted(x, x).item() == pytest.approx(128 / 255)
    assert Threat(Linf(1.0)).submitted(x, x) is x


def test_an_attack_that_gives_up_stays_at_its_last_admitted_point():
    recipe = Recipe("r", attack="gradient-descent:rate=5,over=abort")
    siege = Siege(DEFENSE, recipe, Threat(RmsL2(0.001)))
    assert torch.equal(siege.attack(X, DEFENSE.labels(X, KEY), KEY).x, X)


@pytest.mark.parametrize(
    ("make", "error", "says"),
    [
        (lambda: pgd(step=0), BadSetting, "step is in units of eps and > 0, got 0"),
        (lambda: pgd(decay="cosin"), UnknownName, 'decay in attack pgd: "cosin". Did you mean "co'),
        (lambda: pgd(start="zero"), UnknownName, "Unknown start in attack pgd"),
        (lambda: gradient_descent(over="stop"), UnknownName, "Unknown over in attack gradient"),
        (lambda: Linf(8), BadSetting, 'for grey levels write "8/255"'),
        (lambda: RmsL2(-1), BadSetting, "radius >= 0"),
        (lambda: Threat(Linf(0.1), access="gradient"), UnknownName, 'Did you mean "gradients"?'),
        (lambda: Threat(Linf(0.1), passes=0), BadSetting, "at least 1, got 0"),
    ],
)
def test_bad_settings_say_what_is_wrong(make, error, says):
    with pytest.raises(error) as caught:
        make()
    assert says in str(caught.value)


def test_one_step_of_each_is_what_its_paper_says():
    own = DEFENSE.labels(X, KEY)
    w = MODEL.network[1].weight.detach()
    up = (w[1 - own] - w[own]).reshape(X.shape)
    threat = Threat(Linf(0.05))
    p = Problem(X, own, KEY, Oracle(DEFENSE, margin(), threat, Meter(None)), threat, 1)
    for attack in (fgsm(), bim(step=1.0), mi_fgsm(step=1.0)):
        assert torch.allclose(attack.step(p, attack.init(p), 0).x, X + 0.05 * up.sign())
