"""Runs end once the threshold is excluded, and not before."""

import json
import re

import numpy as np
import pytest

from besiege.core.errors import BadSetting
from besiege.core.stats import worst_case, worst_each
from besiege.core.store import RunFolder
from besiege.study.experiment.experiment import experiment_from
from besiege.study.until import run_until, told


def experiment(home, n, chain="none", eps=0.6):
    settings = {
        "data": {"source": "digits", "n": n},
        "model": "digits-cnn",
        "defense": [{"name": "mine", "chain": chain}],
        "threat": [{"eps": eps}],
        "recipe": [{"kind": "none"}, {"kind": "bpda", "steps": 3}],
        "judge": {"draws": 2},
        "keep": {"images": 0, "traces": False},
    }
    return experiment_from(settings, [], home=home, where="test")


def test_a_broken_defense_ends_early_and_the_run_is_that_of_fewer_images(tmp_path):
    (found,) = run_until(experiment(tmp_path, 500), tmp_path / "run", 0.5, step=16)
    resolved = RunFolder(tmp_path / "run").resolved()
    assert found.stop is not None
    assert not found.stop.above
    assert found.stop.n <= len(resolved["ids"]) == resolved["experiment"]["data"]["n"] <= 48
    assert re.match(r"mine, linf 0.6 untargeted: robust accuracy below 50 %, known", str(found))
    assert told(tmp_path / "run", 0.5) == (found,)


def test_a_harmless_threat_ends_above(tmp_path):
    (found,) = run_until(experiment(tmp_path, 500, eps=0.0), tmp_path / "run", 0.5, step=16)
    assert found.stop is not None
    assert found.stop.above


def test_it_takes_no_more_images_than_asked_for(tmp_path):
    (found,) = run_until(experiment(tmp_path, 10), tmp_path / "run", 0.01, step=6)
    assert found.stop is None
    assert found.n == 10
    assert str(found).endswith("not told from 1 % by 10 images")


def test_images_in_order_of_labels_are_refused(tmp_path):
    run_until(experiment(tmp_path, 24), tmp_path / "run", 0.5, step=24)
    folder = RunFolder(tmp_path / "run")
    resolved = folder.resolved()
    labels = {row["id"]: row["label"] for row in folder.rows()}
    resolved["ids"].sort(key=labels.__getitem__)
    folder._put("resolved.json", json.dumps(resolved).encode())
    with pytest.raises(BadSetting, match="order of their labels"):
        told(tmp_path / "run", 0.5)


@pytest.mark.parametrize("threshold", [0.0, 1.0, 30])
def test_other_thresholds_are_refused(tmp_path, threshold):
    with pytest.raises(BadSetting, match="threshold"):
        run_until(experiment(tmp_path, 4), tmp_path / "run", threshold)


def test_the_worst_of_each_image_needs_no_other_image():
    random = np.random.default_rng(0)  # noqa: TID251
    right = [random.random((30, 6)) < p for p in (0.4, 0.6)]
    whole = worst_each(right)
    assert [
        float(worst_each([r[i : i + 1] for r in right])[0]) for i in range(30)
    ] == whole.tolist()
    assert worst_case(right).mean() <= whole.mean()
