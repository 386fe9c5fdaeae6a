"""Unions of recipes: each on what the former left, and no luck is added up over them."""

from dataclasses import replace

import pytest
import torch

from besiege.attacks.attack import Attack, Point
from besiege.attacks.catalog import ATTACKS
from besiege.attacks.threat import L1, Linf, Threat
from besiege.core.entry import Entry
from besiege.core.errors import BadSetting, UnknownName
from besiege.core.key import Key
from besiege.core.store import RunFolder
from besiege.defenses.defense import Defense
from besiege.defenses.noise import Noise
from besiege.defenses.transform import Chain
from besiege.laws.problems import code_images, coin_defense, linear_classifier
from besiege.study.experiment.experiment import experiment_from
from besiege.study.judge import Judging, judge
from besiege.study.recipe import Recipe
from besiege.study.recipes import RECIPES
from besiege.study.run import run_experiment
from besiege.study.siege import Opponents, Siege

SHAPE = (1, 4, 4)
KEY = Key.root(7, range(8))
MODEL = linear_classifier(4, SHAPE, 321)
X = 0.4 + 0.2 * KEY.uniform(*SHAPE)
BARE = Defense(Chain(), MODEL)
OWN = BARE.labels(X, KEY)


def union(*some):
    return Recipe("union", attack="union", steps=0, union=some)


def test_each_gets_what_the_former_left_and_the_cost_is_theirs():
    seen = []

    def watching(step: float = 1.0) -> Attack:
        def init(p):
            seen.append(len(p.x0))
            return Point(p.x0)

        def advance(p, s, t):
            move = p.threat.ball.eps * p.threat.ball.ascent(p.slope(s.x, t))
            return Point(p.threat.project(s.x + step * move, p.x0))

        return Attack(init, advance)

    known = ATTACKS.extended([Entry("watching", watching, "test")])
    weak = Recipe("weak", attack="watching:step=0.0001", steps=2)
    strong = Recipe("strong", attack="watching", steps=3)
    # Between the distances of the examples, so that some can be broken and some cannot.
    alone = Siege(BARE, replace(strong, steps=30), Threat(Linf(0.02)), Opponents(known))
    broken = alone.attack(X, OWN, KEY).claim == 1
    assert 0 < int(broken.sum()) < len(X)
    with pytest.raises(BadSetting, match="names"):
        union(weak, weak)
    recipe = union(weak, strong, replace(weak, name="last"))
    siege = Siege(BARE, recipe, Threat(Linf(0.02)), Opponents(known))
    seen.clear()
    found = siege.attack(X, OWN, KEY)
    assert seen == [8, 8, int((~broken).sum())]
    assert torch.equal(found.claim == 1, broken)
    assert bool((found.by[broken] == 1).all())
    assert found.loss.shape == (8, 3)
    assert bool((found.forwards[~broken] > found.forwards[broken].max()).all())
    # One forward tells what a first search is worth, two a later one, and one settles it.
    whole, first = found.forwards + found.backwards, replace(siege, recipe=weak).attack(X, OWN, KEY)
    assert torch.equal(found.passes[:, 0], first.forwards + first.backwards + 1)
    assert torch.equal(found.passes[:, 2], whole - 1)
    assert torch.equal(found.passes[broken, 1], found.passes[broken, 2])
    assert bool((found.passes[~broken].diff(dim=1) > 0).all())


def test_rows_do_not_depend_on_the_batch_nor_on_what_others_have_spent():
    recipe = union(
        Recipe("apgd", attack="apgd", steps=10),
        Recipe("noisy", attack="pgd", steps=4, cosine=0.9, most_draws=8),
        Recipe("square", attack="square", links="as-is", steps=30),
    )
    view = coin_defense(0.7)
    label = torch.arange(8) % 10
    x = code_images(label, 10)
    siege = Siege(view, recipe, Threat(Linf(0.04), passes=120), Opponents(micro_batch=4))
    whole, rows = siege.attack(x, label, KEY), torch.tensor([6, 1, 3])
    some = siege.attack(x[rows], label[rows], KEY[rows])
    for name in ("x", "claim", "by", "forwards", "backwards", "loss", "spent", "passes"):
        one, other = getattr(whole, name)[rows], getattr(some, name)
        assert torch.equal(one.nan_to_num(), other.nan_to_num()), name


