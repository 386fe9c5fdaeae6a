"""Certificates of a linear classifier are its distances, and no attack refutes any."""

import numpy as np
import pytest
import torch
from scipy.stats import norm
from torch import nn

from besiege.attacks.threat import L2, Threat
from besiege.core.errors import BadSetting
from besiege.core.key import Key
from besiege.defenses.catalog import parse_chain
from besiege.defenses.defense import VOTES, Defense
from besiege.defenses.ensemble import Ensemble, Member
from besiege.laws.problems import linear_classifier, weights_of
from besiege.models.catalog import load_model
from besiege.models.classifier import Classifier
from besiege.study.certify import certify, channel_of, predict
from besiege.study.recipe import Recipe
from besiege.study.siege import Siege

SHAPE, SIGMA = (1, 4, 4), 0.15
KEY = Key.root(3, range(6))
VOTE = "majority:draws=100,quorum=0.655"
PAIR = linear_classifier(2, SHAPE, 321)
X = 0.4 + 0.2 * KEY.uniform(*SHAPE)
MANY = {"samples": 20_000, "select": 1000, "micro_batch": 5000}


class Threshold(nn.Module):
    """Class 1 where the first pixel is above 0.5."""

    def forward(self, x):
        first = x[:, 0, 0, 0] - 0.5
        return torch.stack([-first, first], 1)


THRESHOLD = Classifier(Threshold(), 2, name="threshold", channels=1).eval()


def smooth(chain=f"noise:scale={SIGMA},clip=false", classifier=PAIR, vote=VOTE):
    return Defense(parse_chain(chain), classifier, VOTES.build(vote))


def distances():
    """Of X from the border of PAIR, (6,)."""
    w = weights_of(PAIR).double()
    with torch.no_grad():
        logits = PAIR(X).double()
    return ((logits[:, 0] - logits[:, 1]).abs() / (w[0] - w[1]).norm()).numpy()


@pytest.fixture(scope="module")
def linear():
    return certify(smooth(), X, KEY, **MANY)


def test_a_linear_classifier_is_certified_nearly_to_its_border(linear):
    true = distances()
    assert true.min() > 0.1 * SIGMA
    assert linear.channel == ("gaussian", SIGMA)
    assert linear.answer.tolist() == PAIR(X).argmax(1).tolist()
    assert bool((linear.low <= norm.cdf(true / SIGMA)).all())
    ratio = linear.radius / true
    sure = true > 0.5 * SIGMA
    assert sure.sum() >= 3
    assert bool((ratio <= 1).all())
    assert bool((ratio[sure] > 0.9).all()), ratio
    assert bool((linear.answering < linear.radius).all())


@pytest.mark.parametrize("attack", ["ddn", "fmn"])
def test_no_nearest_attack_comes_within_a_radius(linear, attack):
    """Smoothed by this noise, a linear classifier is itself; so its nearest point is that of g."""
    exact, x = linear_classifier(2, SHAPE, 321, torch.float64), X.double()
    bare = Defense(parse_chain("none"), exact)
    siege = Siege(bare, Recipe("near", attack=attack, steps=120), Threat(L2(4.0)))
    found = siege.attack(x, PAIR(X).argmax(1), KEY)
    assert found.claim.tolist() == [1.0] * len(X)
    sizes = (found.x - x).flatten(1).norm(dim=1).numpy()
    assert bool((sizes > linear.radius).all())
    assert bool((sizes < 1.05 * distances()).all())  # so that it did come near
    assert linear.violated(x, found.x, exact(found.x).argmax(1)).tolist() == []


