"""Budgets: how they are spelt, what becomes of minutes, and that a run which resumes keeps them."""

import time

import pytest
import torch

import besiege
from besiege.attacks.threat import Linf, Threat
from besiege.core.errors import BadSetting
from besiege.core.key import Key
from besiege.core.store import RunFolder
from besiege.defenses.defense import Defense, Mean
from besiege.defenses.noise import Noise
from besiege.defenses.transform import Chain
from besiege.laws.problems import linear_classifier
from besiege.study import budget
from besiege.study.budget import FLOOR, Budget, parse_budget, passes_in, seconds_a_pass, settled
from besiege.study.experiment.experiment import experiment_from
from besiege.study.part import Part
from besiege.study.run import run_experiment
from besiege.study.siege import Opponents

BARE = Defense(Chain(), linear_classifier())
X = Key.root(3, range(6)).uniform(1, 4, 4)
Y = BARE.labels(X, Key.root(0, range(6)))


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("3000", Budget(passes=3000)),
        ("3,000 passes", Budget(passes=3000)),
        ("10min", Budget(minutes=10.0)),
        ("90s", Budget(minutes=1.5)),
        ("0.5 h", Budget(minutes=30.0)),
    ],
)
def test_how_a_budget_is_spelt(text, meant):
    assert parse_budget(text) == meant


@pytest.mark.parametrize(
    "text", ["", "0", "-3", "1.5", "0s", "10 minutes", "many", "1e3", "3000steps"]
)
def test_what_is_no_budget_is_refused(text):
    with pytest.raises(BadSetting, match="a budget is passes an image or a time"):
        parse_budget(text)


def test_minutes_by_hand():
    """10 minutes at 1 ms are 600,000 passes: of 100 images, 16 of them planned on, 20 draws."""
    assert passes_in(10, [0.001], 100, 20, random=True) == (600_000 - 16 * 1500 - 100 * 20) // 100
    assert passes_in(10, [0.001], 100, 20, random=False) == (600_000 - 16 * 300 - 100) // 100
    both = passes_in(10, [0.001, 0.003], 100, 20, random=True)  # two attackers, of unlike defenses
    assert both == (150_000 - 16 * 1500 - 100 * 20) // 100
    assert passes_in(0.01, [0.001], 100, 20, random=True) == FLOOR
    with pytest.raises(BadSetting, match="minutes are more than 0"):
        passes_in(0, [0.001], 100, 20, random=True)


@pytest.mark.parametrize("access", ["gradients", "labels"])
@pytest.mark.parametrize("drawn", [False, True])
def test_a_pass_takes_what_a_network_takes(access, drawn, monkeypatch):
    """By a clock that runs while the classifier does, and at no other time."""
    clock = [0.0]

    class Slow(torch.nn.Module):
        def forward(self, x):
            clock[0] += 0.25 * len(x)
            return x.flatten(1) @ torch.ones(16, 2)

    slow = besiege.Classifier(Slow().eval(), classes=2, channels=1)
    defense = Defense(Chain((Noise(scale=0.1),) if drawn else ()), slow, Mean(draws=2))
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    who = Opponents(micro_batch=3)
    key = Key.root(0, range(6))
    found = seconds_a_pass(defense, X, Y, Threat(Linf(0.1), access=access), key, who)
    # a forward pass is 0.25 s, a backward pass none that this clock shows
    assert 0.25 * 0.4 <= found <= 0.25 * 1.01


