"""The example of an own defense, as a stranger uses it: copied, run from a folder of its own."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from besiege.report.tables import summarise

EXAMPLE = Path(__file__).parents[1] / "examples" / "own_defense"
QUICK = ["--n", "4", "--budget", "100", "--set", "judge.draws=4"]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A copy of the example with its network trained."""
    folder = tmp_path_factory.mktemp("stranger")
    for file in EXAMPLE.glob("*.py"):
        shutil.copy(file, folder)
    done = subprocess.run(
        [sys.executable, "model.py"], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return folder


def commands():
    """The lines of the README that begin with `besiege`."""
    text = (EXAMPLE / "README.md").read_text().replace("\\\n", " ")
    return [shlex.split(line)[1:] for line in re.findall(r"^besiege .*$", text, re.MULTILINE)]


def test_the_commands_of_the_readme_run_where_besiege_knows_nothing(home):
    pytest.importorskip("skimage")
    assert len(list((home / "images").rglob("*.png"))) == 100
    for command in commands():
        more = QUICK if command[0] == "evaluate" else []
        done = subprocess.run(
            [sys.executable, "-m", "besiege", *command, *more],
            cwd=home,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    assert "as recorded" in done.stdout.splitlines()[-1]
    for run in ("evaluate", "tv", "random"):
        lines = summarise(home / "runs" / run).lines
        assert [line.recipe for line in lines] == ["none", "adaptive"]
        assert all(line.n == 4 for line in lines)
        assert lines[0].accuracy.estimate > 0.7
        assert not any("unkeyed" in flag for line in lines for flag in line.flags)
