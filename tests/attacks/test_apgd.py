"""APGD halves its step where its paper says so, and reaches what a linear model has to give."""

import pytest
import torch

from besiege.attacks.apgd import apgd, apgd_t, checkpoints
from besiege.attacks.attack import Problem
from besiege.attacks.oracle import Reading
from besiege.attacks.threat import L1, L2, Linf, RmsL2, Threat
from besiege.core.errors import BadSetting
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
MODEL = linear_classifier(4, SHAPE, dtype=torch.float64)
DEFENSE = Defense(Chain(), MODEL)
KEY = Key.root(7, range(4))
BASE = 0.4 + 0.2 * KEY.uniform(*SHAPE, dtype=torch.float64)
X = beside_border(MODEL, BASE)
OWN = DEFENSE.labels(X, KEY)
DUALS = {"linf": (Linf, 1), "l2": (L2, 2), "rms": (RmsL2, 2), "l1": (L1, torch.inf)}


def smallest(kind):
    """The radius at which the first other class is reached, (B,)."""
    w, scores = weights_of(MODEL), MODEL(X).detach()
    short = scores.gather(1, OWN[:, None]) - scores
    size = (w[None] - w[OWN][:, None]).norm(DUALS[kind][1], dim=2)
    radius = (short / size).scatter(1, OWN[:, None], torch.inf).amin(1)
    return radius / (X[0].numel() ** 0.5 if kind == "rms" else 1)


@pytest.mark.parametrize("kind", DUALS)
def test_success_just_above_the_smallest_radius_and_never_below(kind):
    for i, radius in enumerate(smallest(kind)[:2].tolist()):
        for factor in (1.01, 0.99):
            threat = Threat(DUALS[kind][0](radius * factor))
            recipe = Recipe("r", attack="apgd-t:targets=3", steps=90)
            found = Siege(DEFENSE, recipe, threat).attack(
                X[i : i + 1], OWN[i : i + 1], KEY[i : i + 1]
            )
            assert bool(found.claim[0] >= 1) is (factor > 1), f"example {i} in {kind}"


@pytest.mark.parametrize("kind", DUALS)
def test_two_classes_and_a_target_are_reached_just_above_the_smallest_radius(kind):
    model = linear_classifier(2, SHAPE, dtype=torch.float64)
    view, x = Defense(Chain(), model), beside_border(model, BASE)
    w, scores = weights_of(model), model(x).detach()
    other = 1 - scores.argmax(1)
    short = (scores[:, 0] - scores[:, 1]).abs()
    radius = short / (w[0] - w[1]).norm(DUALS[kind][1])
    radius = radius / (X[0].numel() ** 0.5 if kind == "rms" else 1)
    for spec in ("apgd", "apgd-dlr", "apgd-t"):
        for factor in (1.01, 0.99):
            threat = Threat(DUALS[kind][0](float(radius[0]) * factor), targeted=True)
            siege = Siege(view, Recipe("r", attack=spec, steps=60), threat)
            found = siege.attack(x[:1], other[:1], KEY[:1])
            assert bool(found.claim[0] >= 1) is (factor > 1), f"{spec} in {kind}"


def test_the_l1_form_finds_the_one_best_entry_of_many():
    model = linear_classifier(2, (3, 32, 32), dtype=torch.float64)
    x = Key.root(0, [1]).uniform(3, 32, 32, dtype=torch.float64) * 0.2 + 0.4
    own, w = model(x).argmax(1), weights_of(model)
    possible = 0.3 * (w[0] - w[1]).abs().max()
    gained = {}
    for attack in ("apgd", "pgd"):
        recipe = Recipe("r", attack=attack, loss="margin", steps=100)
        siege = Siege(Defense(Chain(), model), recipe, Threat(L1(0.3), targeted=True))
        found = siege.attack(x, 1 - own, Key.root(0, [1])).x
        logits = (model(found) - model(x)).detach()
        gained[attack] = float((logits[0, 1 - own[0]] - logits[0, own[0]]) / possible)
    assert 0.99 < gained["apgd"] <= 1 + 1e-9
    assert gained["pgd"] < 0.8  # equal steps on 1 % of the entries, whatever the steps


def climbed(losses, eps=0.1, ball=Linf):
    """The states after each step under readings that are scripted."""
    script = iter(losses)

    def ask(x, goal, key, **how):
        loss = torch.full((len(x),), next(script), dtype=x.dtype)
        return Reading(loss, torch.ones_like(x), torch.zeros_like(loss), None)

    p = Problem(X, OWN, KEY, ask, Threat(ball(eps)), len(losses))
    attack = apgd()
    states = [attack.init(p)]
    for t in range(len(losses)):
        states.append(attack.step(p, states[-1], t))
    return states


def test_a_loss_that_always_rises_keeps_its_step():
    assert {float(s.size[0]) for s in climbed(range(100))} == {2.0}


def test_a_loss_that_falls_halves_the_step_at_each_checkpoint_and_goes_back():
    states = climbed(range(100, 0, -1))
    sizes = [float(s.size[0]) for s in states]
    halved = [t for t in range(100) if sizes[t + 1] < sizes[t]]
    assert tuple(halved) == checkpoints(100) == (22, 41, 57, 70, 80, 87, 93, 99)
    assert torch.equal(states[23].before, states[0].x)  # the best was the first


def test_the_condition_is_three_quarters_of_the_steps():
    # Of the 22 steps to the first checkpoint 16 or 17 rise (0.75 x 22 = 16.5).
    for falls, size in ((5, 2.0), (6, 1.0)):
        moves = [-1] * falls + [5] * (22 - falls)
        losses = [sum(moves[:i]) for i in range(23)] + [1000] * 17
        assert float(climbed(losses + [1000] * 60)[24].size[0]) == size


def test_a_best_loss_that_stands_still_halves_the_step_once():
    # All but 4 of 22 steps rise, but the first loss is never beaten; after a halving the same
    # is forgiven for one interval, if only steps rise.
    states = climbed([1000, *range(99)])
    sizes = [float(s.size[0]) for s in states]
    assert sizes[22] == 2.0
    assert sizes[23] == 1.0
    assert sizes[42] == 1.0  # forgiven: not looked at twice in a row
    assert sizes[58] == 0.5


def test_apgd_t_starts_anew_for_each_class_and_reads_its_last_point():
    recipe = Recipe("r", attack="apgd-t:targets=3", steps=30)
    found = Siege(DEFENSE, recipe, Threat(Linf(1e-4))).attack(X, OWN, KEY)
    assert found.forwards.tolist() == [34] * 4  # steps, clean image, last point of each class
    assert found.backwards.tolist() == [30] * 4


@pytest.mark.parametrize("spec", ["apgd", "apgd-t:targets=2"])
def test_a_random_defense_keeps_its_value(spec):
    labels = torch.arange(100) % 10
    key = Key.root(0, range(100))
    recipe = Recipe("r", attack=spec, steps=6, confirm=64)
    siege = Siege(coin_defense(0.8), recipe, Threat(Linf(0.03)))
    found = siege.attack(code_images(labels, 10), labels, key)
    assert float(found.claim.mean()) == pytest.approx(0.2, abs=0.03)


def test_bad_settings_say_what_is_wrong():
    with pytest.raises(BadSetting, match="targets is a number of classes >= 1, got 0"):
        apgd_t(targets=0)
    with pytest.raises(BadSetting, match=r"momentum lies in \(0, 1\], got 0"):
        apgd(momentum=0)
