"""What a run made in Python writes down, runs again; and such a run can end early."""

import tomllib

import numpy as np
import pytest
import torch

import besiege
from besiege.core.errors import BadRun, BadSetting, UnknownName
from besiege.core.store import RunFolder
from besiege.defenses.imitation import write_imitator
from besiege.report.page import write_report
from besiege.study.adaptive import planned
from besiege.study.adaptive.imitation import imitate
from besiege.study.adaptive.planned import as_table
from besiege.study.adaptive.planner import Plan
from besiege.study.evidence.examine import examine_run
from besiege.study.experiment.experiment import load_experiment
from besiege.study.recipe import Recipe
from besiege.study.rejudge import rejudge

NET = besiege.load_model("digits-cnn")
X, Y, _ = besiege.load_images("digits").take(range(6))
THREAT = besiege.Threat(besiege.Linf(0.1), passes=200)


def noise():
    return besiege.Defense(besiege.parse_chain("noise:scale=0.1"), NET)


def rows(out):
    names = {c["cell"]: c["recipe"] for c in RunFolder(out).resolved()["cells"]}
    keys = ("id", "point", "predicted", "forwards", "backwards", "claim")
    return sorted(str((names[r["cell"]], *(r[k] for k in keys))) for r in RunFolder(out).rows())


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("python") / "run"
    besiege.evaluate(noise(), X, Y, THREAT, draws=3, out=out)
    return out


def test_the_attack_runs_again_from_its_file(run, tmp_path):
    recipes = besiege.load_recipes(run / "planned.toml")
    assert [recipe.name for recipe in recipes] == ["none", "adaptive"]
    assert recipes[1].union
    again = tmp_path / "again"
    besiege.evaluate(noise(), X, Y, THREAT, recipes=recipes, draws=3, out=again)
    assert rows(run) == rows(again)
    assert "plans" not in RunFolder(again).resolved()  # nothing was planned


def test_what_was_asked_is_there_too(run):
    given = tomllib.loads((run / "experiment.toml").read_text())
    assert given["recipe"] == [{"kind": "none"}, {"kind": "adaptive"}]
    assert given["threat"] == [{"ball": "linf", "eps": 0.1, "passes": 200}]
    assert (given["seed"], given["judge"]) == (0, {"draws": 3})
    with pytest.raises(BadSetting, match="data is missing"):
        load_experiment(run / "experiment.toml")


def test_a_plan_says_on_how_many_images_it_was_made(run):
    (plan,) = RunFolder(run).resolved()["plans"].values()
    assert (plan["pilots"], plan["networks"]) == (6, 0)
    summary = besiege.evaluate(noise(), X, Y, THREAT, draws=3, out=run)
    assert f"and planning {plan['passes']:,} on each of 6 ({plan['passes']:,} an image)" in str(
        summary
    )


def test_a_real_plan_says_why_its_searches_see_what_they_see(run):
    """So that the wording of its notes and what reads them stay together."""
    (plan,) = besiege.evaluate(noise(), X, Y, THREAT, draws=3, out=run).plans
    first = next(name for name in plan.views if name.startswith("1 "))
    assert len(plan.trials) > 1
    assert " % of the pilots fell to it in 8 steps (" in plan.reason(first)


def test_such_a_folder_is_checked_and_shown_and_says_what_else_it_needs(run):
    assert examine_run(run) is not None
    page = write_report(run).read_text()
    assert "Settings of a run made in Python" in page
    assert "run it again with <code>besiege run" not in page
    with pytest.raises(BadRun, match=r"made in Python.*load_recipes\(.*planned\.toml"):
        rejudge(run)


def planned_with_a_network(defense, x, goal, threat, key, *, folder, **settings):
    """A plan as of a link that had to be learned, at once."""
    network = imitate(defense.links[0], x, key, steps=2, batch=4).network
    view = {"bits": f"learned:{write_imitator(network, folder)}"}
    union = (Recipe("1 pgd, bits as learned", view=view, steps=2),)
    notes = ("bits: a network learned it; a step along it gains +1.00",)
    return Plan(Recipe("adaptive", attack="union", steps=0, union=union), notes, 30)


