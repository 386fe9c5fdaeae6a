"""Votes, views, grafts and chains: what is deployed and what an attacker builds of it."""

from dataclasses import dataclass, replace

import pytest
import torch
from torch import nn

from besiege.core.errors import BadSetting, UnknownName
from besiege.core.key import Key
from besiege.defenses.catalog import parse_chain
from besiege.defenses.defense import ABSTAIN, Defense, Majority, Mean, One
from besiege.defenses.transform import Chain, Frozen, Graft, Named, Transform, module
from besiege.laws.problems import coin_defense, linear_classifier
from besiege.models.stages import Noise
from besiege.study.recipe import Recipe
from besiege.study.recipes import RECIPES

KEY = Key.root(2, range(4))
X = KEY.fold("x").uniform(1, 8, 8)
LOGITS = torch.tensor([[[4.0, 0, 0], [0, 1, 0], [0, 1, 0]], [[0, 0, 9], [0, 1, 0], [1, 0, 0]]])


@dataclass(frozen=True)
class Halve(Transform):
    """Every second row and column: a link that changes the shape."""

    name: str = "halve"

    def forward(self, x, draw):
        return x[..., ::2, ::2]

    def out_shape(self, shape):
        return (shape[0], -(-shape[1] // 2), -(-shape[2] // 2))


@dataclass(frozen=True)
class Shift(Transform):
    """Adds a keyed number; its shape tells which shape it was handed."""

    name: str = "shift"

    def draw(self, key, shape):
        return key.uniform(*shape)

    def forward(self, x, draw):
        return (x + 0.1 * draw).clamp(0, 1)

    @property
    def surrogates(self):
        return {"exact": self.forward, "double": lambda x, draw: 2 * x}


def test_votes_are_what_their_names_say():
    assert One().labels(LOGITS).tolist() == [0, 2]
    assert Mean(3, "logits").labels(LOGITS).tolist() == [0, 2]
    assert Majority(3).labels(LOGITS).tolist() == [1, 0]
    assert Majority(3, quorum=0.5).labels(LOGITS).tolist() == [1, ABSTAIN]
    expected = LOGITS.softmax(-1).mean(1)
    assert torch.allclose(Mean(3).scores(LOGITS).exp(), expected)


def test_a_draw_without_an_answer_is_no_vote():
    broken = LOGITS.clone()
    broken[0, 0] = torch.nan
    assert One().labels(broken).tolist() == [ABSTAIN, 2]
    assert Majority(3).labels(broken).tolist() == [1, 0]


@pytest.mark.parametrize("make", [lambda: Mean(0), lambda: Majority(3, 1.0), lambda: Majority(-1)])
def test_impossible_votes_are_refused(make):
    with pytest.raises(BadSetting):
        make()


def test_a_majority_of_coins_is_right_more_often():
    label = torch.arange(1000) % 10
    x = (label.float()[:, None, None, None] + 0.5).div(10).expand(-1, 1, 4, 4)
    key = Key.root(0, range(1000))
    alone = coin_defense(0.7)
    voted = Defense(alone.chain, alone.classifier, Majority(15))
    assert (alone.labels(x, key) == label).double().mean() < 0.75
    assert (voted.labels(x, key) == label).double().mean() > 0.93  # binomial: 0.950


def test_a_chain_hands_each_link_its_own_shape_and_key():
    chain = Chain((Shift(), Halve(), Named(Shift(), "again")))
    draw = chain.draw(KEY, (1, 8, 8))
    assert draw[0].shape == (4, 1, 8, 8)
    assert draw[1] is None
    assert draw[2].shape == (4, 1, 4, 4)
    assert not torch.equal(draw[0][..., :4, :4], draw[2])
    assert chain.out_shape((1, 8, 8)) == (1, 4, 4)
    assert chain.forward(X, draw).shape == (4, 1, 4, 4)
    assert Chain((Halve(),)).draw(KEY, (1, 8, 8)) is None


def test_a_graft_has_the_value_of_the_link_and_the_gradient_of_the_surrogate():
    draw = Shift().draw(KEY, (1, 8, 8))
    for name, slope in (("exact", 1.0), ("double", 2.0), ("identity", 1.0)):
        leaf = (X * 0.5).requires_grad_()
        out = Graft(Shift(), name).forward(leaf, draw)
        assert torch.equal(out.detach(), Shift().forward(leaf.detach(), draw))
        assert torch.equal(torch.autograd.grad(out.sum(), leaf)[0], torch.full_like(X, slope))


def test_an_exact_link_runs_once():
    calls = []

    @dataclass(frozen=True)
    class Counted(Shift):
        def forward(self, x, draw):
            calls.append(1)
            return super().forward(x, draw)

        @property
        def surrogates(self):
            return {"exact": self.forward}

    Graft(Counted()).forward(X.clone().requires_grad_(), Counted().draw(KEY, (1, 8, 8)))
    assert len(calls) == 1


def test_a_surrogate_of_another_shape_is_refused():
    with pytest.raises(BadSetting, match=r"identity.* of halve returns \(4, 1, 8, 8\)"):
        Graft(Halve(), "identity").forward(X.clone().requires_grad_(), None)


def test_a_frozen_link_draws_once_for_all():
    frozen = Frozen(Shift())
    first = frozen.draw(KEY.fold("step", 1), (1, 8, 8))
    assert torch.equal(first, frozen.draw(KEY.fold("step", 2), (1, 8, 8)))
    assert not torch.equal(first, Shift().draw(KEY, (1, 8, 8)))


GUARDED = Defense(parse_chain("fd + rdg:cells=2"), linear_classifier(3, (1, 8, 8)))


def test_a_view_without_links_casts_no_vote():
    """Oblivious attackers of a vote of 16 paid for 16 passes, all alike."""
    voting = Defense(parse_chain("noise:scale=0.1"), linear_classifier(), Majority(16))
    bare = voting.seen_through({"noise": "skip"})
    assert (bare.passes, voting.seen_through({"noise": "best"}).passes) == (1, 16)
    alike = Defense(Chain(), voting.classifier, Majority(16))
    torch.testing.assert_close(
        bare.logits(X[..., :4, :4], KEY).softmax(-1), alike.logits(X[..., :4, :4], KEY).exp()
    )
    noisy = nn.Sequential(Noise(0.1), voting.classifier).eval()
    drawing = replace(voting, classifier=voting.classifier.through(noisy))
    assert drawing.seen_through({"noise": "skip"}).passes == 16


def test_views_are_built_as_named():
    view = GUARDED.seen_through({"fd": "skip", "rdg": "frozen:identity"})
    assert [link.name for link in view.chain.links] == ["rdg"]
    assert isinstance(view.chain.links[0], Graft)
    assert view.chain.links[0].surrogate == "identity"
    assert isinstance(view.chain.links[0].link, Frozen)
    same = GUARDED.seen_through({})
    assert torch.equal(same.logits(X, KEY), GUARDED.logits(X, KEY))


def test_a_view_of_an_unknown_link_names_the_nearest():
    with pytest.raises(UnknownName, match='Did you mean "rdg"'):
        GUARDED.seen_through({"rgd": "skip"})
    with pytest.raises(UnknownName, match='Did you mean "soft"'):
        GUARDED.seen_through({"fd": "sofd"}).logits(X.clone().requires_grad_(), KEY)


VIEWS = {
    "oblivious": {"fd": "skip", "rdg": "skip"},
    "white-box": {"fd": "as-is", "rdg": "as-is"},
    "bpda-identity": {"fd": "identity", "rdg": "identity"},
    "bpda": {"fd": "best", "rdg": "best"},
    "eot": {"fd": "identity", "rdg": "exact"},
    "bpda+eot": {"fd": "best", "rdg": "best"},
    "semi-brute-force": {"fd": "skip", "rdg": "exact"},
    "frozen": {"fd": "frozen", "rdg": "frozen"},
}


@pytest.mark.parametrize("name", VIEWS)
def test_recipes_see_what_their_names_say(name):
    assert RECIPES.build(name).view_of(GUARDED) == VIEWS[name]


def test_a_white_box_says_where_its_gradient_stops():
    assert RECIPES.build("white-box").stops_at(GUARDED) == "fd"
    assert RECIPES.build("bpda").stops_at(GUARDED) is None
    assert Recipe("mine", view={"fd": "as-is"}).stops_at(GUARDED) == "fd"


def test_every_recipes_view_answers():
    for recipe in RECIPES.values():
        leaf = X.clone().requires_grad_()
        view = GUARDED.seen_through(recipe.factory().view_of(GUARDED))
        assert view.logits(leaf, KEY).shape == (4, 3)


def test_a_transform_is_a_module():
    layer = nn.Sequential(module(Shift(), Key.root(0, [0])), nn.Flatten())
    first, second = layer(X), layer(X)
    assert first.shape == (4, 64)
    assert not torch.equal(first, second)
    again = nn.Sequential(module(Shift(), Key.root(0, [0])), nn.Flatten())
    assert torch.equal(again(X), first)
    with pytest.raises(BadSetting, match="takes the key of one row, got 4"):
        module(Shift(), KEY)
