"""A stranger's file runs without touching besiege, and bad ones say what is wrong."""

import re
import shutil
from pathlib import Path

import pytest

from besiege.core.errors import BesiegeError
from besiege.defenses.catalog import TRANSFORMS
from besiege.laws import attacks, transforms
from besiege.report.tables import summarise
from besiege.study.experiment.catalogs import load_plugins
from besiege.study.experiment.experiment import load_experiment
from besiege.study.run import run_experiment

EXAMPLE = Path(__file__).parents[2] / "examples" / "plugin"


def test_the_example_runs_from_a_folder_of_its_own(tmp_path):
    shutil.copytree(EXAMPLE, tmp_path / "mine")
    experiment = load_experiment(tmp_path / "mine" / "experiment.toml", ["data.n=8"])
    found = summarise(run_experiment(experiment, tmp_path / "run"))
    by_recipe = {line.recipe: line for line in found.lines}
    assert set(by_recipe) == {"none", "noise only", "bpda+eot"}
    assert by_recipe["bpda+eot"].accuracy.estimate < by_recipe["noise only"].accuracy.estimate
    assert "dropout" not in TRANSFORMS


def test_its_entries_obey_the_laws():
    catalogs = load_plugins([EXAMPLE / "plugin.py"])
    transforms.check(catalogs.transforms["dropout"])
    attacks.check(catalogs.attacks["noise"])


BAD = [
    (None, 'No plugin at "'),
    ("def broken(:", "does not run: SyntaxError"),
    ("1 / 0", "does not run: ZeroDivisionError: division by zero"),
    ("x = 1", "defines none of TRANSFORMS, ATTACKS, RECIPES, LOSSES, MODELS, DATASETS"),
    ("TRANSFORMS = [1]", "TRANSFORMS in plugin"),
    (
        "from besiege import Entry\nTRANSFORMS = [Entry('fd', dict, 'mine')]",
        'Two transforms are named "fd"',
    ),
]


@pytest.mark.parametrize(("text", "says"), BAD, ids=[says[:30] for _, says in BAD])
def test_a_bad_plugin_says_what_is_wrong(text, says, tmp_path):
    path = tmp_path / "plugin.py"
    if text is not None:
        path.write_text(text)
    with pytest.raises(BesiegeError, match=re.escape(says)):
        load_plugins([path])
