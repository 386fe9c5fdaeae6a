"""The experiments of examples/ can be read: names, chains, votes, recipes and attacks are there."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from besiege.study.experiment import load_experiment

EXAMPLES = Path(__file__).parents[1] / "examples"
SHARED = EXAMPLES.parents[1] / "shared"
FILES = sorted(path.relative_to(EXAMPLES) for path in EXAMPLES.rglob("*.toml"))


@pytest.fixture(scope="module")
def copied(tmp_path_factory):
    """The folder, with a database of patches where two of them want one."""
    home = tmp_path_factory.mktemp("home") / "project" / "examples"
    shutil.copytree(EXAMPLES, home)
    np.save(home / "patches.npy", np.zeros((16, 75), dtype=np.uint8))
    if SHARED.is_dir():
        (home.parents[1] / "shared").symlink_to(SHARED)
    return home


@pytest.mark.parametrize("path", FILES, ids=str)
def test_it_is_an_experiment(copied, path):
    if 'chain = "adversarial:' in (EXAMPLES / path).read_text() and not SHARED.is_dir():
        pytest.skip("the weights of a network inside a link are in ../shared, which is not here")
    found = load_experiment(copied / path)
    assert found.name != ""
    assert found.defense