def test_what_was_settled_before_stays():
    asked, known = {"threat": 0, "title": "linf 0.1", "minutes": 1.0}, {"passes": 777, "note": "so"}
    measured = []

    def seconds():
        measured.append(1)
        return [0.001]

    for before, passes in (
        ([], 600),
        ([{**asked, **known}], 777),
        ([{**asked, "minutes": 2.0, **known}], 600),
        ([{**asked, "title": "linf 0.2", **known}], 600),
    ):
        found = settled(asked, before, seconds, 90, 20, random=False)
        assert found["passes"] == (777 if passes == 777 else (60_000 - 16 * 300 - 90) // 90)
    assert len(measured) == 3
    assert f"are {found['passes']:,} passes an image" in found["note"]


SETTINGS = {
    "data": {"source": "digits", "n": 4},
    "model": "digits-cnn",
    "defense": [{"name": "bits", "chain": "bits:bits=4"}],
    "threat": [{"eps": 0.1, "minutes": 0.01}, {"eps": 0.1, "targeted": True, "passes": 9}],
    "recipe": [{"kind": "none"}, {"kind": "bpda", "steps": 3}],
}


def test_minutes_of_an_experiment_become_passes_once(tmp_path, monkeypatch):
    monkeypatch.setattr(budget, "seconds_a_pass", lambda *_: 0.0001)
    out = run_experiment(experiment_from(SETTINGS), tmp_path / "run")
    passes = (6000 - 4 * 300 - 4) // 4
    resolved, rows = RunFolder(out).resolved(), RunFolder(out).rows()
    assert [c["passes"] for c in resolved["cells"]] == [passes, passes, 9, 9]
    assert [t["passes"] for t in resolved["experiment"]["threat"]] == [passes, 9]
    monkeypatch.setattr(budget, "seconds_a_pass", lambda *_: 0.1)
    run_experiment(experiment_from(SETTINGS), out)
    assert RunFolder(out).rows() == rows
    assert RunFolder(out).resolved()["cells"] == resolved["cells"]


def test_parts_of_a_run_need_passes(tmp_path):
    with pytest.raises(BadSetting, match="parts of a run must agree"):
        run_experiment(experiment_from(SETTINGS), tmp_path / "run", part=Part(1, 2))
    both = {**SETTINGS, "threat": [{"eps": 0.1, "minutes": 1, "passes": 9}]}
    with pytest.raises(BadSetting, match="passes or of minutes"):
        experiment_from(both)


def test_in_python_the_budget_is_the_limit_of_every_attacker():
    found = besiege.evaluate(BARE, X, Y, Linf(0.01), budget=40, draws=2)
    assert [line.recipe for line in found.lines] == ["none", "adaptive"]
    assert 0 < found.lines[1].forwards + found.lines[1].backwards <= 40 + 3
    assert found.plans[0].recipe == "adaptive"
    assert any(note.startswith("left out") for note in found.plans[0].notes)
    limited = Threat(Linf(0.01), passes=40)
    same = besiege.evaluate(BARE, X, Y, limited, draws=2)
    assert [line.cell for line in same.lines] == [line.cell for line in found.lines]
    for more in ({"budget": 9, "minutes": 1}, {"budget": 9, "threat": limited}):
        with pytest.raises(BadSetting, match="one limit is enough"):
            besiege.evaluate(BARE, X, Y, **{"threat": Linf(0.01), **more})


def test_minutes_in_python_are_noted_and_kept(tmp_path, monkeypatch):
    from besiege.study import in_memory as module

    monkeypatch.setattr(module, "seconds_a_pass", lambda *_: 0.0001)
    ask = {"threat": Linf(0.01), "minutes": 0.01, "out": tmp_path / "run", "steps": 7}
    found = besiege.evaluate(BARE, X, Y, **ask)
    passes = (6000 - 6 * 300 - 6) // 6
    assert found.notes[0].startswith("steps = 7 are of recipes given by name")
    assert f"at 0.1 ms a pass are {passes:,} passes an image" in found.notes[1]
    assert found.notes[1] in " ".join(str(found).split())
    monkeypatch.setattr(module, "seconds_a_pass", lambda *_: 1.0)
    again = besiege.evaluate(BARE, X, Y, **ask)
    assert [line.cell for line in again.lines] == [line.cell for line in found.lines]


def test_a_claim_in_python_is_what_the_verdict_is_on():
    (one,) = besiege.evaluate(BARE, X, Y, Linf(0.5), recipes=["none", "bpda"], claim=0.9).worst
    assert (one.verdict.word, one.verdict.claim) == ("broken", 0.9)
    with pytest.raises(BadSetting, match="a claim is a share"):
        besiege.evaluate(BARE, X, Y, Linf(0.5), recipes=["none"], claim=60)
