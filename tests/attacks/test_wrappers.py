"""What makes another attack of one: the smallest radius, many targets, steadier gradients."""

from dataclasses import replace

import pytest
import torch

from besiege.attacks.attack import Attack, Point, Problem
from besiege.attacks.catalog import load_attack
from besiege.attacks.loss import LOSSES, load_loss
from besiege.attacks.oracle import Meter, Oracle, Reading
from besiege.attacks.threat import L1, L2, Linf, RmsL2, Threat
from besiege.attacks.wrappers.catalog import WRAPPERS
from besiege.attacks.wrappers.variance_reduced import variance_reduced
from besiege.core.errors import BadSetting, UnknownName
from besiege.core.key import Key
from besiege.defenses.catalog import parse_chain
from besiege.defenses.defense import Defense
from besiege.defenses.transform import Chain
from besiege.laws.problems import code_images, coin_defense, largest_gain, linear_classifier
from besiege.study.recipe import Recipe
from besiege.study.siege import Siege

SHAPE = (1, 4, 4)
KEY = Key.root(7, range(6))
# Of these weights grey is near the borders, so that [0, 1] does not bind.
PAIR, FOUR = (linear_classifier(k, SHAPE, 321, torch.float64) for k in (2, 4))
X = 0.4 + 0.2 * KEY.uniform(*SHAPE, dtype=torch.float64)
LIMITS = {"linf": Linf(0.06), "l2": L2(0.2), "rms": RmsL2(0.05), "l1": L1(0.35)}


def distance(model, ball, own, other):
    """Size of the smallest change that makes `other` win over `own`, (B,)."""
    with torch.no_grad():
        logits = model(X)
    lead = logits.gather(1, own[:, None])[:, 0] - logits.gather(1, other[:, None])[:, 0]
    return lead / (largest_gain(model, ball, own, other) / ball.eps)


def attacked(spec, threat, goal, steps, model=PAIR, **more):
    siege = Siege(Defense(Chain(), model), Recipe("r", attack=spec, steps=steps, **more), threat)
    return siege.attack(X, goal, KEY)


@pytest.mark.parametrize(
    ("name", "targeted"), [("linf", True), *((name, False) for name in LIMITS)]
)
def test_the_smallest_radius_of_a_linear_model_is_its_optimum(name, targeted):
    ball = LIMITS[name]
    own = PAIR(X).argmax(1)
    goal = 1 - own if targeted else own
    found = attacked("smallest:rounds=9 of apgd", Threat(ball, targeted), goal, 216)
    want = distance(PAIR, ball, own, 1 - own)
    assert bool((found.claim == 1).all())
    ratio = ball.size(found.x, X) / want
    assert bool((ratio >= 1 - 1e-6).all())
    assert bool((ratio <= 1.02).all()), ratio


def test_one_step_of_fgsm_is_enough_to_find_its_smallest_radius():
    """Each round is a step, and its point is read."""
    own = PAIR(X).argmax(1)
    found = attacked("smallest:rounds=11 of fgsm", Threat(Linf(0.5)), own, 11)
    ratio = Linf(1.0).size(found.x, X) / distance(PAIR, Linf(1.0), own, 1 - own)
    assert bool(((ratio >= 1 - 1e-6) & (ratio <= 1.03)).all()), ratio
    assert found.forwards.tolist() == [11 + 11 + 1] * 6  # steps, ends, and the last point again
    assert found.backwards.tolist() == [11] * 6


def test_each_example_has_radii_of_its_own_and_comes_back_from_a_success_below_a_failure():
    """A ball that fails at 1/2 and is hit at 1/4 is looked into below 1/4."""
    radii = []

    def init(p):
        radii.append(p.threat.ball.share.clone())
        return Point(p.threat.project(p.x0 + 1, p.x0))

    still = Attack(init, lambda p, s, t: s)
    # Met where the largest change lies in a row's interval, whatever is above it.
    bounds = torch.tensor([[0.2, 0.3], [0.9, 1.1], [2.0, 3.0]])

    def oracle(x, goal, key, **how):
        size = (x - p.x0).flatten(1).amax(1)
        won = ((size > bounds[:, 0] - 1e-6) & (size < bounds[:, 1])).float()
        return Reading(won, None, won, None)

    p = Problem(torch.zeros(3, *SHAPE), torch.zeros(3).long(), KEY[:3], oracle, Threat(Linf(1)), 5)
    wrapped = WRAPPERS.build("smallest:rounds=5")(still)
    state = wrapped.init(p)
    for t in range(5):
        state = wrapped.step(p, state, t)
    seen = torch.stack(radii, 1)
    assert seen[0].tolist() == [1, 1, 1, 1, 1]  # never met at 1: tried again there
    assert seen[1].tolist() == [1, 0.5, 0.75, 0.875, 0.9375]
    assert seen[2].tolist() == [1, 1, 1, 1, 1]


def test_luck_does_not_shrink_the_radius_of_a_random_defense():
    labels = torch.arange(60) % 10
    x, key = code_images(labels, 10), Key.root(0, range(60))
    recipe = Recipe("r", attack="smallest:rounds=4 of pgd", steps=8, draws=4)
    found = Siege(coin_defense(0.8), recipe, Threat(Linf(0.04))).attack(x, labels, key)
    assert float(found.claim.mean()) < 0.4  # 0.2 is true; the best of many draws would be near 1


