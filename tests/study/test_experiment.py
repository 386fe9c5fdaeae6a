"""Experiment files: what is wrong is named with file, key, what was expected and what came."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from besiege.core.errors import BesiegeError
from besiege.study.experiment.catalogs import Catalogs
from besiege.study.experiment.experiment import Experiment, experiment_from, load_experiment

GOOD = """
name = "good"
data = "digits"
model = "digits-cnn"
[[defense]]
name = "bare"
[[defense]]
name = "guarded"
chain = "fd + rdg:cells=4"
[[threat]]
ball = "linf"
eps = "8/255"
[[threat]]
eps = 0.1
targeted = true
defenses = ["guarded"]
[[recipe]]
kind = "none"
[[recipe]]
kind = "bpda+eot"
name = "mine"
steps = 7
view = { fd = "identity" }
defenses = ["guarded"]
"""


@pytest.fixture
def good(tmp_path) -> Path:
    path = tmp_path / "good.toml"
    path.write_text(GOOD)
    return path


def test_cells_are_the_filtered_grid(good):
    experiment = load_experiment(good)
    cells = experiment.cells(Catalogs())
    names = [(c.defense.name, c.threat.name, c.threat.targeted, c.recipe.name) for c in cells]
    assert names == [
        ("bare", "linf 8/255", False, "none"),
        ("guarded", "linf 8/255", False, "none"),
        ("guarded", "linf 8/255", False, "mine"),
        ("guarded", "linf 0.1", True, "none"),
        ("guarded", "linf 0.1", True, "mine"),
    ]
    assert cells[2].recipe.steps == 7
    assert cells[2].recipe.draws == 8


CHANGES = [
    ("engine.batch=7", lambda e: e.engine.batch, 7),
    ("data.n=3", lambda e: e.data.n, 3),
    ("recipe[1].steps=3", lambda e: e.recipe[1].steps, 3),
    ("recipe.mine.steps=4", lambda e: e.recipe[1].steps, 4),
    ("recipe.none.steps=0", lambda e: e.recipe[0].steps, 0),
    ("threat[0].eps=2/255", lambda e: e.threat[0].eps, 2 / 255),
    ("judge.every=5", lambda e: e.judge.every, 5),
    ("name=two words", lambda e: e.name, "two words"),
    ("defense[1].chain=jpeg:quality=50 + fd", lambda e: e.defense[1].chain, "jpeg:quality=50 + fd"),
    ('recipe.mine.view={ fd = "soft" }', lambda e: e.recipe[1].view, {"fd": "soft"}),
]


@pytest.mark.parametrize(("change", "get", "value"), CHANGES, ids=[c[0] for c in CHANGES])
def test_a_change_reaches_its_key(good, change, get, value):
    assert get(load_experiment(good, [change])) == value


BAD_CHANGES = [
    ("engine.bach=7", 'engine.bach is no key. Did you mean "batch"?'),
    ("engin.batch=7", 'engin is no key. Did you mean "engine"?'),
    ("engine.batch=many", "engine.batch: expected"),
    ("engine.batch=0", "engine.batch: expected greater than or equal to 1"),
    ("engine.batch", '--set "engine.batch" is not key=value'),
    ("recipe[9].steps=1", "there are 2 items, numbered from 0"),
    ("recipe.mime.steps=1", 'Unknown item in --set "recipe.mime.steps=1": "mime". Did you mean "m'),
    ("name.first=1", "name"),
    ("data.select=right", "data.select: expected 'all' or 'correct'"),
    ("threat[0].eps=9", "eps=9 is larger than the whole pixel range"),
    ("threat[0].eps=8/0", "threat[0].eps: expected"),
    ("threat[0].ball=l3", 'Unknown ball: "l3". Did you mean "l'),
    ("threat[0].access=none", "threat[0].access: expected"),
    ("threat[1].defenses=['garded']", 'Unknown defense: "garded". Did you mean "guarded"?'),
    (
        "defense[1].chain=fd + rgd",
        'defense[1].chain: Unknown transform: "rgd". Did you mean "rdg"?',
    ),
    ("defense[1].chain=fd:limit=1", 'Unknown parameter in transform fd: "limit".'),
    ("defense[1].chain=rdg:limit=2", "limit is a relative stretch in [0, 1), got 2"),
    ("defense[1].chain=fd + fd", "two links of a chain have the name"),
    ("defense[1].vote=mean:draws=0", "at least one draw, got draws=0"),
    ("defense[1].vote=median", 'Unknown vote: "median".'),
    ("defense[1].name=bare", 'the name "bare" is used twice'),
    ("recipe[1].kind=bpda+oet", 'Unknown recipe: "bpda+oet". Did you mean "bpda+eot"?'),
    ("recipe[1].name=none", 'the name "none" is used twice'),
    ("recipe[1].attack=pdg", 'Unknown attack: "pdg". Did you mean "pgd"?'),
    ("recipe[1].loss=marginal", 'Unknown loss: "marginal". Did you mean "margin"?'),
    ("recipe[1].links=bets", 'Did you mean "best"?'),
    ("recipe[1].draws=0", "draws is at least 1, got 0"),
    ("recipe[1].view.fdd=identity", 'of the defense "guarded"): "fdd". Did you mean "fd"?'),
    ("recipe[1].defenses=[]", 'view (of the defense "bare"): "fd". Valid: classifier'),
]


@pytest.mark.parametrize(("change", "says"), BAD_CHANGES, ids=[c for c, _ in BAD_CHANGES])
def test_a_bad_change_says_what_is_wrong(good, change, says):
    with pytest.raises(BesiegeError, match=re.escape(says)) as caught:
        load_experiment(good, [change])
    assert "good.toml" in str(caught.value) or "--set" in str(caught.value)


BAD_FILES = [
    ('name = "x', "is not TOML"),
    ("name = 1\n", "defense is missing"),
    (GOOD.replace('model = "digits-cnn"', ""), "model is missing"),
    (GOOD.replace("eps = 0.1", ""), "threat[1].eps is missing (radius on the [0, 1] scale"),
    (GOOD.replace("steps = 7", "step = 7"), 'recipe[1].step is no key. Did you mean "steps"?'),
    (GOOD.replace('kind = "none"', ""), "recipe[0].kind is missing"),
]


@pytest.mark.parametrize(("text", "says"), BAD_FILES, ids=[says[:25] for _, says in BAD_FILES])
def test_a_bad_file_says_what_is_wrong(tmp_path, text, says):
    path = tmp_path / "bad.toml"
    path.write_text(text)
    with pytest.raises(BesiegeError, match=re.escape(says)) as caught:
        load_experiment(path)
    assert "bad.toml" in str(caught.value)


def test_a_missing_file_names_the_nearest(good):
    with pytest.raises(BesiegeError, match=r'Did you mean ".*good\.toml"'):
        load_experiment(good.with_name("god.toml"))


def test_paths_count_from_the_file(tmp_path):
    (tmp_path / "plugin.py").write_text("TRANSFORMS = ()\n")
    path = tmp_path / "e.toml"
    changed = GOOD.replace(
        'data = "digits"', 'plugins = ["plugin.py"]\ndata = "packed:path=a/b.npz"'
    )
    path.write_text(changed.replace('"digits-cnn"', '"file:../net.safetensors"'))
    experiment = load_experiment(path)
    assert experiment.data.source == f"packed:path={tmp_path / 'a' / 'b.npz'}"
    assert experiment.model.source == f"file:{tmp_path.parent / 'net.safetensors'}"
    assert experiment.plugins == (tmp_path / "plugin.py",)


@pytest.mark.parametrize("form", ["onnx:", "onnx:weights=", "file:weights="])
def test_paths_of_other_models_count_from_the_file_too(good, form):
    good.write_text(GOOD.replace('"digits-cnn"', f'"{form}net.x"'))
    assert load_experiment(good).model.source == f"{form}{good.parent / 'net.x'}"


def test_resolved_settings_give_the_same_experiment_again(good):
    once = load_experiment(good)
    again = experiment_from(once.resolved())
    assert again.cells(Catalogs()) == once.cells(Catalogs())


def test_it_is_frozen(good):
    with pytest.raises(ValueError, match="frozen"):
        load_experiment(good).seed = 3


def test_shipped_examples_are_valid(tmp_path):
    """With patches and weights of a network beside them, where a link names such files."""
    root = Path(__file__).parents[2]
    home = tmp_path / "project" / "examples"
    shutil.copytree(root / "examples", home)
    np.save(home / "patches.npy", np.zeros((16, 75), dtype=np.uint8))
    shared = root.parent / "shared"
    (tmp_path / "shared").symlink_to(shared)
    for path in sorted(home.rglob("*.toml")):
        if '"adversarial:' in path.read_text() and not shared.is_dir():
            continue
        assert isinstance(load_experiment(path), Experiment)
