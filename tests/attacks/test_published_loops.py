"""The habits of published loops, each a switch: what it does, and what it is worth."""

import pytest
import torch

from besiege.attacks.attack import Problem
from besiege.attacks.gradient_descent import gradient_descent
from besiege.attacks.loss import margin
from besiege.attacks.oracle import Meter, Oracle
from besiege.attacks.search import Plan, search
from besiege.attacks.threat import Linf, RmsL2, Threat
from besiege.core.errors import UnknownName
from besiege.core.key import Key
from besiege.defenses.catalog import parse_chain
from besiege.defenses.defense import Defense
from besiege.defenses.transform import Chain
from besiege.laws.problems import code_images, coin_defense, linear_classifier
from besiege.study.recipe import Recipe
from besiege.study.recipes import RECIPES
from besiege.study.siege import Siege

KEY = Key.root(3, range(6))
X = 0.3 + 0.4 * KEY.fold("x").uniform(1, 4, 4, dtype=torch.float64)
MODEL = linear_classifier(3, (1, 4, 4), dtype=torch.float64)
GOAL = Defense(Chain(), MODEL).labels(X, KEY)


class Heard:
    """An oracle that remembers where it was asked."""

    def __init__(self, oracle):
        self.oracle, self.points = oracle, []

    def __call__(self, x, goal, key, **settings):
        self.points.append(x.clone())
        return self.oracle(x, goal, key, **settings)


def hunt(attack, eps=0.3, steps=5, loss=margin, believe_first=False):
    threat, meter = Threat(RmsL2(eps)), Meter(None)
    ear = Heard(Oracle(Defense(Chain(), MODEL), loss(), threat, meter))
    found = search(
        Problem(X, GOAL, KEY, ear, threat, steps),
        attack,
        meter,
        Plan(steps, believe_first=believe_first),
    )
    return found, ear.points


def test_at_clean_never_asks_elsewhere():
    _, points = hunt(gradient_descent(rate=0.01, at="clean"))
    assert all(torch.equal(x, X) for x in points[:5])
    _, points = hunt(gradient_descent(rate=0.01))
    assert not torch.equal(points[1], X)


def test_a_unit_step_has_the_length_that_it_names():
    _, points = hunt(gradient_descent(rate=0.01, step="unit"))
    lengths = RmsL2(1).size(points[1], points[0])
    assert torch.allclose(lengths, torch.full_like(lengths, 0.01))


def test_abort_ends_at_the_last_admitted_point_and_asks_no_more():
    step = 0.01
    attack = gradient_descent(rate=step, step="unit", over="abort")
    found, points = hunt(attack, eps=2.5 * step, steps=6, believe_first=True)
    unbroken = found.claim == 0
    assert bool(unbroken.any())
    size = RmsL2(1).size(found.x, X)[unbroken]
    assert torch.allclose(size, torch.full_like(size, 2 * step))
    assert len(points) == 3  # asked at 0, 1 and 2 steps; the third step left the ball
    projected, _ = hunt(gradient_descent(rate=step, step="unit"), eps=2.5 * step, steps=6)
    assert torch.allclose(RmsL2(1).size(projected.x, X), torch.tensor(2.5 * step).double())


def test_a_believed_success_is_a_lucky_draw():
    """A coin that no attack can move: believers claim nearly everything, and nothing is broken."""
    label = torch.arange(300) % 10
    x, key = code_images(label, 10), Key.root(0, range(300))
    coin, threat = coin_defense(0.8), Threat(Linf(0.03))
    claims = {}
    for believe in (False, True):
        recipe = Recipe("r", attack="gradient-descent", steps=12, believe_first=believe)
        found = Siege(coin, recipe, threat).attack(x, label, key)
        claims[believe] = float(found.claim.mean())
        assert set(found.claim.unique().tolist()) <= {0.0, 1.0} or not believe
    assert abs(claims[True] - (1 - 0.8**12)) < 0.05
    assert claims[False] < 0.5


def test_a_believer_stops_when_it_wins():
    found, _ = hunt(gradient_descent(rate=0.02, step="unit"), steps=20, believe_first=True)
    won = found.claim == 1
    assert bool(won.any())
    assert int(found.backwards[won].max()) < 20
    wrong = Defense(Chain(), MODEL).labels(found.x, KEY) != GOAL
    assert torch.equal(won, wrong)


@pytest.mark.parametrize("switch", [{"at": "start"}, {"step": "sign"}, {"over": "stop"}])
def test_a_misspelt_switch_is_named(switch):
    with pytest.raises(UnknownName, match="attack gradient-descent"):
        gradient_descent(**switch)


def test_published_recipes_see_what_the_released_code_saw():
    chain = parse_chain("fd:form=released + rdg:limit=0.25,sampling=nearest,corner=upper-left")
    defense = Defense(chain, MODEL)
    seen = {
        name: RECIPES.build(name).view_of(defense)
        for name in RECIPES
        if name.startswith("published")
    }
    assert seen == {
        "published-bpda": {"fd": "identity", "rdg": "identity"},
        "published-eot-1": {"fd": "identity", "rdg": "exact"},
        "published-eot-2": {"fd": "skip", "rdg": "exact"},
        "published-semi-brute-force": {"fd": "skip", "rdg": "exact"},
    }
    assert "at=clean" in RECIPES.build("published-eot-2").attack
    assert RECIPES.build("published-eot-1").loss == "cross-entropy"
