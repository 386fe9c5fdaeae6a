"""A defense as a torch module, and the attacks of other libraries on it."""

import warnings

import pytest
import torch

from besiege.attacks.bridge import PACKAGES, foreign_attack
from besiege.attacks.loss import cross_entropy
from besiege.attacks.threat import L2, Linf, RmsL2, Threat
from besiege.core.errors import BadSetting, UnknownName
from besiege.core.key import Key
from besiege.core.store import RunFolder
from besiege.defenses.catalog import parse_chain
from besiege.defenses.defense import Defense
from besiege.defenses.transform import Chain
from besiege.laws.problems import code_images, coin_defense, linear_classifier, weights_of
from besiege.study.bridge import bridge
from besiege.study.experiment.experiment import experiment_from
from besiege.study.judge import Judging, judge
from besiege.study.recipe import Recipe
from besiege.study.run import run_experiment
from besiege.study.siege import Opponents, Siege

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import foolbox

SHAPE = (1, 4, 4)
SIZE = (1 * 4 * 4) ** 0.5
KEY = Key.root(7, range(6))


def shortest(model, x):
    """The way to the nearest other label, [0, 1] not binding: its l2 length and unit direction."""
    weights = weights_of(model)
    with torch.no_grad():
        logits = model(x)
    own = logits.argmax(1)
    normal = weights - weights[own][:, None]  # (B, K, D)
    far = (logits.amax(1, keepdim=True) - logits) / normal.norm(dim=2).clamp_min(1e-12)
    length, k = far.scatter(1, own[:, None], torch.inf).min(1)
    way = normal[torch.arange(len(x)), k]
    return length, (way / way.norm(dim=1, keepdim=True)).reshape(x.shape)


def centred(classes):
    """A linear model whose labels meet at grey, so that they are near without leaving [0, 1]."""
    model = linear_classifier(classes, SHAPE)
    with torch.no_grad():
        model.network[1].bias.copy_(-0.5 * weights_of(model).sum(1))
    return model


MODEL = centred(3)
BARE = Defense(Chain(), MODEL)
X = 0.4 + 0.2 * KEY.fold("x").uniform(*SHAPE)
OWN = BARE.labels(X, KEY)


def siege(spec, ball, defense=BARE, targeted=False, who=None, access="gradients", **settings):
    recipe = Recipe("theirs", attack=spec, **settings)
    threat = Threat(ball, targeted, access)
    return Siege(defense, recipe, threat, who or Opponents(micro_batch=4))


def test_value_and_gradient_are_those_of_the_view_at_the_same_draws():
    defense = Defense(parse_chain("noise:scale=0.1 + bits:bits=3"), MODEL)
    recipe = Recipe("eot", draws=3)
    module = bridge(defense, KEY, recipe, micro_batch=4)
    leaf = X.clone().requires_grad_()
    logits = module(leaf)
    weights = KEY.fold("w").normal(3)
    (slope,) = torch.autograd.grad((logits * weights).sum(), leaf)

    view = recipe.seen(defense)
    keys = KEY.fold("call", 0).spread("draw", 3)
    twin = X.repeat_interleave(3, 0).requires_grad_()
    each = view.logits(twin, keys).reshape(6, 3, 3)
    (other,) = torch.autograd.grad((each.mean(1) * weights).sum(), twin)
    assert torch.allclose(logits, each.mean(1), atol=1e-5)
    assert torch.allclose(slope, other.reshape(6, 3, *SHAPE).sum(1), atol=1e-5)
    assert slope.abs().max() > 0
    assert not torch.equal(module(X), logits)  # the second call draws afresh
    again = bridge(defense, KEY, recipe, micro_batch=4)
    assert torch.equal(again(X), logits)
    assert module(X[:2]).shape == (2, 3)
    assert not module.train().training


def test_a_module_tells_no_more_than_it_may():
    module = bridge(BARE, KEY, "bpda", access="scores")
    leaf = X.clone().requires_grad_()
    with pytest.raises(BadSetting, match="grants scores only"):
        module(leaf).sum().backward()
    with pytest.raises(BadSetting, match="labels only"):
        bridge(BARE, KEY, "bpda", access="labels")(X)


def test_foolbox_finds_the_nearest_point_of_a_linear_model():
    found = siege("foolbox:L2DeepFoolAttack(steps=20, overshoot=0.01)", L2(10.0)).attack(
        X, OWN, KEY
    )
    optimum, _ = shortest(MODEL, X)
    distance = (found.x - X).flatten(1).norm(dim=1)
    assert bool((found.claim == 1).all())
    assert bool((distance >= 0.999 * optimum).all())
    assert bool((distance <= 1.01 * optimum + 3e-4).all())  # they add 1e-4
    assert bool((found.backwards > 0).all())
    assert not bool(found.strayed.any())


@pytest.mark.parametrize("targeted", [False, True])
def test_foolbox_in_a_ball_just_large_enough_and_just_too_small(targeted):
    model = centred(2)
    defense = Defense(Chain(), model)
    own, optimum = defense.labels(X, KEY), shortest(model, X)[0] / SIZE
    goal = 1 - own if targeted else own
    for factor, falls in ((1.02, 1), (0.98, 0)):
        ball = RmsL2(float(optimum[0]) * factor)
        spec = "foolbox:L2PGD(steps=60, rel_stepsize=0.05)"
        found = siege(spec, ball, defense, targeted).attack(X[:1], goal[:1], KEY[:1])
        assert float(found.claim[0]) == falls


