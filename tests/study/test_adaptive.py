"""The adaptive attacker finds out by itself what others have to be told, and can be run again."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pytest
import torch

import besiege
from besiege.attacks.threat import L2, Linf, Threat
from besiege.core.errors import BadRun, BadSetting
from besiege.core.key import Key
from besiege.core.store import RunFolder
from besiege.defenses.defense import VOTE, Defense, Majority
from besiege.defenses.opaque import Opaque
from besiege.defenses.transform import Chain, Transform
from besiege.study.adaptive import planner as adaptive
from besiege.study.adaptive.planner import plan
from besiege.study.adaptive.schedule import Schedule, Way
from besiege.study.experiment.experiment import experiment_from, load_experiment
from besiege.study.judge import Judging, judge
from besiege.study.recipe import Recipe
from besiege.study.run import run_experiment
from besiege.study.siege import Siege

NET = besiege.load_model("digits-cnn")
X, Y, _ = besiege.load_images("digits").take(range(12))
KEY = Key.root(0, range(12))
THREAT = Threat(Linf(0.15))


def left(defense, recipe, threat=THREAT, goal=Y):
    """Judged share of right answers after a recipe."""
    found = Siege(defense, recipe, threat).attack(X, goal, KEY)
    verdict = judge(defense, threat, found.x, X, KEY, Judging(draws=10))
    return float((verdict.predicted == Y[:, None]).double().mean())


def moving(image: np.ndarray) -> np.ndarray:
    """Mirrored, and moved by two pixels or one: a defense that nobody has declared."""
    step = 1 + int(np.random.rand() < 0.5)  # noqa: NPY002, TID251 - as strangers write it
    return np.roll(image[:, ::-1], (step, -step), (0, 1)).copy()


def test_a_hidden_flip_and_shift_are_followed():
    """The identity leads astray there; the movement that is measured does not."""
    back = Opaque(lambda image: image[:, ::-1].copy(), "array", is_random=False, name="back")
    defense = Defense(Chain((Opaque(moving, "array", name="moving"), back)), NET)
    assert left(defense, Recipe("none", attack="none", steps=0)) > 0.6
    found = plan(defense, X, Y, THREAT, KEY, budget=600)
    assert found.recipe.union[0].view["moving"] == "moved"
    by_identity = Recipe("identity", links="identity", steps=40, draws=2)
    assert left(defense, found.recipe) < left(defense, by_identity) - 0.15
    assert any("moving" in note for note in found.notes)


@dataclass(frozen=True)
class Lying(Transform):
    """Halves contrast, and offers first a surrogate that leads nowhere."""

    name: str = "lying"

    def forward(self, x, draw):
        return (0.5 * x + 0.25).round(decimals=2)

    @property
    def surrogates(self) -> Mapping[str, object]:
        def astray(x, draw):
            return 0.5 - 0.5 * x

        return {"best-of-all": astray, "straight": lambda x, draw: 0.5 * x + 0.25}


def test_surrogates_are_believed_by_what_they_do():
    found = plan(Defense(Chain((Lying(),)), NET), X, Y, THREAT, KEY, budget=300)
    assert found.recipe.union[0].view["lying"] != "best-of-all"
    assert "best-of-all -" in found.notes[0]


@dataclass(frozen=True)
class Negative(Lying):
    """Claims that a gradient is exact which leads the wrong way."""

    name: str = "negative"

    @property
    def surrogates(self) -> Mapping[str, object]:
        return {"exact": lambda x, draw: 0.5 - 0.5 * x}


def test_an_exact_gradient_is_not_believed_either(tmp_path, monkeypatch):
    monkeypatch.setattr(adaptive, "TAUGHT", 500)
    monkeypatch.setattr(adaptive, "LESSONS", 40)
    monkeypatch.setattr(adaptive, "SURE", 1.1)
    monkeypatch.setattr(adaptive, "ENOUGH", 1.1)
    defense = Defense(Chain((Negative(),)), NET)
    found = plan(defense, X, Y, THREAT, KEY, budget=600, folder=tmp_path)
    assert found.recipe.union[0].view["negative"] != "exact"
    assert any("negative: a network learned it" in note for note in found.notes)


def test_each_link_is_left_out_once_even_where_little_is_left_for_it():
    defense = Defense(besiege.parse_chain("jpeg:quality=50 + bits:bits=4 + rdg:limit=0.2"), NET)
    names = [link.name for link in defense.links]
    ways = [Way("best", {}, won=0.5), Way("all as moved", {}, won=0.1)]
    ways += [Way(f"without {name}", {name: "skip"}, partial=True) for name in names]
    ways.append(Way("classifier alone", dict.fromkeys(names, "skip"), partial=True))
    last = Recipe("adam", "adam", draws=4)
    schedule = Schedule(defense, THREAT, ways, 16, 16, True, (), 3000, last)
    recipe, left_out = schedule.recipe()
    searched = " ".join(search.name for search in recipe.union)
    assert all(way.name in searched for way in ways if way.partial), left_out
    assert recipe.union[-1].name == "the rest, adam"
    assert recipe.union[-1].steps * 2 * 4 > 900  # a third of the budget
    assert "no points carried over" in " ".join(left_out)


def test_ways_that_are_not_tried_are_named(monkeypatch):
    monkeypatch.setattr(adaptive, "TRIED", 1)
    defense = Defense(besiege.parse_chain("bits:bits=3 + noise:scale=0.1"), NET)
    found = plan(defense, X[:4], Y[:4], THREAT, KEY[:4], budget=150)
    (cut,) = (note for note in found.notes if note.startswith("tried are 1 ways"))
    assert "without bits, without noise, classifier alone" in cut


def test_what_wins_most_of_the_pilots_that_stand_has_the_rest():
    """Noise that hides all but the mean of many draws, in a ball that is nearly too small."""
    defense = Defense(besiege.parse_chain("noise:scale=0.3"), NET)
    threat = Threat(Linf(0.06), targeted=True)
    found = plan(defense, X[:8], (Y[:8] + 1) % 10, threat, KEY[:8], budget=800)
    (told,) = (note for note in found.notes if "pilots that stand" in note)
    share = dict(part.rsplit(" ", 1) for part in told.split(": ", 1)[1].split(", "))
    best = max(share, key=lambda name: float(share[name].rstrip("%")))
    assert found.recipe.union[-1].name == f"the rest, {best}"
    spent = Siege(defense, found.recipe, Threat(Linf(1e-4))).attack(X, Y, KEY)
    assert int((spent.forwards + spent.backwards).max()) <= 800


def test_stand_ins_that_are_one_are_tried_once():
    defense = Defense(besiege.parse_chain("bits:bits=5"), NET)
    found = plan(defense, X, Y, Threat(Linf(0.01)), KEY, budget=300)
    assert "identity" in found.notes[0]
    assert "moved" in found.notes[0]
    assert not any(note.startswith("bits by") for note in found.notes)
    assert any(note.startswith("classifier alone") for note in found.notes)


def test_a_vote_is_asked_one_draw_at_a_time_and_judged_whole():
    chain = besiege.parse_chain("noise:scale=0.2")
    defense = Defense(chain, NET, Majority(16))
    found = plan(defense, X, Y, THREAT, KEY, budget=600)
    assert {search.view.get(VOTE, "one") for search in found.recipe.union} == {"one"}
    meter = Siege(defense, found.recipe, THREAT).attack(X, Y, KEY)
    assert left(defense, found.recipe) < 0.3
    assert int((meter.forwards + meter.backwards).max()) < 3 * 600


def test_the_searches_fit_the_budget_and_what_does_not_is_named():
    defense = Defense(besiege.parse_chain("noise:scale=0.2"), NET)
    small, large = (plan(defense, X, Y, THREAT, KEY, budget=b) for b in (150, 3000))
    assert len(small.recipe.union) < len(large.recipe.union)
    assert any("left out" in note for note in small.notes)
    tiny = Threat(Linf(1e-4))
    for budget, found in ((150, small), (3000, large)):
        spent = Siege(defense, found.recipe, tiny).attack(X, Y, KEY)
        assert int((spent.forwards + spent.backwards).max()) <= budget


def test_points_come_over_from_other_models_where_some_are_given(tmp_path):
    recipe = {"kind": "adaptive", "models": ["digits-cnn"]}
    changed = {"defense": [{"name": "bare"}], "recipe": [recipe]}
    changed |= {"threat": [{"eps": 0.1, "passes": 900}], "data": {"source": "digits", "n": 3}}
    out = run_experiment(experiment_from({**SETTINGS, **changed}), tmp_path / "run")
    (planned,) = RunFolder(out).resolved()["plans"].values()
    named = {u["name"]: u.get("models") for u in planned["recipe"]["union"]}
    assert [models for name, models in named.items() if "transfer" in name] == [["digits-cnn"]]
    again = run_experiment(load_experiment(out / "planned.toml"), tmp_path / "again")
    assert rows(out) == rows(again)


def test_a_small_budget_is_planned_on_fewer_pilots():
    defense = Defense(besiege.parse_chain("noise:scale=0.2"), NET)
    few, many = (plan(defense, X, Y, THREAT, KEY, budget=b) for b in (150, 3000))
    whole = plan(defense, X[:8], Y[:8], THREAT, KEY[:8], budget=3000)
    assert few.notes[0] == whole.notes[0] != many.notes[0]


@pytest.mark.parametrize("access", ["scores", "labels"])
def test_less_access_takes_other_attacks(access):
    threat = Threat(L2(6.0), access=access)
    found = plan(Defense(Chain(), NET), X, Y, threat, KEY, budget=240)
    assert left(Defense(Chain(), NET), found.recipe, threat) < 0.9


def test_an_unplanned_recipe_does_not_attack():
    recipe = besiege.RECIPES.build("adaptive")
    with pytest.raises(BadSetting, match="worked out"):
        Siege(Defense(Chain(), NET), recipe, THREAT).attack(X, Y, KEY)


SETTINGS = {
    "data": {"source": "digits", "n": 6},
    "model": "digits-cnn",
    "defense": [{"name": "bare"}, {"name": "noise", "chain": "noise:scale=0.1"}],
    "threat": [{"eps": 0.1, "passes": 200}, {"eps": 0.1, "passes": 200, "targeted": True}],
    "recipe": [{"kind": "none"}, {"kind": "adaptive"}],
    "judge": {"draws": 3},
}


def rows(out):
    """By point and figures, without times and the names of cells."""
    names = {c["cell"]: (c["defense"], c["threat"], c["targeted"], c["recipe"]) for c in cells(out)}
    return sorted(
        (names[r["cell"]], r["id"], r["point"], str(r["predicted"]), r["forwards"], r["claim"])
        for r in RunFolder(out).rows()
    )


def cells(out):
    return RunFolder(out).resolved()["cells"]


def test_a_run_writes_its_plan_down_and_it_runs_again(tmp_path):
    seen = []
    first = run_experiment(experiment_from(SETTINGS), tmp_path / "first", seen.append)
    assert sum(event.title.endswith("planning") for event in seen) == 4
    assert len(cells(first)) == 8
    again = load_experiment(first / "planned.toml")
    second = run_experiment(again, tmp_path / "second")
    assert rows(first) == rows(second)
    seen.clear()
    before = rows(first)
    run_experiment(experiment_from(SETTINGS), tmp_path / "first", seen.append)
    assert not any("planning" in event.title for event in seen)
    assert rows(first) == before
    plans = RunFolder(first).resolved()["plans"].values()
    assert all(p["notes"] or p["recipe"]["union"] for p in plans)


def test_plans_that_are_made_outlive_a_stop(tmp_path):
    stops = iter([None, None, None, KeyboardInterrupt])

    def stopping(event):
        if event.title.endswith("planning") and next(stops):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_experiment(experiment_from(SETTINGS), tmp_path, stopping)
    seen = []
    run_experiment(experiment_from(SETTINGS), tmp_path, seen.append)
    assert sum(event.title.endswith("planning") for event in seen) == 1


NEGATIVE = """
import numpy as np
import torch
import besiege


