"""Few rows go through the network as few where that changes no bit, and as many where it would."""

import pytest
import torch
from torch import nn

from besiege.attacks.finite_differences import FiniteDifferences
from besiege.attacks.joint import Joint
from besiege.attacks.loss import cross_entropy, margin
from besiege.attacks.oracle import Meter, Oracle
from besiege.attacks.threat import L0, L2, Linf, Threat
from besiege.attacks.varied import Varied
from besiege.core.batch import row_sum
from besiege.core.key import Key
from besiege.core.windows import Windows
from besiege.defenses.defense import Defense
from besiege.defenses.transform import Chain
from besiege.laws.problems import linear_classifier
from besiege.models.classifier import Classifier
from besiege.study.recipe import Recipe
from besiege.study.siege import Opponents, Siege

SHAPE = (1, 4, 4)
KEY = Key.root(1, range(6))
X = KEY.fold("x").uniform(*SHAPE, dtype=torch.float64)
GOAL = torch.tensor([0, 1, 2, 0, 1, 2])
MODEL = linear_classifier(3, SHAPE, dtype=torch.float64)
THREAT = Threat(Linf(0.2))


class Watched(nn.Module):
    """Row-wise logits, and how many rows came in; `drift` makes them depend on that."""

    def __init__(self, drift=0.0):
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(-1, 1, 48, dtype=torch.float64).reshape(3, 16))
        self.drift, self.seen = drift, []

    def forward(self, x):
        self.seen.append(len(x))
        square = (x.flatten(1) ** 2)[:, None] * self.weight
        return row_sum(square.flatten(0, 1)).reshape(-1, 3) * (1 + self.drift * len(x))


def asked(network, gradient, calls=40, rows=6):
    model = Classifier(network, 3, channels=1).double().eval()
    ask = Oracle(Defense(Chain(), model), margin(), THREAT, Meter(None), micro_batch=32)
    return [ask(X[:rows], GOAL[:rows], KEY[:rows], gradient=gradient) for _ in range(calls)]


@pytest.mark.parametrize("gradient", [False, True])
def test_a_network_that_rounds_alike_is_handed_no_more_rows_than_there_are(gradient):
    network = Watched()
    found = asked(network, gradient)
    assert network.seen[0] == 32  # nothing is tried before filling up has cost as much
    assert network.seen[-30:] == [8] * 30
    for reading in found[1:]:
        assert torch.equal(reading.loss, found[0].loss)
        assert not gradient or torch.equal(reading.gradient, found[0].gradient)


@pytest.mark.parametrize("gradient", [False, True])
def test_a_network_that_rounds_by_the_size_of_its_batch_always_sees_full_ones(gradient):
    network = Watched(drift=1e-15)
    found = asked(network, gradient)
    assert network.seen[-30:] == [32] * 30
    assert all(torch.equal(reading.loss, found[0].loss) for reading in found)


def test_a_length_is_tried_once_filling_up_has_cost_as_many_rows():
    tried, windows = [], Windows(32)

    def same(rows):
        tried.append(rows)
        return rows == 12

    lengths = [len(i) for _ in range(4) for _, i in windows.over(70 + 3, "forward", same)]
    assert lengths == [32, 32, 32, 32, 32, 32, 32, 32, 12, 32, 32, 12]
    assert tried == [12]
    assert [len(i) for _, i in windows.over(31, "forward", same)] == [32]
    ((rows, index),) = list(windows.over(9, "forward", same))
    assert (rows, index.tolist()) == (slice(0, 9), [*range(9), 0, 0, 0])


WEIGHTS = KEY.fold("weights").normal(4, 3).double()


def oracles(meter):
    made = Oracle(Defense(Chain(), MODEL), cross_entropy(), THREAT, meter, micro_batch=4)
    return {
        "backward": made,
        "finite differences": FiniteDifferences(16, "coordinates", shared=True)(made),
        "varied": Varied(probability=1.0, kernel=3, copies=2)(made),
        "joint": Joint([made, made]),
    }


@pytest.mark.parametrize("name", list(oracles(Meter(None))))
@pytest.mark.parametrize("draws", [1, 3])
def test_several_gradients_are_those_asked_one_by_one(name, draws):
    ask = oracles(Meter(None))[name]
    found = ask(X, GOAL, KEY, draws=draws, weights=WEIGHTS)
    assert found.gradient.shape == (6, 4, *SHAPE)
    for i, weights in enumerate(WEIGHTS.unbind(1)):
        alone = ask(X, GOAL, KEY, draws=draws, weights=weights)
        assert torch.equal(found.gradient[:, i], alone.gradient)
        assert torch.equal(found.scores, alone.scores)
        assert torch.equal(found.loss, alone.loss)


@pytest.mark.parametrize(
    ("name", "forwards", "backwards"),
    [("backward", 2, 8), ("finite differences", 66, 0), ("joint", 4, 16)],
)
def test_several_gradients_share_their_forward_passes(name, forwards, backwards):
    meter = Meter(None)
    oracles(meter)[name](X, GOAL, KEY, draws=2, weights=WEIGHTS)
    assert (meter.forwards, meter.backwards) == (forwards, backwards)


@pytest.mark.parametrize(
    ("spec", "ball", "forwards", "backwards"),
    [
        # the clean image, a forward for slopes and one to look a step, and the last point
        ("deepfool", L2(9.0), 1 + 2 * 1 + 1, 2),
        ("jsma", L0(2), 1 + 1 + 1, 2),
    ],
)
def test_passes_are_those_of_the_docstring(spec, ball, forwards, backwards):
    own = MODEL(X).argmax(1)
    recipe = Recipe("r", attack=spec, steps=1)
    siege = Siege(Defense(Chain(), MODEL), recipe, Threat(ball), Opponents())
    found = siege.attack(X, own, KEY)
    # A step of DeepFool ends a linear model's image: no last point is looked at again.
    assert found.forwards.max() <= forwards
    assert found.forwards.min() >= forwards - 1
    assert found.backwards.tolist() == [backwards] * 6
