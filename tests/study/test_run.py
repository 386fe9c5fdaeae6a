"""A run gives the same rows however it is cut up, and loses nothing that is finished."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from besiege.checks.catalog import CHECKS
from besiege.core.errors import BadRun
from besiege.core.key import Key
from besiege.core.store import RunFolder
from besiege.report.tables import summarise
from besiege.study.engines.local import InProcess, Processes
from besiege.study.experiment.catalogs import Catalogs
from besiege.study.experiment.experiment import experiment_from, load_experiment
from besiege.study.run import run_experiment

TOML = """
name = "small"
seed = 3
[data]
source = "digits"
n = 10
[model]
source = "digits-cnn"
[[defense]]
name = "bare"
[[defense]]
name = "FD+RDG"
chain = "fd + rdg:cells=4"
[[threat]]
ball = "linf"
eps = 0.15
[[threat]]
ball = "rms"
eps = 0.05
targeted = true
[[recipe]]
kind = "none"
[[recipe]]
kind = "bpda+eot"
steps = 3
draws = 2
confirm = 2
[judge]
draws = 5
every = 2
step_draws = 2
[keep]
images = 2
[engine]
batch = 7
micro_batch = 8
"""


@pytest.fixture
def settings(tmp_path) -> Path:
    path = tmp_path / "small.toml"
    path.write_text(TOML)
    return path


def rows(out):
    """All rows and traces of a run in one order, without the times."""
    folder = RunFolder(out)
    table = sorted(folder.rows(), key=lambda r: (r["cell"], r["id"]))
    traces = sorted(folder.traces(), key=lambda r: (r["cell"], r["id"]))
    return [{k: v for k, v in r.items() if k != "seconds"} for r in table], [
        repr(t) for t in traces
    ]


class Shuffled(InProcess):
    """The tasks in another order."""

    def run(self, build, tasks):
        tasks = list(tasks)
        order = Key.root(1, [0]).permutation(len(tasks))[0].tolist()
        return super().run(build, [tasks[i] for i in order])


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """The rows of one plain run."""
    home = tmp_path_factory.mktemp("plain")
    (home / "small.toml").write_text(TOML)
    found = rows(run_experiment(load_experiment(home / "small.toml"), home / "run"))
    assert len(found[0]) == 2 * 2 * 2 * 10
    return found


@pytest.mark.parametrize("batch", [1, 64])
def test_rows_do_not_depend_on_the_batch_size(settings, tmp_path, expected, batch):
    experiment = load_experiment(settings, [f"engine.batch={batch}"])
    assert rows(run_experiment(experiment, tmp_path / "run")) == expected


def test_rows_do_not_depend_on_order(settings, tmp_path, expected):
    experiment = load_experiment(settings, ["engine.batch=3"])
    assert rows(run_experiment(experiment, tmp_path / "run", engine=Shuffled())) == expected


def test_rows_do_not_depend_on_the_number_of_workers(settings, tmp_path, expected):
    out = run_experiment(load_experiment(settings), tmp_path / "run", engine=Processes(2))
    assert rows(out) == expected


def test_a_killed_run_resumes_to_the_same_rows(settings, tmp_path, expected):
    out = tmp_path / "run"
    code = (
        "from besiege.study.experiment.experiment import load_experiment\n"
        "from besiege.study.run import run_experiment\n"
        "from pathlib import Path\n"
        f"run_experiment(load_experiment(Path({str(settings)!r}), ['engine.batch=2']), "
        f"Path({str(out)!r}))"
    )
    for shards in (1, 9, 20):  # killed as soon as so many shards are there
        process = subprocess.Popen([sys.executable, "-c", code])
        while process.poll() is None and len(list(out.glob("cells/*.parquet"))) < shards:
            time.sleep(0.01)
        assert process.poll() is None, "the run ended before it could be killed"
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    finished = len(list(RunFolder(out).rows()))
    assert 0 < finished < 80
    assert rows(run_experiment(load_experiment(settings), out)) == expected


def test_a_truncated_shard_is_set_aside_and_made_again(settings, tmp_path, expected):
    out = run_experiment(load_experiment(settings), tmp_path / "run")
    shard = sorted(out.glob("cells/*.parquet"))[0]
    shard.write_bytes(shard.read_bytes()[:100])
    run_experiment(load_experiment(settings), out)
    assert rows(out) == expected
    assert list(out.glob("cells/*.damaged"))


def test_running_again_attacks_nothing(settings, tmp_path):
    out = run_experiment(load_experiment(settings), tmp_path / "run")
    before = {p: p.stat().st_mtime_ns for p in out.glob("cells/*.parquet")}
    run_experiment(load_experiment(settings), out)
    assert before == {p: p.stat().st_mtime_ns for p in out.glob("cells/*.parquet")}


def test_a_changed_experiment_adds_its_cells_and_keeps_the_others(settings, tmp_path):
    out = run_experiment(load_experiment(settings, ["data.n=3"]), tmp_path / "run")
    first = {r["cell"] for r in RunFolder(out).rows()}
    run_experiment(load_experiment(settings, ["data.n=3", "recipe[1].steps=4"]), out)
    both = {r["cell"] for r in RunFolder(out).rows()}
    assert first < both
    assert len(both) == len(first) + 4


def test_more_images_reuse_the_rows_that_are_there(settings, tmp_path, expected):
    out = run_experiment(load_experiment(settings, ["data.n=4"]), tmp_path / "run")
    run_experiment(load_experiment(settings), out)
    assert rows(out)[0] == expected[0]


PLUGIN = """
from dataclasses import dataclass
from besiege.core.entry import Entry
from besiege.defenses.transform import Transform

