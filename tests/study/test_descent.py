"""The descent test knows good surrogates from flipped, displaced and useless ones."""

from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F

import besiege
from besiege.core.errors import BadSetting, UnknownName
from besiege.core.key import Key
from besiege.defenses.defense import Defense
from besiege.defenses.identity import Identity
from besiege.defenses.transform import Chain, Transform, identity
from besiege.laws.problems import linear_classifier
from besiege.models.classifier import Classifier
from besiege.study.adaptive.descent import RANDOM, descent

N = 24
SHAPE = (1, 8, 8)


@pytest.fixture(scope="module")
def digits():
    x, y, _ = besiege.load_images("digits").take(range(N))
    return besiege.load_model("digits-cnn"), x, y


@dataclass(frozen=True)
class Guessed(Transform):
    """The identity, with surrogates of every kind."""

    name: str = "guessed"

    def forward(self, x, draw):
        return x

    @property
    def surrogates(self):
        return {
            "flipped": lambda x, draw: -x,
            "displaced": lambda x, draw: x.roll((4, 3), (2, 3)),
            "cut": lambda x, draw: 0 * x,
            "exact": self.forward,
        }


def of(classifier, link, x, y, **more):
    defense = Defense(Chain((link,)), classifier)
    return descent(defense, link.name, x, y, Key.root(0, range(len(x))), **more)


def test_the_gain_of_a_linear_classifier_is_the_one_computed_by_hand():
    """Two classes: the loss is softplus of a margin that a step raises by size |w|_1."""
    net = linear_classifier(2, SHAPE, dtype=torch.float64)
    x = 0.25 + 0.5 * Key.root(1, range(N)).uniform(*SHAPE, dtype=torch.float64)
    y = torch.arange(N) % 2
    weight = net.network[1].weight.detach()
    found = of(net, Identity(), x, y, sizes=(0.01,))
    logits = net(x).detach()
    margin = logits.gather(1, (1 - y)[:, None])[:, 0] - logits.gather(1, y[:, None])[:, 0]
    rise = 0.01 * (weight[0] - weight[1]).abs().sum()
    before, after = F.softplus(margin), F.softplus(margin + rise)
    wanted = float((after - before).mean() / before.mean())
    assert found.gain("exact") == pytest.approx(wanted, rel=1e-9)
    (exact, *_) = found.steps
    assert exact.share.estimate == 1
    assert exact.leads


def test_exact_wins_and_what_is_flipped_or_displaced_loses(digits):
    found = of(digits[0], Guessed(), *digits[1:], sizes=(0.02, 0.05))
    assert found.ranking[0] in ("exact", "identity")
    assert found.gain("exact") == found.gain("identity")
    assert found.ranking.index("flipped") > found.ranking.index(RANDOM)
    assert found.gain("flipped") < 0
    assert found.gain("displaced") < 0.5 * found.gain("exact")
    by_name = {(s.surrogate, s.size): s for s in found.steps}
    for size in (0.02, 0.05):
        assert by_name["exact", size].share.estimate > 0.95
        assert by_name["flipped", size].share.estimate < 0.1
        assert not by_name["flipped", size].leads
        assert by_name[RANDOM, size].share.estimate == 0.5
        assert by_name["cut", size].share.estimate < 0.7  # no step at all gains nothing
    assert found.gain("cut") == 0
    assert "no better than random" in str(found)


def test_two_pixels(digits):
    """The released FD moves an image of 35 px by 2 px: the identity falls behind."""
    own, x, y = digits
    net = Classifier(own.network, 10, float(own.mean), float(own.std), size=32, channels=1).eval()
    x = F.interpolate(x, (35, 35), mode="bilinear").clamp(0, 1)
    link = besiege.parse_chain("fd:form=released").links[0]
    assert link.displacement(35, 35) == (2, 2)
    found = of(net, link, x, y, sizes=(0.05,))
    assert found.ranking.index("straight-through") < found.ranking.index("identity")
    assert found.gain("straight-through") > 2 * found.gain("identity")
    aligned = of(net, besiege.parse_chain("fd").links[0], x, y, sizes=(0.05,))
    assert aligned.gain("identity") == pytest.approx(aligned.gain("straight-through"), rel=0.1)


def test_a_random_warp(digits):
    """The identity is wrong by the displacement; keyed draws give the same figures twice."""
    link = besiege.parse_chain("rdg:limit=0.4,cells=4").links[0]
    found = of(digits[0], link, *digits[1:], sizes=(0.05,), draws=6, fresh=6)
    assert found.ranking[0] == "exact"
    assert found.gain("exact") > 1.2 * found.gain("identity")
    again = of(digits[0], link, *digits[1:], sizes=(0.05,), draws=6, fresh=6)
    assert found == again


def test_targets_are_approached(digits):
    net, x, y = digits
    found = of(net, Identity(), x, (y + 1) % 10, sizes=(0.05,), targeted=True)
    assert found.steps[0].share.estimate > 0.95
    assert found.gain("exact") > 0.1 > found.gain(RANDOM)


@dataclass(frozen=True)
class Halves(Transform):
    """Changes the size, so that the identity is no surrogate."""

    name: str = "halves"

    def forward(self, x, draw):
        return x[..., ::2, ::2]

    def out_shape(self, shape):
        return (shape[0], shape[1] // 2, shape[2] // 2)

    @property
    def surrogates(self):
        return {"exact": self.forward}


def test_other_links_and_other_sizes():
    net = linear_classifier(3, SHAPE)
    x = Key.root(1, range(6)).uniform(1, 16, 16)
    defense = Defense(Chain((Guessed(), Halves())), net)
    key, y = Key.root(0, range(6)), torch.arange(6) % 3
    assert {s.surrogate for s in descent(defense, "halves", x, y, key).steps} == {"exact", RANDOM}
    some = descent(defense, "guessed", x, y, key, surrogates=["identity"], sizes=[0.1])
    assert [s.surrogate for s in some.steps] == ["identity", RANDOM]
    with pytest.raises(UnknownName, match='Did you mean "halves"'):
        descent(defense, "halve", x, y, key)
    with pytest.raises(UnknownName, match='Did you mean "flipped"'):
        descent(defense, "guessed", x, y, key, surrogates=["flippd"])
    with pytest.raises(UnknownName, match='Did you mean "identity"'):
        some.gain("identit")
    with pytest.raises(BadSetting, match="sizes > 0"):
        descent(defense, "halves", x, y, key, sizes=[0.0])


def test_identity_is_what_a_link_without_surrogates_has():
    link = Guessed()
    assert identity not in link.surrogates.values()
    net = linear_classifier(3, SHAPE)
    found = of(net, link, torch.full((3, *SHAPE), 0.5), torch.arange(3), sizes=(0.1,))
    assert "identity" in found.ranking