def test_nobody_scores_what_luck_gave():
    label = torch.arange(600) % 10
    x, key = code_images(label, 10), Key.root(0, range(600))
    defense = coin_defense(0.8)
    theirs = siege(
        "foolbox:LinfPGD(steps=3)", Linf(8 / 255), defense, who=Opponents(micro_batch=500)
    )
    found = theirs.attack(x, label, key)
    judged = judge(defense, theirs.threat, found.x, x, key, Judging(draws=20, micro_batch=500))
    assert abs(float((judged.predicted == label[:, None]).double().mean()) - 0.8) < 0.015


def test_points_outside_are_projected_and_said_to_have_been(tmp_path):
    settings = {
        "data": {"source": "digits", "n": 4},
        "model": "digits-cnn",
        "defense": [{"name": "bits", "chain": "bits"}],
        "threat": [{"ball": "linf", "eps": "4/255"}],
        "recipe": [{"kind": "bpda", "attack": "foolbox:L2DeepFoolAttack(steps=5)"}],
        "judge": {"draws": 1, "every": 1},
    }
    out = run_experiment(experiment_from(settings), tmp_path / "run")
    rows = RunFolder(out).rows()
    assert all(row["linf"] <= 4 / 255 + 1e-6 for row in rows)
    assert all(row["flags"] == ["found outside the threat: projected onto it"] for row in rows)
    assert all(row["backwards"] > 0 for row in rows)


def test_global_generators_are_seeded_and_restored():
    spec = "foolbox:LinfPGD(steps=2)"
    before = torch.random.get_rng_state()
    first = siege(spec, Linf(0.05)).attack(X, OWN, KEY)
    assert torch.equal(before, torch.random.get_rng_state())
    assert torch.equal(first.x, siege(spec, Linf(0.05)).attack(X, OWN, KEY).x)
    other = siege(spec, Linf(0.05), restarts=2).attack(X, OWN, KEY)
    assert other.loss.shape == (6, 2)


def test_a_limit_of_passes_ends_it():
    threat = Threat(Linf(0.05), passes=10)
    theirs = Siege(BARE, Recipe("r", attack="foolbox:LinfPGD(steps=30)"), threat)
    found = theirs.attack(X, OWN, KEY)
    assert bool(found.spent.all())
    assert torch.equal(found.x, X)


@pytest.mark.parametrize(
    ("spec", "error", "says"),
    [
        ("foolbox:LinfPDG(steps=2)", UnknownName, 'Did you mean "LinfPGD"'),
        ("foolbox:LinfPGD(2)", BadSetting, "settings are name=value"),
        ("foolbox:LinfPGD(step=", BadSetting, "is not PACKAGE:NAME"),
        ("foolbox:LinfPGD(step=)", BadSetting, "settings are name=value"),
    ],
)
def test_what_no_library_has_is_said_at_once(spec, error, says):
    with pytest.raises(error, match=says):
        foreign_attack(spec)


def test_a_setting_that_it_refuses_is_said():
    with pytest.raises(BadSetting, match="unexpected keyword argument 'stepps'"):
        siege("foolbox:LinfPGD(stepps=2)", Linf(0.1)).attack(X, OWN, KEY)


def test_a_package_that_is_not_there_is_said(monkeypatch):
    monkeypatch.setitem(PACKAGES, "mine", ("no_such_package", None))
    with pytest.raises(BadSetting, match="cannot be imported"):
        foreign_attack("mine:Attack()")


def test_foolbox_attacks_the_module_by_hand():
    module = bridge(Defense(parse_chain("bits"), MODEL), KEY, "bpda")
    theirs = foolbox.PyTorchModel(module, bounds=(0, 1), device="cpu")
    attack = foolbox.attacks.LinfPGD(steps=20, random_start=False)
    _, points, _ = attack(theirs, X, OWN, epsilons=0.1)
    before, after = (cross_entropy()(MODEL(x), OWN, False) for x in (X, points))
    assert bool((after > before).all())


@pytest.mark.parametrize(
    ("package", "spec"),
    [
        ("torchattacks", "torchattacks:PGD(steps=20, alpha=0.02)"),
        ("art", "art:ProjectedGradientDescent(max_iter=20, eps_step=0.02)"),
        ("adv_lib", "adv_lib:pgd_linf(steps=20)"),
    ],
)
def test_other_libraries_raise_the_loss_in_the_ball(package, spec):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip(PACKAGES[package][0], exc_type=ImportError)
    theirs = siege(spec, Linf(0.1))
    found = theirs.attack(X, OWN, KEY)
    assert not bool(found.strayed.any())
    ours = siege("pgd:start=clean", Linf(0.1), steps=20, loss="cross-entropy").attack(X, OWN, KEY)
    assert float(found.claim.mean()) == float(ours.claim.mean())
    assert float((found.x - X).abs().mean()) > 0.02 * 0.1
