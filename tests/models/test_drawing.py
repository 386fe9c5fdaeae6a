"""Networks that draw from global generators, or from their own: noticed, and asked by key."""

import random  # noqa: TID251 - the generators that foreign networks use

import numpy as np
import pytest
import torch
from torch import nn

import besiege
from besiege.core.generators import standing
from besiege.core.key import Key
from besiege.core.store import RunFolder
from besiege.defenses.defense import Defense
from besiege.defenses.transform import Chain
from besiege.laws.problems import code_images, coin_defense, linear_classifier
from besiege.models.callable import from_callable
from besiege.models.classifier import Classifier
from besiege.models.drawing import Generators, draws_for_itself, generators, taken_over
from besiege.study.experiment.experiment import experiment_from
from besiege.study.prepared import prepare
from besiege.study.rejudge import rejudge
from besiege.study.run import run_experiment

CPU = torch.device("cpu")
KEY = Key.root(3, range(6))
X = KEY.fold("x").uniform(1, 4, 4)
LINEAR = linear_classifier()
SPELLER = coin_defense(1.0).parts[0].classifier

TOSSES = {
    "torch": lambda: float(torch.rand(())),  # noqa: TID251
    "numpy": np.random.rand,  # noqa: TID251
    "python": random.random,
}


def private(seed):
    """A generator that no key reaches."""
    return np.random.default_rng(seed).random  # noqa: TID251


class Coin(nn.Module):
    """Right with probability p, one toss for all that it is given."""

    def __init__(self, toss, p, network=LINEAR):
        super().__init__()
        self.toss, self.p, self.network = toss, p, network

    def forward(self, x):
        logits = self.network(x)
        if self.toss() < self.p:
            return logits
        return logits.roll(1 + int(self.toss() * (logits.shape[1] - 1)), 1)


class Dropped(nn.Module):
    """Noise of its own for every row, and dropout that no mode switches off."""

    def forward(self, x):
        noise = torch.randn_like(x)  # noqa: TID251
        return LINEAR(nn.functional.dropout(x, 0.3, training=True) + 0.1 * noise)


def drawn(module, channels=1, classes=3):
    return Classifier(module.eval(), classes, name="foreign", channels=channels)


@pytest.mark.parametrize("toss", TOSSES)
def test_a_rare_draw_from_a_global_generator_is_always_noticed(toss):
    before = standing(CPU)
    for p in (0.5, 0.95, 0.9999):
        found = generators(drawn(Coin(TOSSES[toss], p)), X)
        assert found == Generators(shared=True, own=False)
    assert standing(CPU) == before


def test_a_generator_of_its_own_is_noticed_by_its_answers():
    """The chance to miss a coin of 95 % is 0.95^90 = 1 %."""
    noticed = [generators(drawn(Coin(private(i), 0.95)), X).own for i in range(40)]
    assert sum(noticed) >= 38


def test_what_does_not_draw_is_left_as_it_is():
    assert generators(LINEAR, X) == Generators(shared=False, own=False)
    assert taken_over(LINEAR, X) is LINEAR
    once = taken_over(drawn(Dropped()), X)
    assert taken_over(once, X) is once
    assert not draws_for_itself(once)
    assert draws_for_itself(taken_over(drawn(Coin(private(0), 0.5)), X))


@pytest.mark.parametrize("module", [Dropped(), Coin(TOSSES["torch"], 0.5)])
def test_an_image_draws_by_its_key_alone(module):
    """The same bits alone, in a batch and in another order; others under another key."""
    defense = Defense(Chain(), taken_over(drawn(module), X))
    assert defense.is_random((1, 4, 4))
    before, key = standing(CPU), Key.root(0, range(6))
    whole = defense.logits(X, key)
    back = torch.arange(5, -1, -1)
    assert torch.equal(defense.logits(X[back], key[back]).flip(0), whole)
    assert torch.equal(defense.logits(X[4:5], key[4:5]), whole[4:5])
    others = torch.stack([defense.logits(X, key.fold(i)) for i in range(20)])
    assert (others != whole).any(0).any(1).all()
    assert standing(CPU) == before
    frozen = defense.seen_through({"classifier": "frozen"})
    assert torch.equal(frozen.logits(X, key.fold(1)), frozen.logits(X, key.fold(2)))