def negative(image: np.ndarray) -> np.ndarray:
    return 255 - image


def make_model():
    return besiege.from_callable(Negatives().eval(), 10, channels=1)


class Negatives(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.net = besiege.load_model("digits-cnn")

    def forward(self, x):
        return self.net(1 - x)
"""


@pytest.fixture(scope="module")
def negatives(tmp_path_factory):
    """A classifier of negatives, behind a link that makes them: every known surrogate misleads."""
    path = tmp_path_factory.mktemp("negative") / "mine.py"
    path.write_text(NEGATIVE)
    return {
        **SETTINGS,
        "data": {"source": "digits", "n": 4},
        "model": f"{path}:make_model",
        "defense": [{"name": "negative", "chain": f"{path}:negative:layout=uint8,is_random=false"}],
        "threat": [{"eps": 0.2, "passes": 300}],
        "recipe": [{"kind": "bpda", "steps": 10}, {"kind": "adaptive"}],
    }


def test_a_link_that_nothing_follows_is_learned_and_the_network_is_kept(
    negatives, tmp_path, monkeypatch
):
    monkeypatch.setattr(adaptive, "TAUGHT", 300)
    monkeypatch.setattr(adaptive, "LESSONS", 100)  # a negative is easily learned
    out = run_experiment(experiment_from(negatives), tmp_path / "run")
    (planned,) = RunFolder(out).resolved()["plans"].values()
    view = planned["recipe"]["union"][0]["view"]["negative"]
    assert view.startswith("learned:plans")
    assert (out / view.partition(":")[2]).exists()
    assert any("a network learned it" in note for note in planned["notes"])
    assert (planned["networks"], planned["pilots"]) == (1, 4)
    right = {"bpda": [], "adaptive": []}
    for row in RunFolder(out).rows():
        recipe = next(c["recipe"] for c in cells(out) if c["cell"] == row["cell"])
        right[recipe] += [predicted == row["label"] for predicted in row["predicted"]]
    assert np.mean(right["bpda"]) > 0.9
    assert np.mean(right["adaptive"]) < 0.5
    moved = out.rename(tmp_path / "elsewhere")
    seen = []
    run_experiment(experiment_from(negatives), moved, seen.append)
    assert seen[0].done == seen[0].total  # found in the folder's new place, nothing made anew
    again = run_experiment(load_experiment(moved / "planned.toml"), tmp_path / "again")
    assert rows(moved) == rows(again)


def test_in_memory_it_is_a_recipe_like_any_other():
    defense = Defense(besiege.parse_chain("noise:scale=0.1"), NET)
    found = besiege.evaluate(defense, X[:4], Y[:4], Linf(0.3), recipes=["adaptive"], draws=4)
    assert [line.recipe for line in found.lines] == ["adaptive"]
    assert torch.tensor(found.lines[0].accuracy.estimate) < 0.5


def test_in_memory_the_same_call_goes_on_with_its_plan(tmp_path, monkeypatch):
    defense = Defense(besiege.parse_chain("noise:scale=0.1"), NET)

    def asked():
        how = {"recipes": ["adaptive"], "draws": 4, "budget": 300, "out": tmp_path / "run"}
        return besiege.evaluate(defense, X[:4], Y[:4], Linf(0.3), **how)

    first = asked()
    (shard,) = (tmp_path / "run").glob("cells/*.parquet")
    monkeypatch.setattr("besiege.study.adaptive.planned.plan", None)  # nobody plans again
    shard.unlink()
    second = asked()
    assert [line.accuracy for line in second.lines] == [line.accuracy for line in first.lines]
    assert second.plans == first.plans


def plans_in(out):
    return RunFolder(out).resolved()["plans"]


def test_workers_plan_side_by_side(tmp_path):
    told = []
    settings = {**SETTINGS, "threat": SETTINGS["threat"][:1]}
    alone = run_experiment(experiment_from(settings), tmp_path / "alone")
    both = experiment_from({**settings, "engine": {"workers": 2}})
    out = run_experiment(both, tmp_path / "both", told.append)
    assert any("planned, 2 of 2" in event.title for event in told)
    assert plans_in(out) == plans_in(alone)
    assert rows(out) == rows(alone)


TIRED = """
from itertools import count

CALLS = count()


def tired(image):
    if next(CALLS) > 300:
        raise RuntimeError("no more of this")
    return image
"""


def test_an_attack_that_cannot_be_worked_out_is_named_and_the_others_are_kept(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(TIRED)
    tired = {"name": "tired", "chain": f"{path}:tired:is_random=false"}
    settings = {
        **SETTINGS,
        "defense": [*SETTINGS["defense"][:1], tired],
        "threat": [{"eps": 0.1, "passes": 1000}],
        "engine": {"workers": 2},
    }
    with pytest.raises(BadRun, match=r"1 of 2 attacks(.*\n)*.*tired.*no more of this"):
        run_experiment(experiment_from(settings), tmp_path / "run")
    assert len([*(tmp_path / "run" / "plans").glob("*.json")]) == 1