def test_a_limit_is_that_of_all_together():
    recipe = union(*(Recipe(f"pgd {i}", steps=20) for i in range(5)))
    found = Siege(BARE, recipe, Threat(Linf(1e-4), passes=70)).attack(X, OWN, KEY)
    # Each ends within what is left; only last points are tested beyond it.
    assert int((found.forwards + found.backwards).max()) <= 70 + 10
    assert bool(found.spent.all())


def test_luck_is_not_added_up():
    """Twelve searches against a coin: its true value stays, and that is what is claimed."""
    label = torch.arange(400) % 10
    x, key = code_images(label, 10), Key.root(0, range(400))
    defense, who = coin_defense(0.8), Opponents(micro_batch=200)
    recipe = union(*(Recipe(f"pgd {i}", steps=1) for i in range(12)))
    siege = Siege(defense, recipe, Threat(Linf(0.03)), who)
    found = siege.attack(x, label, key)
    verdict = judge(defense, siege.threat, found.x, x, key, Judging(draws=20, micro_batch=200))
    assert abs(float((verdict.predicted == label[:, None]).double().mean()) - 0.8) < 0.02
    assert abs(float(found.claim.mean()) - 0.2) < 0.04  # 400 x 8 draws: 4 sigma is 0.03


def test_what_does_not_fit_is_refused_before_anything_runs():
    for bad in ({"attack": "union"}, {"union": (Recipe("one"),)}):
        with pytest.raises(BadSetting, match="union"):
            Recipe("bad", **bad)
    with pytest.raises(BadSetting, match="made for the balls"):
        Siege(BARE, RECIPES.build("union"), Threat(L1(1.0)))


SETTINGS = {
    "data": {"source": "digits", "n": 6},
    "model": "digits-cnn",
    "defense": [{"name": "bare"}],
    "threat": [{"ball": "linf", "eps": 0.12}],
    "recipe": [
        {
            "kind": "union",
            "name": "mine",
            "union": [
                {"kind": "oblivious", "name": "one", "attack": "fgsm", "steps": 1},
                {"kind": "bpda", "name": "two", "steps": 20},
            ],
        }
    ],
    "judge": {"every": 2},
}


def test_an_experiment_names_a_union_and_rows_say_which_found_the_point(tmp_path):
    experiment = experiment_from(SETTINGS)
    assert experiment_from(experiment.resolved()) == experiment
    out = run_experiment(experiment, tmp_path / "run")
    (cell,) = RunFolder(out).resolved()["cells"]
    assert [s["name"] for s in cell["recipe_settings"]["union"]] == ["one", "two"]
    flags = {flag for row in RunFolder(out).rows() for flag in row["flags"]}
    assert flags == {"found by: one", "found by: two"}
    for row, trace in zip(RunFolder(out).rows(), RunFolder(out).traces(), strict=True):
        assert trace["passes"][1] + 1 == row["forwards"] + row["backwards"]
    bad = {"kind": "union", "union": [{"kind": "bpda", "attack": "pdg"}]}
    with pytest.raises(UnknownName, match="pdg"):
        experiment_from({**SETTINGS, "recipe": [bad]})


def test_a_search_may_begin_where_others_ended():
    """Of every row, also where rows are searched apart because they take other draws."""
    step = "pgd:start=former,step=0.000001"
    noisy = Defense(Chain((Noise(scale=0.05),)), MODEL)
    former = (X + 0.01).clamp(0, 1)
    for defense, recipe in (
        (BARE, Recipe("r", step, steps=1)),
        (noisy, Recipe("r", step, steps=1, cosine=0.9, most_draws=8)),
    ):
        siege = Siege(defense, recipe, Threat(Linf(0.02)))
        found = siege.attack(X, OWN, KEY, former=former)
        torch.testing.assert_close(found.x, former, rtol=0, atol=1e-6)
        assert not torch.allclose(siege.attack(X, OWN, KEY).x, former, rtol=0, atol=1e-3)
    second = union(Recipe("one", "none", steps=0), Recipe("two", step, steps=1))
    found = Siege(BARE, second, Threat(Linf(0.02))).attack(X, OWN, KEY)
    torch.testing.assert_close(found.x, X, rtol=0, atol=1e-6)