def test_a_forged_certificate_is_refuted(linear):
    from dataclasses import replace

    w = weights_of(PAIR)
    way = (w[0] - w[1]).reshape(1, *SHAPE)
    sign = (PAIR(X).argmax(1) == 0).float().reshape(-1, 1, 1, 1) * 2 - 1
    length = torch.from_numpy(distances() + 2 * SIGMA).float().reshape(-1, 1, 1, 1)
    x = X - sign * length * way / way.norm()
    found = predict(smooth(), x, KEY, samples=200)
    assert linear.violated(X, x, found).tolist() == []
    forged = replace(linear, radius=linear.radius + 10)
    assert forged.violated(X, x, found).tolist() == list(range(6))
    silent = torch.full_like(found, -1)
    assert forged.violated(X, x, silent).tolist() == []


@pytest.mark.parametrize("kind", ["gaussian", "uniform", "laplace"])
@pytest.mark.parametrize("more", ["", " + bits:bits=6"])
def test_a_threshold_is_certified_to_its_border_whatever_the_noise(kind, more):
    """Clipped after the sum, and with other links behind: both belong to what is smoothed."""
    x = torch.full((3, *SHAPE), 0.5)
    x[:, 0, 0, 0] += torch.tensor([0.06, -0.1, 0.15])
    defense = smooth(f"noise:kind={kind},scale=0.2{more}", THRESHOLD)
    found = certify(defense, x, KEY[:3], **MANY)
    assert found.answer.tolist() == [1, 0, 1]
    true = np.array([0.06, 0.1, 0.15]) + (0.01 if more else 0)  # half a level of 6 bits
    assert bool((found.radius <= true).all())
    assert bool((found.radius[1:] > 0.8 * true[1:]).all()), found.radius


def test_an_adaptive_attack_on_a_network_stays_without_effect():
    """fmn through the deployed noise finds directions; along them, just inside, nothing changes."""
    from besiege.data.catalog import load_images

    x, y, _ = load_images("digits").take(range(5))
    network, key = load_model("digits-cnn"), Key.root(5, range(5))
    deployed = smooth("noise:scale=0.3", network)
    found = certify(deployed, x, key, samples=500, select=50)
    assert found.answer.tolist() == y.tolist()
    one = smooth("noise:scale=0.3", network, "one")
    recipe = Recipe("near", attack="fmn", steps=25, draws=8)
    move = Siege(one, recipe, Threat(L2(6.0))).attack(x, y, key).x - x
    length = move.flatten(1).norm(dim=1)
    assert int((length > 0).sum()) >= 4  # where it finds none it leaves the image as it is
    scale = torch.from_numpy(0.999 * found.radius).float() / length.clamp(min=1e-9)
    inside = x + move * scale.reshape(-1, 1, 1, 1)
    answers = predict(deployed, inside, key, samples=300)
    assert found.violated(x, inside, answers).tolist() == []
    labels = deployed.labels(inside, key)
    assert bool(((labels == y) | (labels == -1)).all())


def test_the_deployed_vote_is_what_the_certificate_says(linear):
    """At the radius of `answering` the vote answers; at that of the theorem it does or abstains."""
    w = weights_of(PAIR)
    way = ((w[0] - w[1]) / (w[0] - w[1]).norm()).reshape(1, *SHAPE)
    sign = (PAIR(X).argmax(1) == 0).float().reshape(-1, 1, 1, 1) * 2 - 1
    own = PAIR(X).argmax(1)
    key = KEY.spread("asked", 50)
    for radius, abstains in ((linear.answering, False), (linear.radius, True)):
        some = torch.from_numpy(np.flatnonzero(radius > 0))
        move = torch.from_numpy(0.999 * radius).float().reshape(-1, 1, 1, 1)
        x = (X - sign * move * way).repeat_interleave(50, 0)
        labels = smooth().labels(x, key).reshape(6, 50)[some]
        right, silent = labels == own[some, None], labels == -1
        assert bool((right | silent).all())
        assert bool(silent.any()) == abstains


def test_predict_abstains_at_the_border_and_answers_away_from_it():
    x = torch.full((2, *SHAPE), 0.5)
    x[1, 0, 0, 0] = 0.9
    assert predict(smooth(classifier=THRESHOLD), x, KEY[:2], samples=300).tolist() == [-1, 1]


