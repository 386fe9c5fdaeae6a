"""Gates on runs: figures are those of the tables, and verdicts what the interval says."""

import json
import math
import shutil
from functools import partial

import numpy as np
import pytest

import besiege
from besiege.checks.finding import NOTE, STOP, WARN, Finding
from besiege.core.errors import BadRun, BadSetting, UnknownName
from besiege.core.key import Key
from besiege.core.power import images_to_decide
from besiege.core.store import RunFolder
from besiege.report.tables import summarise
from besiege.study.experiment.experiment import experiment_from
from besiege.study.gate import gate as gates
from besiege.study.gate.corruptions import CORRUPTIONS, right_under
from besiege.study.gate.gauges import Gauges
from besiege.study.run import run_experiment

gate = partial(gates.gate, measure=False)  # latency and corruptions where they are asked for
OWN = """
import torch

def make_noise():
    return lambda image: (image + 0.3 * torch.randn_like(image)).clamp(0, 1)
"""
SETTINGS = {
    "seed": 3,
    "data": {"source": "digits", "n": 20},
    "model": "digits-cnn",
    "defense": [{"name": "bits", "chain": "bits"}, {"name": "noise", "chain": "noise:scale=0.5"}],
    "threat": [{"eps": 0.1}, {"ball": "l2", "eps": 2, "targeted": True, "defenses": ["noise"]}],
    "recipe": [{"kind": "none"}, {"kind": "oblivious", "steps": 2}, {"kind": "bpda", "steps": 4}],
    "judge": {"draws": 4},
}


def made(folder, **changes):
    return run_experiment(experiment_from({**SETTINGS, **changes}, home=folder), folder / "run")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return made(tmp_path_factory.mktemp("gate"))


@pytest.fixture
def copy(run, tmp_path):
    """A copy of the run, to be changed."""
    return shutil.copytree(run, tmp_path / "run")


def one(run, text, **settings):
    """The only verdict."""
    found = gate(run, [text], **settings)
    (judged,) = found.judged
    return found, judged


def say(folder, level, cells=(), number=14):
    """The checks say something of some cells, and nothing else."""
    finding = Finding(
        number, "a check", level, 1, 0, "Something is wrong.", "Mend it.", cells=cells
    )
    RunFolder(folder).write_findings([finding.record()])


def cells(run, defense, recipe):
    records = RunFolder(run).resolved()["cells"]
    return tuple(r["cell"] for r in records if (r["defense"], r["recipe"]) == (defense, recipe))


def test_figures_are_those_of_the_tables(run):
    table = summarise(run)
    found = gate(run, ["robust>=0%", "clean>=0%"])
    assert [d.name for d in found.defenses] == ["bits", "noise"]
    figures = {(d.name, j.about): j.measured for d in found.defenses for j in d.judged}
    for worst in table.worst:
        goal = "targeted" if worst.targeted else "untargeted"
        measured = figures.pop((worst.defense, f"{worst.threat} {goal}"))
        assert measured == (*worst.accuracy, worst.n)
    for line in table.lines:
        if line.control and not line.targeted:
            assert figures.pop((line.defense, "no attack")) == (*line.accuracy, line.n)
    assert not figures


def test_the_gap_is_that_of_the_strongest_attacker(run):
    _, judged = one(run, "gap@linf:0.1<=100%", defenses=["noise"])
    lines = [x for x in summarise(run).lines if (x.defense, x.targeted) == ("noise", False)]
    strongest = min((x for x in lines if not x.control), key=lambda x: x.accuracy.estimate)
    assert judged.measured.estimate == pytest.approx(strongest.gap)
    assert judged.measured.low < strongest.gap < judged.measured.high
    assert judged.about == f"linf 0.1 untargeted, {strongest.recipe}"


@pytest.mark.parametrize(
    ("offset", "verdict", "code"),
    [(-0.02, "PASS", 0), (0.5, "UNDECIDED", 3), (1.02, "FAIL", 1)],
)
def test_the_exit_code_follows_the_interval(run, offset, verdict, code):
    _, judged = one(run, "robust@linf:0.1>=0%", defenses=["noise"])
    _, low, high, _ = judged.measured
    bound = low + offset * (high - low)
    found, judged = one(run, f"robust@linf:0.1>={bound}", defenses=["noise"])
    assert (judged.verdict, found.exit_code, found.passed) == (verdict, code, code == 0)
    found, _ = one(run, f"robust@linf:0.1>={bound}", defenses=["noise"], allow_undecided=True)
    assert found.exit_code == (0 if code == 3 else code)


