"""Every attack can be chosen by its name: listed with what it needs, and run from an experiment."""

import pytest

from besiege.attacks.attack import Attack, Point
from besiege.attacks.catalog import ATTACKS
from besiege.attacks.threat import BALLS
from besiege.cli.shelves import traits
from besiege.core.entry import Entry
from besiege.core.store import RunFolder
from besiege.study.experiment.experiment import experiment_from
from besiege.study.run import run_experiment


@pytest.mark.parametrize("name", ATTACKS)
def test_it_runs_from_an_experiment(name, tmp_path):
    made = ATTACKS.build(name)
    ball = made.balls[0] if made.balls else "linf"
    experiment = experiment_from(
        {
            "data": {"source": "digits", "n": 2},
            "model": "digits-cnn",
            "defense": [{"name": "bare"}],
            "threat": [{"ball": ball, "access": made.access, **BALLS[ball].cases[0]}],
            "recipe": [{"kind": "bpda", "attack": name, "steps": 4}],
            "judge": {"draws": 1},
            "engine": {"batch": 2, "micro_batch": 2},
        }
    )
    rows = RunFolder(run_experiment(experiment, tmp_path / "run")).rows()
    assert len(rows) == 2
    for row in rows:
        assert row["flags"] == [], row["flags"]
        assert 0 <= row["claim"] <= 1


@pytest.mark.parametrize("entry", ATTACKS.values(), ids=list(ATTACKS))
def test_it_says_what_it_needs_and_costs(entry):
    found = traits("attacks", entry)
    assert set(found) == {"access", "balls", "looks for", "loss", "cost"}
    assert all(found.values()), f"the docstring of {entry.name} has no `Cost:`"


def test_traits_are_those_of_the_built_attack():
    def mine(near: bool = False) -> Attack:
        """Stays.

        Cost: one forward
        pass a step. Source: nobody.
        """
        own = {"access": "labels", "balls": ("l2", "rms"), "loss": "margin"}
        return Attack(lambda p: Point(p.x0), lambda p, s, t: s, nearest=near, **own)

    assert traits("attacks", Entry("mine", mine, "test", cases=({"near": True},))) == {
        "access": "labels",
        "balls": "l2, rms",
        "looks for": "nearest",
        "loss": "margin",
        "cost": "one forward pass a step",
    }
    assert traits("losses", Entry("mine", mine, "test")) == {}