def test_tosses_of_a_batch_are_independent():
    """300 images, one toss each: within four standard errors, and their pairs too."""
    x = X[:1].expand(300, -1, -1, -1)
    defense = Defense(Chain(), taken_over(drawn(Coin(TOSSES["torch"], 0.8)), x))
    key = Key.root(1, range(300))
    right = (defense.labels(x, key) == LINEAR(x).argmax(1)).double()
    again = (defense.labels(x, key.fold("again")) == LINEAR(x).argmax(1)).double()
    assert abs(right.mean() - 0.8) < 0.1
    assert abs((right * again).mean() - 0.64) < 0.12


def test_a_gradient_passes_through_what_was_drawn():
    model = taken_over(drawn(Dropped()), X)
    x = X.clone().requires_grad_()
    Defense(Chain(), model).logits(x, KEY)[:, 0].sum().backward()
    weight = LINEAR.network[1].weight[0].reshape(1, 4, 4)
    kept = x.grad / weight
    assert torch.isclose(kept, torch.tensor(1 / 0.7)).logical_or(kept == 0).all()
    assert 0.5 < (kept != 0).double().mean() < 0.9


def test_a_foreign_coin_scores_p_as_it_is_handed_in():
    """20 draws of 200 images: four standard errors are 2.5 points."""
    label = torch.arange(200) % 10
    x, coin = code_images(label, 10), drawn(Coin(TOSSES["torch"], 0.8, SPELLER), classes=10)
    found = besiege.evaluate(
        *(Defense(Chain(), coin), x, label, besiege.Linf(8 / 255)), recipes=["none"], micro_batch=64
    )
    (line,) = found.lines
    assert abs(line.accuracy.estimate - 0.8) < 0.025
    assert line.flags == {"foreign draws: it is asked one image at a time": 200}


@pytest.mark.parametrize("recipe", ["bpda+eot", "adaptive"])
def test_no_attacker_moves_a_foreign_coin(recipe):
    label = torch.arange(50) % 10
    x, coin = code_images(label, 10), drawn(Coin(TOSSES["numpy"], 0.8, SPELLER), classes=10)
    more = {"budget": 30} if recipe == "adaptive" else {"steps": 1}
    found = besiege.evaluate(
        *(Defense(Chain(), coin), x, label, besiege.Linf(8 / 255)), recipes=[recipe], **more
    )
    assert abs(found.lines[0].accuracy.estimate - 0.8) < 0.051  # of 1,000 draws


def test_a_generator_of_its_own_is_said_with_the_rows():
    model = from_callable(Coin(private(0), 0.5).eval(), 3, name="mine", channels=1)
    y = torch.zeros(len(X), dtype=torch.long)
    found = besiege.evaluate(Defense(Chain(), model), X, y, besiege.Linf(0.1), recipes=["none"])
    assert "unkeyed: mine draws from a generator of its own" in found.lines[0].flags


def test_a_link_that_tosses_a_coin_and_denies_it_is_always_refused():
    toss = TOSSES["torch"]
    link = besiege.Opaque(lambda x: x if toss() < 0.9 else 1 - x, is_random=False, name="coin")
    idle = besiege.Opaque(lambda x: x + 0 * toss(), is_random=False, name="idle")
    y = torch.zeros(len(X), dtype=torch.long)
    goal = besiege.Linf(0.1)
    for _ in range(10):
        with pytest.raises(besiege.BesiegeError, match="coin says that it draws nothing"):
            besiege.evaluate(Defense(Chain((link,)), LINEAR), X, y, goal, recipes=["none"])
    besiege.evaluate(Defense(Chain((idle,)), LINEAR), X, y, goal, recipes=["none"])


MODEL = """
import torch

class Noisy(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.eval()

    def forward(self, x):
        return 9 * x.flatten(1)[:, 20:30] + 3 * torch.randn(len(x), 10)
"""


def test_a_model_of_ones_own_file_is_judged_on_many_draws_and_repeats(tmp_path):
    (tmp_path / "own.py").write_text(MODEL)
    settings = {
        "data": {"source": "digits", "n": 6, "targets": "least-likely"},
        "model": "own.py:Noisy",
        "defense": [{"name": "bare"}],
        "threat": [{"eps": 0.1, "targeted": True}],
        "recipe": [{"kind": "none"}, {"kind": "bpda", "steps": 2}],
        "judge": {"draws": 8},
        "keep": {"images": "all"},
    }
    experiment = experiment_from(settings, home=tmp_path)
    assert prepare(experiment).classifier.draws
    run = run_experiment(experiment, tmp_path / "run")
    rows = RunFolder(run).rows()
    assert {len(row["predicted"]) for row in rows} == {8}
    assert any(len(set(row["predicted"])) > 1 for row in rows)
    assert rejudge(run).confirmed