def test_the_estimate_decides_where_that_is_asked(run):
    _, judged = one(run, "robust@linf:0.1>=0%", defenses=["noise"])
    for shift, verdict in ((-1e-6, "PASS"), (0, "PASS"), (1e-6, "FAIL")):
        bound = judged.measured.estimate + shift
        _, other = one(run, f"robust@linf:0.1>={bound:.15f}", defenses=["noise"], on="estimate")
        assert other.verdict == verdict


def test_what_is_missed_outweighs_what_is_open(run):
    found = gate(run, ["clean>=100%", "robust>=100%"], defenses=["noise"], allow_undecided=False)
    assert {str(j.verdict) for j in found.judged} >= {"FAIL"}
    assert found.exit_code == 1


def test_an_open_question_says_how_many_images_answer_it(run):
    _, judged = one(run, "clean>=90%", defenses=["bits"])
    assert judged.verdict == "UNDECIDED"
    need = images_to_decide(judged.measured.estimate, 0.9)
    assert judged.sentence.startswith(f"90% lies in the interval: about {need} images would decide")


def test_what_would_narrow_an_interval_is_said(run):
    _, judged = one(run, "gap@linf:0.1<=0%", defenses=["noise"])
    assert judged.sentence == "0% lies in the interval: more images would narrow it"
    assert "-0.0" not in judged.shown


def test_threats_and_goals_are_chosen(run):
    names = ["noise"]
    assert len(gate(run, ["robust>=0%"], defenses=names).judged) == 2
    (linf,) = gate(run, ["robust@linf:eps=0.1>=0%"], defenses=names).judged
    (aimed,) = gate(run, ["robust@targeted>=0%"], defenses=names).judged
    assert (linf.about, aimed.about) == ("linf 0.1 untargeted", "l2 2 targeted")
    with pytest.raises(UnknownName, match=r'Did you mean "linf 0\.1"'):
        gate(run, ["robust@linf:0.2>=0%"])


def test_a_defense_that_was_not_attacked_there_does_not_pass(run):
    found, judged = one(run, "robust@l2:2>=0%", defenses=["bits"])
    assert (judged.verdict, found.exit_code, judged.shown) == ("REFUSED", 1, "-")
    assert "no attacker of this defense" in judged.sentence
    assert one(run, "robust@l2:2>=0%", defenses=["bits"], allow_undecided=True)[0].exit_code == 1


def test_a_run_without_control_has_no_clean_figure(tmp_path):
    run = made(
        tmp_path,
        recipe=SETTINGS["recipe"][2:],
        data={"source": "digits", "n": 3},
        threat=[{"eps": 0.1}],
    )
    found = gate(run, ["clean>=0%"])
    assert {str(j.verdict) for j in found.judged} == {"REFUSED"}
    assert 'kind = "none"' in found.judged[0].sentence


def test_what_a_check_stops_does_not_pass(copy):
    say(copy, STOP, cells(copy, "noise", "bpda")[:1])
    found = gate(copy, ["robust@linf:0.1>=0%"])
    assert [str(j.verdict) for j in found.judged] == ["PASS", "REFUSED"]
    assert "check 14 says STOP" in found.judged[1].sentence
    assert found.exit_code == 1
    assert any("STOP 14 a check" in line for line in found.defenses[1].context)
    assert not any("STOP 14" in line for line in found.defenses[0].context)
    assert gate(copy, ["robust@linf:0.1>=0%"], despite_findings=True).passed
    (failed,) = gate(copy, ["robust@linf:0.1>100%"], defenses=["noise"]).judged
    assert failed.verdict == "FAIL"
    assert gate(copy, ["clean>=0%"]).passed


def test_a_check_of_the_whole_run_touches_every_figure_of_it(copy):
    say(copy, STOP)
    found = gate(copy, ["robust>=0%", "clean>=0%"])
    assert {str(j.verdict) for j in found.judged} == {"REFUSED"}


def test_a_warning_is_told_and_counted_and_passes(copy):
    say(copy, WARN, cells(copy, "noise", "bpda"))
    found = gate(copy, ["robust>=0%"])
    assert found.passed
    assert any("WARN 14" in line for line in found.defenses[1].context)
    found = gate(copy, ["findings<=0"])
    assert [(j.measured.estimate, str(j.verdict)) for j in found.judged] == [
        (0, "PASS"),
        (1, "FAIL"),
    ]
    assert any("WARN 14" in line for line in found.defenses[1].context)
    assert gate(copy, ["findings@STOP<=0"]).passed
    say(copy, NOTE)
    assert gate(copy, ["findings<=0"]).passed
    assert gate(copy, ["findings@NOTE<=0"]).exit_code == 1


def test_a_run_that_was_never_checked_is_checked(copy):
    (copy / "findings.json").unlink()
    gate(copy, ["clean>=0%"])
    assert (copy / "findings.json").exists()


