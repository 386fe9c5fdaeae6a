"""The Square attack asks in the ball, climbs, and compares under the same draws."""

import pytest
import torch

from besiege.attacks.attack import Problem
from besiege.attacks.loss import margin
from besiege.attacks.oracle import Meter, Oracle
from besiege.attacks.square import _offset, _ridge, square
from besiege.attacks.threat import L2, Linf, RmsL2, Threat
from besiege.core.batch import l2
from besiege.core.errors import BadSetting
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
from besiege.study.recipe import Recipe
from besiege.study.siege import Siege

SHAPE = (1, 4, 4)
MODEL = linear_classifier(2, SHAPE, dtype=torch.float64)
DEFENSE = Defense(Chain(), MODEL)
KEY = Key.root(7, range(4))
X = 0.4 + 0.2 * KEY.uniform(*SHAPE, dtype=torch.float64)
OWN = DEFENSE.labels(X, KEY)


def test_linf_succeeds_just_above_the_smallest_radius_and_never_below():
    short = (MODEL(X)[:, 0] - MODEL(X)[:, 1]).abs().detach()
    smallest = short / largest_gain(MODEL, Linf(1.0), OWN, 1 - OWN)
    for i, radius in enumerate(smallest[:2].tolist()):
        for factor in (1.01, 0.99):
            threat = Threat(Linf(radius * factor), access="scores")
            siege = Siege(DEFENSE, Recipe("r", attack="square", steps=200), threat)
            found = siege.attack(X[i : i + 1], OWN[i : i + 1], KEY[i : i + 1])
            assert bool(found.claim[0] >= 1) is (factor > 1), f"example {i} at {factor}"


@pytest.mark.parametrize("ball", [Linf(0.05), L2(0.5)], ids=["linf", "l2"])
def test_the_point_stays_on_the_edge_and_its_loss_never_falls(ball):
    """A smooth direction, which squares can follow: a gradient from the left to the right."""
    model = linear_classifier(2, (1, 10, 10), dtype=torch.float64)
    ramp = torch.linspace(-1, 1, 10, dtype=torch.float64).expand(10, 10).flatten()
    with torch.no_grad():
        model.network[1].weight.copy_(torch.stack([ramp, -ramp]))
    x = 0.5 + 0.01 * KEY.uniform(1, 10, 10, dtype=torch.float64)
    own = model(x).argmax(1)
    threat = Threat(ball, access="scores")
    oracle = Oracle(Defense(Chain(), model), margin(), threat, Meter(None))
    p = Problem(x, own, KEY, oracle, threat, 200)
    attack = square()
    state, losses = attack.init(p), []
    for t in range(200):
        state = attack.step(p, state, t)
        losses.append(state.loss)
        assert torch.allclose(p.distance(state.x), torch.full((4,), ball.eps).double(), rtol=1e-5)
    rises = torch.stack(losses).diff(dim=0)
    assert bool((rises >= 0).all())
    w = weights_of(model)
    slope = (w[1] - w[0]).norm(2 if isinstance(ball, L2) else 1)
    gained = (losses[-1].detach() + (model(x)[:, 0] - model(x)[:, 1]).abs().detach()) / (
        ball.eps * slope
    )
    assert bool((gained > (0.5 if isinstance(ball, L2) else 0.8)).all()), gained


def test_squares_lie_in_the_image_everywhere_and_know_their_places():
    key = Key.root(0, range(300))
    row, column, within = _offset(key, torch.zeros(300, 3, 5, 7), 3)
    assert within.flatten(1).sum(1).tolist() == [9] * 300
    assert bool(within.any(0).all())  # every pixel is in some
    corner = (within & (row == 0) & (column == 0)).flatten(1).sum(1)
    assert corner.tolist() == [1] * 300


def test_the_l2_pattern_is_two_bumps_of_opposite_sign():
    pattern = _ridge(9, torch.zeros(1, dtype=torch.float64))
    assert float(pattern.norm()) == pytest.approx(1)
    assert bool((pattern[:4] > 0).all())
    assert bool((pattern[4:] < 0).all())
    # Nested squares around the middle, the k-th adding 1 / (k + 1)^2: at the middle all of them.
    whole = sum(1 / k**2 for k in range(1, 6))
    assert float(pattern[2, 4] / pattern[2, 3]) == pytest.approx(whole / (whole - 1))


def test_a_ball_in_another_unit_is_the_same_ball():
    found = []
    for ball in (L2(0.2), RmsL2(0.2 / 4)):
        threat = Threat(ball, access="scores")
        siege = Siege(DEFENSE, Recipe("r", attack="square", loss="margin", steps=30), threat)
        found.append(siege.attack(X, OWN, KEY).x)
    assert torch.allclose(*found, atol=1e-12)
    assert bool((l2(found[0] - X) > 0.19).all())


def test_two_points_of_a_random_defense_meet_the_same_draws():
    keys, view = [], coin_defense(0.7)
    labels = torch.arange(4)
    threat = Threat(Linf(0.03), access="scores")
    oracle = Oracle(view, margin(), threat, Meter(None), draws=2)

    def ask(x, goal, key, **how):
        keys.append(key.values.tolist())
        return oracle(x, goal, key, **how)

    for random, number in ((True, 2), (False, 1)):
        p = Problem(code_images(labels, 10), labels, KEY, ask, threat, 10, random)
        attack = square()
        state = attack.step(p, attack.init(p), 0)
        keys.clear()
        attack.step(p, state, 1)
        assert len(keys) == number
        assert all(k == keys[0] for k in keys)


def test_a_random_defense_keeps_its_value():
    labels = torch.arange(100) % 10
    recipe = Recipe("r", attack="square", steps=8, confirm=64)
    siege = Siege(coin_defense(0.8), recipe, Threat(Linf(0.03), access="scores"))
    found = siege.attack(code_images(labels, 10), labels, Key.root(0, range(100)))
    assert float(found.claim.mean()) == pytest.approx(0.2, abs=0.03)
    assert found.forwards[0] == 1 + 2 * 7 + 3 * 64  # both points of a comparison


def test_bad_settings_say_what_is_wrong():
    with pytest.raises(BadSetting, match=r"share of the image in \(0, 1\], got 1.5"):
        square(area=1.5)