def test_networks_go_along(tmp_path, monkeypatch):
    """Recipes name them from the file's folder, wherever that is moved to."""
    monkeypatch.setattr(planned, "plan", planned_with_a_network)
    defense = besiege.Defense(besiege.parse_chain("bits"), NET)
    out = tmp_path / "run"
    summary = besiege.evaluate(defense, X, Y, THREAT, recipes=["adaptive"], out=out)
    (plan,) = RunFolder(out).resolved()["plans"].values()
    assert plan["networks"] == 1
    assert "planning 30 on each of 6, and training 1 network (30 an image)" in str(summary.worst[0])
    (recipe,) = besiege.load_recipes(out.rename(tmp_path / "moved") / "planned.toml")
    (path,) = recipe.union[0].learned
    assert path.is_relative_to(tmp_path / "moved")
    again = besiege.evaluate(defense, X, Y, THREAT, recipes=[recipe])
    assert again.lines[0].accuracy == summary.lines[0].accuracy


def test_recipes_are_those_of_a_defense_and_threat(tmp_path):
    path = tmp_path / "planned.toml"
    path.write_text(
        '[[recipe]]\nkind = "bpda"\nname = "adaptive"\nsteps = 3\ndefenses = ["a"]\n'
        '[[recipe]]\nkind = "bpda"\nname = "adaptive"\nsteps = 4\ndefenses = ["b"]\nthreats = [0]\n'
        '[[recipe]]\nkind = "none"\n'
    )
    assert [r.steps for r in besiege.load_recipes(path, defense="a", threat=1)] == [3, 0]
    assert [r.steps for r in besiege.load_recipes(path, defense="b", threat=0)] == [4, 0]
    assert [r.steps for r in besiege.load_recipes(path, defense="b", threat=1)] == [0]
    with pytest.raises(BadSetting, match='several recipes "adaptive"'):
        besiege.load_recipes(path)
    with pytest.raises(UnknownName, match='Did you mean "a"'):
        besiege.load_recipes(path, defense="aa")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("seed = 1", "has no [[recipe]]"),
        ("[[recipe", "is not TOML"),
        ('[[recipe]]\nkind = "bpda"\nstep = 3', "steps"),
        ('[[recipe]]\nkind = "bpdaa"', 'Did you mean "bpda"'),
    ],
)
def test_wrong_files_are_named(tmp_path, text, says):
    (tmp_path / "x.toml").write_text(text)
    with pytest.raises((BadSetting, UnknownName)) as error:
        besiege.load_recipes(tmp_path / "x.toml")
    assert says in str(error.value)
    with pytest.raises(BadSetting, match="No file of recipes"):
        besiege.load_recipes(tmp_path / "y.toml")


@pytest.mark.parametrize("name", ["none", "bpda+eot", "oblivious"])
def test_a_recipe_of_the_catalog_survives_its_table(name):
    from besiege.study.experiment.catalogs import Catalogs
    from besiege.study.experiment.tables import RecipeTable

    recipe = besiege.RECIPES.build(name, steps=7) if name != "none" else besiege.RECIPES.build(name)
    table = RecipeTable.model_validate(as_table(recipe))
    assert table.recipe(Catalogs()) == recipe


def test_an_evaluation_ends_once_it_is_told(tmp_path):
    x, y, _ = besiege.load_images("digits").take(range(200))
    bare = besiege.Defense(besiege.Chain(), NET)
    how = {"recipes": ["none", "bpda"], "steps": 3}
    found = besiege.evaluate(bare, x, y, besiege.Linf(0.6), until=0.5, out=tmp_path / "run", **how)
    n = found.worst[0].n
    assert n in (32, 64)
    assert f"robust accuracy below 50 %, known after {_known(found)} images" in found.notes[-1]
    whole = besiege.evaluate(bare, x[:n], y[:n], besiege.Linf(0.6), **how)
    assert whole.worst[0].accuracy == found.worst[0].accuracy
    longer = besiege.evaluate(bare, x, y, besiege.Linf(0.6), out=tmp_path / "run", **how)
    assert longer.worst[0].n == 200  # the same cells, resumed
    never = besiege.evaluate(bare, x[:8], y[:8], besiege.Linf(0.0), until=0.99, **how)
    assert "not told from 99 % by 8 images" in never.notes[-1]
    with pytest.raises(BadSetting, match="threshold"):
        besiege.evaluate(bare, x, y, until=50, **how)
    order = torch.from_numpy(np.argsort(y.numpy(), kind="stable"))
    with pytest.raises(BadSetting, match="order of their labels"):
        besiege.evaluate(bare, x[order], y[order], until=0.5, **how)


def _known(found):
    return int(found.notes[-1].partition("known after ")[2].split()[0])