def test_the_attackers_are_told(run):
    found = gate(run, ["robust@linf:0.1>=0%"], defenses=["noise"])
    told = found.defenses[0].context[0]
    worst = next(w for w in summarise(run).worst if (w.defense, w.targeted) == ("noise", False))
    assert "an upper bound, found by oblivious, bpda in " in told
    assert f"{worst.passes:,.0f} passes an image" in told
    assert 'add [[recipe]] kind = "adaptive"' in told


def test_a_union_is_no_weak_attacker(tmp_path):
    union = {
        "kind": "union",
        "union": [{"kind": "bpda", "steps": 1}, {"kind": "oblivious", "steps": 1}],
    }
    data = {"source": "digits", "n": 3, "select": "correct"}
    run = made(
        tmp_path, recipe=[union], data=data, threat=[{"eps": 0.1}], defense=SETTINGS["defense"][:1]
    )
    told = " ".join(gate(run, ["robust>=0%"]).defenses[0].context)
    assert "strongest: union" in told
    assert "adaptive" not in told
    assert "only images that the bare classifier gets right were attacked" in told


def test_corruptions_are_those_of_the_run_and_its_images(run):
    found, judged = one(run, "corrupted@contrast>=0%", defenses=["noise"], severities=[5])
    x, y, _ = besiege.load_images("digits").take(range(20))
    noise = besiege.Defense(
        besiege.parse_chain("noise:scale=0.5"), besiege.load_model("digits-cnn")
    )
    by_hand = right_under(noise, x, y, Key.root(3, range(20)), "contrast", (5,), 4, 32)
    assert judged.measured.estimate == pytest.approx(by_hand.mean())
    assert judged.about == "contrast, severity 5"
    assert f"contrast {100 * by_hand.mean():.1f} (" in found.defenses[0].context[-1]


class Fixed(Gauges):
    """Right answers by name and corruption, each asked for at most once a caller."""

    def __init__(self, path, right):
        super().__init__(path)
        self.right = right

    def right_under(self, name, kind):
        return self.right(name, kind)


def test_the_mean_over_corruptions_is_of_each_image(run):
    shares = {kind: np.full(20, i / 10) for i, kind in enumerate(CORRUPTIONS)}
    meter = Fixed(run, lambda name, kind: shares[kind])
    _, judged = one(run, "corrupted>=30%", defenses=["bits"], gauges=meter)
    assert judged.measured.estimate == pytest.approx(0.35)
    assert judged.measured.n == 20
    assert judged.about == "8 corruptions, severity 3"


def test_latency_and_overhead_are_of_the_batch_asked_for(run):
    found = gate(
        run,
        ["latency<=1000s", "latency@4<0.001us", "overhead@4<=100000x"],
        defenses=["bits"],
        calls=6,
        batches=[2],
    )
    assert [str(j.verdict) for j in found.judged] == ["PASS", "FAIL", "PASS"]
    assert [j.about for j in found.judged] == ["batch 1", "batch 4", "batch 4"]
    told = [line for line in found.defenses[0].context if line.startswith("latency")]
    assert [line.partition(":")[0] for line in told] == [f"latency at batch {b}" for b in (1, 4, 2)]


def test_a_run_made_in_python_has_no_defense_to_measure(tmp_path):
    x, y, _ = besiege.load_images("digits").take(range(4))
    bare = besiege.Defense(besiege.parse_chain("bits"), besiege.load_model("digits-cnn"))
    out = tmp_path / "run"
    besiege.evaluate(bare, x, y, besiege.Linf(0.1), recipes=["none", "bpda"], steps=1, out=out)
    found = gates.gate(out, ["robust>=0%"])
    assert found.passed
    told = {one.quantity: one for one in found.defenses[0].product}
    assert "load_recipes" in told["latency"].missing == told["corrupted"].missing
    assert told["clean"].measured.n == 4
    with pytest.raises(BadRun, match=r"cannot be measured again: it was made in Python"):
        gate(out, ["latency<=1s"])


def test_a_defense_that_changed_is_not_measured(tmp_path):
    (tmp_path / "own.py").write_text(OWN)
    small = {
        "defense": [{"name": "own", "chain": "own.py:make_noise"}],
        "data": {"source": "digits", "n": 3},
        "threat": [{"eps": 0.1}],
        "recipe": [{"kind": "none"}],
    }
    run = made(tmp_path, **small)
    assert gate(run, ["corrupted@jpeg>=0%"]).passed
    (tmp_path / "own.py").write_text(OWN.replace("0.3", "0.4"))
    with pytest.raises(BadRun, match="are no longer those of the run"):
        gate(run, ["corrupted@jpeg>=0%"])
    assert gate(run, ["clean>=0%"]).passed


