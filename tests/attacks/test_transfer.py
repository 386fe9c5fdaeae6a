"""Attackers of other models, and gradients at varied copies of the point."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from scipy.ndimage import correlate1d

import besiege
from besiege.attacks.attack import Problem
from besiege.attacks.joint import Joint
from besiege.attacks.loss import cross_entropy
from besiege.attacks.mi_fgsm import mi_fgsm
from besiege.attacks.oracle import Meter, Oracle
from besiege.attacks.threat import Linf, Threat
from besiege.attacks.varied import Varied, smoothed
from besiege.core.errors import BadSetting, UnknownName
from besiege.core.key import Key
from besiege.defenses.catalog import parse_chain
from besiege.defenses.defense import Defense
from besiege.defenses.transform import Chain
from besiege.laws.problems import linear_classifier
from besiege.models.digits_cnn import digits_cnn
from besiege.study.experiment.experiment import load_experiment
from besiege.study.prepared import prepare
from besiege.study.recipe import Recipe
from besiege.study.siege import Opponents, Siege

SHAPE = (1, 6, 5)
KEY = Key.root(3, range(5))
X = KEY.fold("x").uniform(*SHAPE, dtype=torch.float64)
GOAL = torch.tensor([0, 1, 2, 0, 1])
OWN, OTHER, THIRD = (linear_classifier(3, SHAPE, seed=s, dtype=torch.float64) for s in range(3))
BARE = Defense(Chain(), OWN)
THREAT = Threat(Linf(0.05))
WHO = Opponents(micro_batch=4, models={"other": OTHER, "third": THIRD})


def oracle(model=OWN, meter=None, **settings):
    view = Defense(Chain(), model)
    return Oracle(view, cross_entropy(), THREAT, meter or Meter(None), micro_batch=4, **settings)


def transfer(*models, threat=THREAT, defense=BARE, **settings):
    recipe = Recipe("r", attack="pgd:start=clean", models=models, links="skip", **settings)
    return Siege(defense, recipe, threat, WHO)


def test_a_transfer_is_the_attack_on_the_other_model():
    far, goal = Threat(Linf(1e-3)), OTHER(X).argmax(1)  # no success that would end the second early
    found = transfer("other", threat=far, steps=5).attack(X, goal, KEY)
    recipe = Recipe("r", attack="pgd:start=clean", links="skip", steps=5)
    there, here = (
        Siege(Defense(Chain(), m), recipe, far, WHO).attack(X, goal, KEY) for m in (OTHER, OWN)
    )
    assert torch.equal(found.x, there.x)
    assert not torch.equal(found.x, here.x)


@pytest.mark.parametrize("joined", ["logits", "probabilities", "loss"])
def test_several_models_are_asked_together(joined):
    siege = transfer("other", "third", joined=joined)
    leaf = X.clone().requires_grad_()
    each = [m(leaf) for m in (OTHER, THIRD)]
    loss = {
        "logits": lambda: cross_entropy()((each[0] + each[1]) / 2, GOAL, False),
        "probabilities": lambda: cross_entropy()(
            (each[0].softmax(1) / 2 + each[1].softmax(1) / 2).log(), GOAL, False
        ),
        "loss": lambda: sum(cross_entropy()(z, GOAL, False) for z in each) / 2,
    }[joined]()
    (slope,) = torch.autograd.grad(loss.sum(), leaf)
    meter = Meter(None)
    reading = siege.ask(meter, 1)(X, GOAL, KEY)
    assert torch.allclose(reading.loss, loss.detach(), atol=1e-6)
    assert torch.allclose(reading.gradient, slope, atol=1e-6)
    assert (meter.forwards, meter.backwards) == (2, 2)


def test_the_links_stay_where_the_view_keeps_them():
    defense = Defense(parse_chain("bits"), OWN)
    recipe = Recipe("r", models=("other",))
    (view,) = Siege(defense, recipe, THREAT, WHO).views
    assert [link.name for link in view.links] == ["bits"]
    assert view.parts[0].classifier is OTHER


def test_other_models_are_the_attackers_own_whatever_is_granted():
    hidden = Threat(Linf(0.05), access="labels")
    found = transfer("other", threat=hidden, steps=3).attack(X, GOAL, KEY)
    assert bool((found.backwards == 4 - 1).all())
    checked = transfer("other", threat=hidden, steps=3, check_whole=True).attack(X, GOAL, KEY)
    own = OWN(checked.x).argmax(1) != GOAL
    assert torch.equal(checked.claim == 1, own)  # asked by the defense itself, not by the other


@pytest.mark.parametrize(
    ("models", "error", "says"),
    [
        ((), BadSetting, "name them"),
        (("othr",), UnknownName, 'Did you mean "other"'),
        (("small",), BadSetting, "labels would not mean the same"),
    ],
)
def test_models_that_are_not_there_or_do_not_fit_are_said(models, error, says):
    who = Opponents(models={**WHO.models, "small": linear_classifier(2, SHAPE)})
    with pytest.raises(error, match=says):
        Siege(BARE, besiege.RECIPES.build("transfer", models=models), THREAT, who)
    with pytest.raises(UnknownName, match='Did you mean "logits"'):
        Recipe("r", joined="logit")


TOML = """
data = { source = "digits", n = 2 }
model = "digits-cnn"
[[defense]]
name = "bare"
[[threat]]
eps = 0.1
[[recipe]]
kind = "transfer"
models = ["file:near/weights.safetensors"]
steps = 2
"""


def test_a_file_names_other_models_by_paths_from_its_folder(tmp_path, monkeypatch):
    (tmp_path / "near").mkdir()
    (tmp_path / "e.toml").write_text(TOML)
    weights = tmp_path / "near" / "weights.safetensors"
    state = {k: v.clone() for k, v in digits_cnn().network.state_dict().items()}
    save_file(state, weights)
    monkeypatch.chdir("/")
    first = prepare(load_experiment(tmp_path / "e.toml")).records[0]["cell"]
    moved = tmp_path / "moved"
    moved.mkdir()
    (tmp_path / "near").rename(moved / "near")
    (moved / "e.toml").write_text(TOML)
    assert prepare(load_experiment(moved / "e.toml")).records[0]["cell"] == first
    name = next(k for k in state if k.endswith("weight"))
    save_file({**state, name: state[name] + 0.01}, moved / "near" / "weights.safetensors")
    assert prepare(load_experiment(moved / "e.toml")).records[0]["cell"] != first


def test_in_memory_models_go_by_the_names_they_are_given():
    recipe = Recipe("transfer", models=("mine",), links="skip", steps=3)
    own, other = (linear_classifier(3, SHAPE, seed=s) for s in (0, 1))
    x = X.float()
    y, defense = own(x).argmax(1), besiege.Defense(Chain(), own)
    attackers = ["none", "oblivious", recipe]
    done = besiege.evaluate(defense, x, y, Linf(0.3), recipes=attackers, models={"mine": other})
    clean, oblivious, moved = (row.accuracy.estimate for row in done.lines)
    assert clean == 1
    assert oblivious < 0.6
    assert moved > oblivious  # the models are two independent ones


def test_copies_follow_the_chain_rule():
    meter = Meter(None)
    reading = Varied(probability=0, copies=3)(oracle(meter=meter))(X, GOAL, KEY)
    leaf = X.clone().requires_grad_()
    loss = sum(cross_entropy()(OWN(leaf / 2**i), GOAL, False) for i in range(3)) / 3
    (slope,) = torch.autograd.grad(loss.sum(), leaf)
    assert torch.allclose(reading.gradient, slope, atol=1e-6)
    assert torch.equal(reading.loss, oracle()(X, GOAL, KEY).loss)
    assert (meter.forwards, meter.backwards) == (3, 3)


def test_shrunk_images_are_whole_on_black_and_gradients_come_back_through_them():
    seen = []
    many = Key.root(9, range(60))
    x = 0.5 + 0.5 * many.fold("x").uniform(1, 12, 10, dtype=torch.float64)
    goal = torch.zeros(60, dtype=torch.int64)
    model = linear_classifier(3, (1, 12, 10), dtype=torch.float64)
    inner = oracle(model)

    def ask(x, goal, key, **how):
        seen.append(x)
        return inner(x, goal, key, **how)

    reading = Varied(probability=0.5, resize=0.6)(ask)(x, goal, many)
    copy, itself = seen
    assert torch.equal(itself, x)
    same = (copy == x).flatten(1).all(1)
    assert 12 < int(same.sum()) < 48
    for image, source in zip(copy[~same], x[~same], strict=True):
        rows, columns = (image[0] > 0).any(1).nonzero(), (image[0] > 0).any(0).nonzero()
        height, width = (int(v.max() - v.min()) + 1 for v in (rows, columns))
        assert 7 <= height <= 12
        assert 6 <= width <= 10
        assert bool(
            (image[0, rows.min() : rows.max() + 1, columns.min() : columns.max() + 1] > 0).all()
        )
        assert set(image[image > 0].tolist()) <= set(source.flatten().tolist())
    # d loss / d x is that at the copy, each entry added where it was read from
    slope = inner(copy, goal, many.fold("copy", 0)).gradient
    assert torch.equal(reading.gradient[same], slope[same])
    total, back = (v[~same].flatten(1).sum(1) for v in (slope * (copy > 0), reading.gradient))
    assert torch.allclose(total, back)


@pytest.mark.parametrize("kernel", [1, 3, 7])
def test_smoothing_is_scipys(kernel):
    taps = np.exp(-(np.linspace(-3, 3, kernel) ** 2) / 2) if kernel > 1 else np.ones(1)
    taps /= taps.sum()
    other = X.numpy()
    for axis in (2, 3):
        other = correlate1d(other, taps, axis=axis, mode="constant")
    assert np.allclose(smoothed(X, kernel).numpy(), other)


def test_rows_of_varied_gradients_do_not_depend_on_their_batch():
    ask = Varied(probability=0.7, resize=0.5, kernel=3, copies=2)(oracle())
    whole, part = ask(X, GOAL, KEY), ask(X[2:3], GOAL[2:3], KEY[2:3])
    assert torch.equal(whole.gradient[2:3], part.gradient)
    assert torch.equal(whole.loss[2:3], part.loss)


def test_nesterov_asks_where_the_sum_leads():
    asked = []

    def ask(x, goal, key, **how):
        asked.append(x)
        return oracle()(x, goal, key, **how)

    p = Problem(X, GOAL, KEY, ask, THREAT, 3)
    attack = mi_fgsm(step=0.2, decay=0.5, nesterov=True)
    state = attack.step(p, attack.init(p), 0)
    attack.step(p, state, 1)
    assert torch.equal(asked[0], X)
    ahead = THREAT.project(state.x + 0.2 * 0.05 * 0.5 * state.velocity, X)
    assert torch.equal(asked[1], ahead)
    assert not torch.equal(ahead, state.x)


def test_a_joint_of_one_is_that_one():
    alone, joint = oracle()(X, GOAL, KEY.fold("oracle", 0)), Joint([oracle()])(X, GOAL, KEY)
    assert torch.equal(alone.gradient, joint.gradient)
    assert torch.equal(alone.won, joint.won)


@pytest.mark.parametrize(
    "setting", [{"kernel": 2}, {"copies": 0}, {"probability": 2}, {"resize": 0}]
)
def test_settings_out_of_range_are_refused(setting):
    with pytest.raises(BadSetting, match="varied gradients take"):
        Varied(**setting)