@pytest.mark.parametrize("inner", ["pgd", "square", "fgsm"])
def test_many_targets_reach_a_class_that_is_not_the_nearest_rival(inner):
    """The margin follows the best rival, which the weights of this model never bring to the top."""
    scores = torch.tensor([5.0, 4.9, 4.0])

    def oracle(x, goal, key, gradient=True, weights=None, draws=None):
        moved = (x - 0.5).flatten(-3).mean(-1)[..., None]  # (..., 1)
        slope = torch.tensor([0.0, -1.0, 3.0])
        z = scores + moved * slope
        won = (z.argmax(-1) != 0).float()
        gradient = None if weights is None else (weights @ slope)[:, None, None, None] + 0 * x
        loss = z[..., 1:].amax(-1) - z[..., 0]
        return Reading(loss, gradient, won, z)

    goal = torch.zeros(2, dtype=torch.int64)
    p = Problem(torch.full((2, *SHAPE), 0.5), goal, KEY[:2], oracle, Threat(Linf(0.4)), 40)
    attack = load_attack(f"multi-targeted:targets=2 of {inner}")
    state, won = attack.init(p), torch.zeros(2)
    for t in range(40):
        state = attack.step(p, state, t)
        won = torch.maximum(won, p.query(state.x, t).won)
    assert won.tolist() == [1, 1]


def test_many_targets_leave_a_targeted_threat_as_it_is():
    threat = Threat(Linf(0.05), targeted=True)
    goal = (FOUR(X).argmax(1) + 1) % 4
    plain, many = (attacked(s, threat, goal, 6, FOUR).x for s in ("bim", "multi-targeted of bim"))
    assert torch.equal(plain, many)


def noisy(p, draws):
    """A problem behind noise that multiplies the gradient of each draw alike at all points."""
    view = Defense(parse_chain("noise:kind=gaussian,scale=0.3"), FOUR)
    oracle = Oracle(view, LOSSES.build("cross-entropy"), p.threat, Meter(None), draws)
    return replace(p, oracle=oracle, random=True)


def test_a_control_variate_steadies_the_gradient_and_leaves_its_mean():
    goal = FOUR(X).argmax(1)
    bare = Problem(X, goal, KEY, lambda *a, **k: None, Threat(Linf(0.02)), 40)
    errors = {}
    for name in ("plain", "steady"):
        found = errors.setdefault(name, [])

        def step(p, s, t, found=found):
            slope = p.slope(s.x, t)
            found.append(slope - noisy(bare, 128).slope(s.x, t, "truth"))
            return Point(p.threat.project(s.x + 0.002 * slope.sign(), p.x0))

        attack = Attack(lambda p: Point(p.x0), step)
        attack = attack if name == "plain" else variance_reduced(every=4, draws=128)(attack)
        p = noisy(bare, 1)
        state = attack.init(p)
        for t in range(8):
            state = attack.step(p, state, t)
    errors = {name: torch.stack(found) for name, found in errors.items()}
    size = {name: float((e**2).mean()) for name, e in errors.items()}
    assert size["steady"] < 0.3 * size["plain"], size
    assert float(errors["steady"].mean().abs()) < 0.05 * float(errors["plain"].std())


def test_a_control_variate_is_left_out_where_nothing_is_drawn():
    threat, goal = Threat(Linf(0.05)), FOUR(X).argmax(1)
    plain, steady = (attacked(s, threat, goal, 6, FOUR) for s in ("bim", "variance-reduced of bim"))
    assert torch.equal(plain.x, steady.x)
    assert torch.equal(plain.backwards, steady.backwards)


def test_wrappers_are_named_in_the_attack_and_nest():
    own = FOUR(X).argmax(1)
    spec = "smallest:rounds=3 of multi-targeted:targets=3 of pgd:step=0.3"
    found = attacked(spec, Threat(Linf(0.5)), own, 90, FOUR)
    assert bool((found.claim == 1).all())
    for spec, error, says in (
        ("smalest of pgd", UnknownName, "smallest"),
        ("smallest of pdg", UnknownName, "pgd"),
        ("smallest of ddn", BadSetting, "nearest"),
        ("smallest:rounds=0 of pgd", BadSetting, "rounds"),
        ("multi-targeted of hop-skip-jump", BadSetting, "labels"),
        ("multi-targeted:targets=0 of pgd", BadSetting, "targets"),
        ("variance-reduced:every=0 of pgd", BadSetting, "every"),
        ("smallest of foolbox:L2DeepFoolAttack()", BadSetting, "library"),
    ):
        with pytest.raises(error, match=says):
            load_attack(spec)


def test_a_sum_of_losses_is_ascended():
    z, y = torch.tensor([[1.0, 3.0, 2.0]], requires_grad=True), torch.tensor([1])
    both = load_loss("cross-entropy + 0.5*margin")(z, y, False)
    want = LOSSES.build("cross-entropy")(z, y, False) + 0.5 * LOSSES.build("margin")(z, y, False)
    assert torch.allclose(both, want)
    for bad in ("cross-entropy + 0*margin", "x*margin"):
        with pytest.raises(BadSetting, match="factor"):
            load_loss(bad)
    found = attacked("pgd", Threat(Linf(0.5)), FOUR(X).argmax(1), 5, FOUR, loss="margin + dlr")
    assert bool((found.claim == 1).all())