def test_a_run_that_is_not_finished_is_no_evidence(copy):
    next((copy / "cells").glob("*.parquet")).unlink()
    with pytest.raises(BadRun, match=r"is not finished: 20 rows are missing"):
        gate(copy, ["clean>=0%"])


def test_wrong_settings_are_refused_before_anything_is_read(run, tmp_path):
    with pytest.raises(BadSetting, match="lets all pass"):
        gate(run, [])
    for settings in ({"on": "estimates"}, {"defenses": ["bit"]}):
        with pytest.raises(UnknownName, match="Did you mean"):
            gate(run, ["clean>=0%"], **settings)
    with pytest.raises(BadSetting, match="severity"):
        gate(run, ["clean>=0%"], severities=[0])
    with pytest.raises(BadSetting, match="at least 6 calls"):
        gate(run, ["clean>=0%"], calls=2)
    with pytest.raises(BadRun, match="holds no run"):
        gate(tmp_path, ["clean>=0%"])


def test_the_record_is_json_without_nan(run):
    found = gate(run, ["robust@l2:2>=0%", "clean>=85.5%"], defenses=["bits"])
    again = json.loads(json.dumps(found.record(), allow_nan=False))
    assert again == found.record()
    refused, clean = again["defenses"][0]["requirements"]
    assert refused["estimate"] is refused["low"] is None
    assert (clean["bound"], clean["n"], clean["quantity"]) == (0.855, 20, "clean")
    assert math.isclose(clean["estimate"], found.judged[1].measured.estimate)
    assert (again["exit"], again["passed"]) == (1, False)
    assert "REFUSED   bits: robust@l2:2>=0%" in str(found)


def test_the_product_is_told_unasked(run):
    """Clean accuracy always; the rest by default, on a few images, and never what was asked."""
    found = gates.gate(run, ["robust@linf:0.1>=0%"], defenses=["noise"])
    clean, latency, overhead, corrupted = found.defenses[0].product
    names = [told.quantity for told in (clean, latency, overhead, corrupted)]
    assert names == ["clean", "latency", "overhead", "corrupted"]
    line = next(x for x in summarise(run).lines if x.control and x.defense == "noise")
    assert clean.measured == (*line.accuracy, 20)
    assert 0 < latency.measured.low <= latency.measured.estimate < 10
    assert latency.measured.n == 10
    by_hand = Gauges(run)
    shares = [by_hand.right_under("noise", kind) for kind in CORRUPTIONS]  # 20 images, 4 draws
    assert corrupted.measured.estimate == pytest.approx(np.mean(shares))
    assert "8 corruptions, severity 3; bare classifier " in corrupted.about
    record = json.loads(json.dumps(found.record(), allow_nan=False))
    assert record["defenses"][0]["product"][0]["estimate"] == clean.measured.estimate
    assert len(found.judged) == 1
    short = gate(run, ["robust@linf:0.1>=0%"], defenses=["noise"])
    assert [told.quantity for told in short.defenses[0].product] == ["clean"]
    asked = gates.gate(
        run,
        ["clean>=0%", "latency<=9s", "overhead<=99999x", "corrupted@jpeg>=0%"],
        defenses=["noise"],
        calls=6,
    )
    assert asked.defenses[0].product == ()


def test_what_would_take_long_is_not_measured_unasked(run):
    ticks = iter(range(10_000))  # a clock by which every answer takes a second
    slow = Gauges(run, clock=lambda: float(next(ticks)))
    found = gates.gate(run, ["robust@linf:0.1>=0%"], defenses=["noise"], gauges=slow)
    corrupted = found.defenses[0].product[-1]
    assert "about 640 s would be needed for 640 answers" in corrupted.missing
    assert corrupted.shown == "-"


def test_few_images_and_draws_are_a_part_of_all(run):
    light, whole = Gauges(run).light(5, 2, 6), Gauges(run)
    assert light.asked("noise") == 10
    assert light.asked("bits") == 5
    some = light.right_under("bits", "jpeg")
    assert some.tolist() == whole.right_under("bits", "jpeg")[:5].tolist()


def test_planning_is_told_with_the_passes(tmp_path):
    plan = {"passes": 700, "pilots": 8, "recipe": {"name": "bpda"}}
    where = {"defense": "bits", "threat": "linf 0.1", "targeted": False}
    small = {"defense": SETTINGS["defense"][:1], "threat": [{"eps": 0.1}]}
    run = made(tmp_path, **small, data={"source": "digits", "n": 3})
    resolved = RunFolder(run).resolved()
    (run / "resolved.json").write_text(json.dumps({**resolved, "plans": {"x": {**plan, **where}}}))
    told = gate(run, ["robust>=0%"]).defenses[0].context[0]
    assert "passes an image, and planning 700 on each of 8; strongest" in told
