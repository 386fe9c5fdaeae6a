"""Radii that do a wanted damage, and targets by what the classifier thinks."""

import pytest
import torch

from besiege.attacks.threat import Dissimilarity, Linf, Threat
from besiege.core.errors import BadSetting
from besiege.core.key import Key
from besiege.defenses.defense import Defense
from besiege.defenses.transform import Chain
from besiege.laws.problems import linear_classifier
from besiege.study.experiment.experiment import experiment_from
from besiege.study.prepared import prepare, ranked_targets
from besiege.study.recipe import Recipe
from besiege.study.siege import Siege
from besiege.study.strength import calibrated

KEY = Key.root(2, range(6))
X = 0.3 + 0.4 * KEY.fold("x").uniform(1, 5, 5)
MODEL = linear_classifier(3, (1, 5, 5))
GOAL = (MODEL(X).argmax(1) + 1) % 3  # of an untargeted threat: met from the start, never dropped


def siege(ball, **settings):
    recipe = Recipe("r", attack="fgsm", links="skip", steps=1, loss="margin", **settings)
    return Siege(Defense(Chain(), MODEL), recipe, Threat(ball, targeted=True))


@pytest.mark.parametrize("wanted", [0.06, 0.02])
def test_the_wanted_mean_is_reached_where_one_step_has_a_known_length(wanted):
    done = calibrated(siege(Linf(0.01)), X, GOAL, KEY, wanted, tolerance=0.01)
    sizes = 5 / X.flatten(1).norm(dim=1)  # a step of eps in 25 pixels is 5 eps long
    assert done.dissimilarity == pytest.approx(wanted, rel=0.01)
    assert done.eps == pytest.approx(wanted / float(sizes.mean()), rel=0.02)
    assert float(Dissimilarity(1.0).size(done.found.x, X).mean()) == pytest.approx(wanted, rel=0.01)
    assert done.tried[-1] == (done.eps, done.dissimilarity)


def test_what_cannot_be_reached_is_said():
    with pytest.raises(BadSetting, match=r"no eps up to 0\.001 gave r"):
        calibrated(siege(Linf(0.01)), X, GOAL, KEY, 0.5, most=0.001)
    with pytest.raises(BadSetting, match="> 0"):
        calibrated(siege(Linf(0.01)), X, GOAL, KEY, 0.0)


@pytest.mark.parametrize("least", [True, False])
def test_ranked_targets_are_the_extremes_of_the_wrong_labels(least):
    with torch.no_grad():
        logits = MODEL(X)
    for label in (logits.argmax(1), logits.argmin(1)):
        target = ranked_targets(MODEL, X, label, least, micro_batch=4)
        for row, own, found in zip(logits.tolist(), label.tolist(), target.tolist(), strict=True):
            wrong = [k for k in range(3) if k != own]
            assert found == (min if least else max)(wrong, key=lambda k: row[k])


@pytest.mark.parametrize("how", ["least-likely", "runner-up"])
def test_an_experiment_takes_them(how):
    prepared = prepare(
        experiment_from(
            {
                "data": {"source": "digits", "n": 4, "targets": how},
                "model": "digits-cnn",
                "defense": [{"name": "bare"}],
                "threat": [{"eps": 0.1, "targeted": True}],
                "recipe": [{"kind": "bpda"}],
            }
        )
    )
    found = prepared.examples((0, 1, 2, 3), Threat(Linf(0.1), targeted=True))
    with torch.no_grad():
        order = prepared.classifier(found.x).argsort(1)
    right = order[:, -1] == found.label
    assert int(right.sum()) >= 3
    at = 0 if how == "least-likely" else -2
    assert torch.equal(found.target[right], order[right, at])