def test_certificates_depend_on_seed_and_id_alone():
    some = torch.tensor([4, 1])
    whole = certify(smooth(), X, KEY, samples=600, select=20)
    part = certify(smooth(), X[some], KEY[some], samples=600, select=20, micro_batch=77)
    assert part.low.tolist() == whole.low[[4, 1]].tolist()
    assert part.radius.tolist() == whole.radius[[4, 1]].tolist()


def test_progress_is_told():
    events = []
    certify(smooth(), X, KEY, samples=1200, select=20, micro_batch=600, on_event=events.append)
    assert [e.done for e in events] == [0, 20, 520, 1020, 1220]
    assert {e.total for e in events} == {1220}


@pytest.mark.parametrize(
    ("chain", "width"),
    [
        ("noise:scale=0.2", 0.2),
        ("n=noise:scale=0.2", 0.2),
        ("noise:scale=0.3,convention=released", 0.3 / 3**0.5),
        ("noise:scale=0.1,space=cifar10", 0.1 * 5.5 * 0.1994),  # the least of the channels
    ],
)
def test_the_width_is_that_which_is_deployed(chain, width):
    assert channel_of(smooth(chain)).width == pytest.approx(width)


REFUSED = [
    ({"chain": "bits"}, {}, "no link of it adds gaussian"),
    ({"chain": "bits + noise"}, {}, "bits changes the image before the noise"),
    ({"vote": "one"}, {}, r'deploy "majority:draws=100,quorum=0.655"'),
    ({"vote": "mean"}, {}, "most frequent answer"),
    ({"vote": "majority:draws=128,groups=8"}, {}, "most frequent answer"),
    ({"vote": "majority:draws=16"}, {}, r'15 must agree.*"majority:draws=16,quorum=0.9062"'),
    ({"vote": "majority:draws=9,quorum=0.9"}, {}, "at least 10 draws"),
    ({}, {"samples": 9}, "cannot certify any radius.* at least 10 are needed"),
    ({}, {"samples": 1000, "radius": 0.6}, "radius 0.6, .* at least 218,105 are needed"),
    ({"chain": "noise:kind=uniform,scale=0.1"}, {"radius": 0.2}, "all lie below 0.1"),
    ({}, {"alpha": 0.0}, "alpha"),
    ({}, {"select": 0}, "select"),
]


@pytest.mark.parametrize(("defense", "settings", "says"), REFUSED, ids=[s for *_, s in REFUSED])
def test_what_cannot_be_certified_is_refused(defense, settings, says):
    with pytest.raises(BadSetting, match=says):
        certify(smooth(**defense), X, KEY, **settings)


def test_what_is_advised_can_be_certified():
    for vote in ("majority:draws=100,quorum=0.655", "majority:draws=16,quorum=0.9062"):
        assert certify(smooth(vote=vote), X[:1], KEY[:1], samples=50, select=5).low.shape == (1,)


def test_an_ensemble_is_refused():
    members = tuple(Member(smooth(chain)) for chain in ("noise:scale=0.1", "noise:scale=0.2"))
    with pytest.raises(BadSetting, match="Certify a member"):
        certify(Ensemble(members), X, KEY)


def test_curve_and_sentence():
    found = certify(smooth(), X, KEY, samples=300, select=20)
    wrong = torch.from_numpy(found.answer).clone()
    wrong[0] = 1 - wrong[0].clamp(min=0)
    curve = found.curve(wrong, radius=0.01)
    assert len(curve) == 10
    assert 0.01 in [p.radius for p in curve]
    shares = [p.of_all.estimate for p in curve]
    assert shares == sorted(shares, reverse=True)
    assert shares[0] == np.mean(found.answer == wrong.numpy())
    assert f"{int((found.answer == wrong.numpy()).sum())} of 6 right" in found.sentence(wrong)
