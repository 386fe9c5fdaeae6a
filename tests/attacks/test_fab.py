"""FAB finds the nearest point of another class, where that is known."""

import pytest
import torch

from besiege.attacks.fab import fab, fab_t
from besiege.attacks.threat import L1, L2, Dissimilarity, Linf, Threat
from besiege.core.batch import l2
from besiege.core.errors import BadSetting, UnknownName
from besiege.core.key import Key
from besiege.defenses.defense import Defense
from besiege.defenses.transform import Chain
from besiege.laws.problems import (
    beside_border,
    code_images,
    coin_defense,
    linear_classifier,
    weights_of,
)
from besiege.study.recipe import Recipe
from besiege.study.siege import Siege

SHAPE = (1, 6, 6)
KEY = Key.root(7, range(6))
BASE = 0.4 + 0.2 * KEY.uniform(*SHAPE, dtype=torch.float64)
BALLS = {"linf": (Linf(1.0), 1), "l2": (L2(6.0), 2), "l1": (L1(36.0), torch.inf)}


MODEL, PAIR = (linear_classifier(k, SHAPE, dtype=torch.float64) for k in (4, 2))
X, XPAIR = beside_border(MODEL, BASE), beside_border(PAIR, BASE)


DEFENSE = Defense(Chain(), MODEL)


def nearest(model, x, own, order):
    """The distance of the nearest border, (B,), where [0, 1] does not bind."""
    w, scores = weights_of(model), model(x).detach()
    short = scores.gather(1, own[:, None]) - scores
    size = (w[None] - w[own][:, None]).norm(order, dim=2)
    return (short / size).scatter(1, own[:, None], torch.inf).amin(1)


@pytest.mark.parametrize("kind", BALLS)
@pytest.mark.parametrize("spec", ["fab", "fab-t:targets=3"])
def test_the_nearest_class_of_a_linear_model_is_found(spec, kind):
    ball, order = BALLS[kind]
    model = MODEL
    own = model(X).argmax(1)
    siege = Siege(Defense(Chain(), model), Recipe("r", attack=spec, steps=30), Threat(ball))
    found = siege.attack(X, own, KEY)
    ratio = ball.size(found.x, X) / nearest(model, X, own, order)
    assert bool((found.claim >= 1).all())
    assert bool((ratio >= 1 - 1e-6).all())
    assert bool((ratio < 1.02).all()), ratio


@pytest.mark.parametrize("kind", BALLS)
@pytest.mark.parametrize("spec", ["fab", "fab-t"])
def test_a_target_is_reached_at_its_nearest_point(spec, kind):
    ball, order = BALLS[kind]
    model = PAIR
    own = model(XPAIR).argmax(1)
    threat = Threat(ball, targeted=True)
    siege = Siege(Defense(Chain(), model), Recipe("r", attack=spec, steps=10), threat)
    found = siege.attack(XPAIR, 1 - own, KEY)
    ratio = ball.size(found.x, XPAIR) / nearest(model, XPAIR, own, order)
    assert bool(((ratio >= 1 - 1e-6) & (ratio < 1.02)).all()), ratio


@pytest.mark.parametrize("spec", ["fab", "fab-t"])
def test_a_target_among_four_classes_is_hit(spec):
    model = MODEL
    target = (model(X).argmax(1) + 1) % 4
    threat = Threat(L2(6.0), targeted=True)
    siege = Siege(Defense(Chain(), model), Recipe("r", attack=spec, steps=40), threat)
    found = siege.attack(X, target, KEY)
    assert torch.equal(model(found.x).argmax(1), target)


def test_a_radius_below_the_nearest_border_has_no_success():
    model = MODEL
    own = model(X).argmax(1)
    for i, radius in enumerate(nearest(model, X, own, 1)[:2].tolist()):
        for factor in (1.02, 0.98):
            threat = Threat(Linf(radius * factor))
            siege = Siege(Defense(Chain(), model), Recipe("r", attack="fab", steps=20), threat)
            found = siege.attack(X[i : i + 1], own[i : i + 1], KEY[i : i + 1])
            assert bool(found.claim[0] >= 1) is (factor > 1)


def test_the_box_is_part_of_the_geometry():
    """Entries that cannot move do not: at 0 and 1 the nearest plane point is another."""
    model = PAIR
    x = BASE.round()
    own = model(x).argmax(1)
    siege = Siege(Defense(Chain(), model), Recipe("r", attack="fab", steps=30), Threat(L2(6.0)))
    found = siege.attack(x, own, KEY)
    w = weights_of(model)
    slope = (w[1 - own] - w[own]).reshape(x.shape)
    able = torch.where(slope > 0, x < 1, x > 0)
    short = (model(x)[:, 0] - model(x)[:, 1]).abs().detach()
    bound = short / l2(slope * able)  # what room there is only makes it longer
    assert bool((found.claim >= 1).all())
    assert bool((l2(found.x - x) < 1.02 * bound).all())


def test_a_random_start_leads_to_another_way_to_the_same_border():
    own, ball, points = MODEL(X).argmax(1), Linf(0.02), []
    for spec in ("fab", "fab:start=random"):
        found = Siege(DEFENSE, Recipe("r", attack=spec, steps=40), Threat(ball)).attack(X, own, KEY)
        points.append(found.x)
        assert bool((ball.size(found.x, X) < 1.05 * nearest(MODEL, X, own, 1)).all())
    assert not torch.equal(*points)


def test_the_unit_of_a_ball_does_not_matter():
    model = MODEL
    own = model(X).argmax(1)
    points = []
    for ball in (L2(6.0), Dissimilarity(1.0)):
        siege = Siege(Defense(Chain(), model), Recipe("r", attack="fab", steps=10), Threat(ball))
        points.append(l2(siege.attack(X, own, KEY).x - X))
    assert torch.allclose(*points, rtol=1e-3)


def test_passes_are_those_of_the_docstring():
    model = MODEL
    own = model(X).argmax(1)
    for spec, forwards, backwards in (("fab:classes=2", 2, 2), ("fab-t:targets=3", 2, 1)):
        recipe = Recipe("r", attack=spec, steps=12)
        found = Siege(Defense(Chain(), model), recipe, Threat(Linf(1.0))).attack(X, own, KEY)
        # and the clean image, three on the last line, and the point that is handed over
        assert found.forwards.tolist() == [12 * forwards + 5] * 6
        assert found.backwards.tolist() == [12 * backwards] * 6


def test_a_random_defense_keeps_its_value():
    labels = torch.arange(100) % 10
    recipe = Recipe("r", attack="fab-t:targets=2", steps=6, confirm=64, draws=4)
    siege = Siege(coin_defense(0.8), recipe, Threat(Linf(0.03)))
    found = siege.attack(code_images(labels, 10), labels, Key.root(0, range(100)))
    assert float(found.claim.mean()) == pytest.approx(0.2, abs=0.03)


def test_bad_settings_say_what_is_wrong():
    with pytest.raises(BadSetting, match="attack fab-t: takes 1 class or more"):
        fab_t(targets=0)
    with pytest.raises(UnknownName, match="start"):
        fab(start="zero")
