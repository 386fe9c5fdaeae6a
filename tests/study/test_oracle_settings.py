"""Settings of the oracle in an experiment: from TOML to rows, whatever the size of the batches."""

import re

import pytest

from besiege.core.errors import BadSetting, UnknownName
from besiege.core.store import RunFolder
from besiege.study.experiment.experiment import experiment_from
from besiege.study.run import run_experiment

SETTINGS = {
    "name": "oracles",
    "data": {"source": "digits", "n": 5},
    "model": "digits-cnn",
    "defense": [
        {"name": "bare"},
        {"name": "noise", "chain": "noise:scale=0.1"},
    ],
    "threat": [
        {"ball": "linf", "eps": 0.06, "passes": 60},
    ],
    "recipe": [
        {"kind": "bpda", "steps": 32, "name": "limited"},
        {"kind": "bpda", "steps": 2, "name": "cosine", "cosine": 0.9, "most_draws": 8},
        {"kind": "bpda", "steps": 3, "name": "bfloat16", "precision": "bfloat16"},
        {
            "kind": "bpda",
            "steps": 3,
            "name": "scores",
            "links": "as-is",
            "gradients": "finite-differences:directions=4",
        },
    ],
    "judge": {"draws": 3, "every": 2},
    "engine": {"batch": 64, "micro_batch": 8},
}


def table(tmp_path, batch):
    """Rows and traces by recipe and defense, without the times."""
    out = run_experiment(experiment_from(SETTINGS, [f"engine.batch={batch}"]), tmp_path / "run")
    names = {c["cell"]: (c["recipe"], c["defense"]) for c in RunFolder(out).resolved()["cells"]}
    found = {name: [] for name in names.values()}
    for row in [*RunFolder(out).rows(), *RunFolder(out).traces()]:
        found[names[row["cell"]]].append({k: v for k, v in row.items() if k != "seconds"})
    return found


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    return table(tmp_path_factory.mktemp("whole"), 64)


@pytest.mark.parametrize("batch", [1, 2])
def test_rows_do_not_depend_on_the_batch_size(tmp_path, expected, batch):
    assert repr(table(tmp_path, batch)) == repr(expected)


def test_the_limit_is_flagged_on_the_rows_that_it_ended(expected):
    rows = expected["limited", "bare"][:5]
    spent = [row["flags"] == ["limit of passes reached"] for row in rows]
    assert any(spent)
    assert not all(spent)
    assert [row["claim"] < 1 for row in rows] == spent


def test_the_draws_chosen_are_flagged_and_fit_the_passes(expected):
    rows = expected["cosine", "noise"][:5]
    for row in rows:
        (flag,) = row["flags"]
        n, most = re.fullmatch(
            r"(\d+) draws a step(, the most allowed,)? for cosine 0.9( or less)?", flag
        ).group(1, 2)
        assert (int(n) == 8) == (most is not None)
        assert row["backwards"] == 8 + 2 * int(n)
    assert len({row["flags"][0] for row in rows}) > 1
    assert all(row["flags"] == [] for row in expected["cosine", "bare"][:5])


def test_estimates_take_no_backward_pass_and_go_through_links_without_gradient(expected):
    rows = expected["scores", "noise"][:5]
    assert {(row["backwards"], *row["flags"]) for row in rows} == {(0,)}


def test_a_bad_setting_is_refused_before_anything_runs():
    with pytest.raises(UnknownName, match=r'recipe\[3\]: Unknown gradients: "nes"'):
        experiment_from(SETTINGS, ["recipe.scores.gradients=nes"])
    with pytest.raises(BadSetting, match="cosine lies between 0 and 1"):
        experiment_from(SETTINGS, ["recipe.cosine.cosine=2"])
    with pytest.raises(UnknownName, match='precision in recipe "bfloat16": "half"'):
        experiment_from(SETTINGS, ["recipe.bfloat16.precision=half"])