@dataclass(frozen=True)
class Fragile(Transform):
    '''Breaks on dark images.'''
    name: str = "fragile"
    def forward(self, x, draw):
        raise ValueError("too dark")

TRANSFORMS = (Entry("fragile", Fragile, "test"),)
"""


def test_a_batch_that_fails_loses_no_other(tmp_path):
    (tmp_path / "fragile.py").write_text(PLUGIN)
    (tmp_path / "e.toml").write_text(
        TOML.replace("seed = 3", 'seed = 3\nplugins = ["fragile.py"]').replace(
            '"fd + rdg:cells=4"', '"fragile"'
        )
    )
    out = tmp_path / "run"
    with pytest.raises(BadRun, match=r"of \d+ batches failed; all others are written") as caught:
        run_experiment(load_experiment(tmp_path / "e.toml"), out)
    assert "ValueError: too dark" in str(caught.value)
    assert len(list(RunFolder(out).rows())) == 40
    assert RunFolder(out).examined()  # what there is
    assert f"of {len(CHECKS)} asked)" in str(summarise(out))


def test_checks_are_asked_of_what_an_interrupted_run_left(settings, tmp_path):
    out = tmp_path / "run"

    def stop(event):
        if event.done > 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_experiment(load_experiment(settings, ["data.n=6"]), out, stop)
    folder = RunFolder(out)
    assert 0 < len(folder.rows()) < 48
    assert {a["number"] for a in folder.answers() if a["times"]} >= {35, 36, 40}
    run_experiment(load_experiment(settings, ["data.n=6"]), out)
    cells = folder.resolved()["cells"]
    assert {a["times"] for a in folder.answers() if a["number"] == 36} == {len(cells)}


def test_a_run_that_was_killed_was_asked_nothing(settings, tmp_path, monkeypatch):
    """Nobody gets to examine it, and what was said of fewer rows is no more said."""
    out = run_experiment(load_experiment(settings, ["data.n=3"]), tmp_path / "run")
    assert "checks: not asked" not in str(summarise(out))

    def killed(*_):
        raise BadRun("killed")

    monkeypatch.setattr("besiege.study.run.examine_run", killed)
    with pytest.raises(BadRun, match="killed"):
        run_experiment(load_experiment(settings, ["data.n=6"]), out)
    assert not RunFolder(out).examined()
    text = str(summarise(out))
    assert "checks: not asked" in text
    assert "no warning" not in text


def test_another_micro_batch_changes_few_outcomes(settings, tmp_path, expected):
    experiment = load_experiment(settings, ["engine.micro_batch=5"])
    found = rows(run_experiment(experiment, tmp_path / "run"))[0]
    key = lambda r: (r["id"], r["target"], r["lucky"], len(r["predicted"]))  # noqa: E731
    mine, theirs = sorted(found, key=key), sorted(expected[0], key=key)
    changed = sum(a["predicted"] != b["predicted"] for a, b in zip(mine, theirs, strict=True))
    assert changed <= 0.05 * len(mine)


def test_progress_reaches_the_end(settings, tmp_path):
    seen = []
    run_experiment(load_experiment(settings, ["data.n=3"]), tmp_path / "run", seen.append)
    assert seen[0].done == 0
    assert seen[-1].done == seen[-1].total == 24


def test_an_experiment_needs_no_file(tmp_path):
    out = run_experiment(
        experiment_from(
            {
                "name": "inline",
                "data": {"source": "digits", "n": 2},
                "model": {"source": "digits-cnn"},
                "defense": [{"name": "bits", "chain": "bits"}],
                "threat": [{"ball": "linf", "eps": "8/255"}],
                "recipe": [{"kind": "none"}],
            }
        ),
        tmp_path / "run",
    )
    assert len(list(RunFolder(out).rows())) == 2


STAGED = """
import torch
from torch import nn

from besiege.models.classifier import Classifier
from besiege.models.stages import Noise


def noisy():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Flatten(), Noise(0.5), nn.Linear(1024, 10))
    return Classifier(net, 10, channels=1, name="noisy").eval()
"""


def test_a_file_can_freeze_the_stages_of_a_classifier(tmp_path):
    """What an attacker reads under one kept draw is deterministic, hence the two attacks differ."""
    (tmp_path / "own.py").write_text(STAGED)
    path = tmp_path / "staged.toml"
    path.write_text(
        """
        name = "staged"
        data = "digits"
        model = "own.py:noisy"
        [[defense]]
        name = "bare"
        [[threat]]
        ball = "linf"
        eps = 0.1
        [[recipe]]
        kind = "bpda"
        name = "free"
        steps = 2
        [[recipe]]
        kind = "bpda"
        name = "frozen"
        steps = 2
        view = { classifier = "frozen" }
        [judge]
        draws = 2
        """
    )
    experiment = load_experiment(path, ["data.n=4"])
    assert [c.recipe.view for c in experiment.cells(Catalogs())] == [{}, {"classifier": "frozen"}]
    run_experiment(experiment, tmp_path / "run")
    lengths: dict[str, list[float]] = {}
    for row in RunFolder(tmp_path / "run").rows():
        lengths.setdefault(row["cell"], []).append(row["l2"])
    free, kept = lengths.values()
    assert len(free) == len(kept) == 4
    assert free != kept
