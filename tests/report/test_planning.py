"""What planning cost and what it found stands in headline, tables, page, notebook and JSON."""

import json
import math

import numpy as np
import pytest

from besiege.checks.finding import NOTE, STOP, Finding
from besiege.core.bootstrap import two_level
from besiege.core.store import RunFolder
from besiege.report.page import write_report
from besiege.report.pairs import findings_of, pairs, show
from besiege.report.planning import PlanNotes, plans_of
from besiege.report.tables import summarise

N = 40
NOTES = (
    "rdg: loss gained by a step: moved +2.31, identity -0.10; at random +0.01",
    "best surrogates: 88% of the pilots in 8 steps",
    "rdg by identity: 25% of the pilots in 8 steps",
    "without rdg: 31% of the pilots in 8 steps",
    "best surrogates: 96% of the pilots in 32 steps",
    "rdg by identity: 41% of the pilots in 32 steps",
    "of 2 pilots that stand: more steps 10%, adam 60%",
)
BEST, OTHER = {"rdg": "moved"}, {"rdg": "identity"}
VIEWS = {
    "1 pgd, best surrogates": BEST,
    "2 pgd, rdg by identity": OTHER,
    "3 one draw kept": {"rdg": "frozen:moved"},
    "4 square, as it is": {},
    "the rest, adam": OTHER,
}
PLAN = {
    "defense": "rdg",
    "threat": "linf 0.1",
    "targeted": False,
    "notes": list(NOTES),
    "passes": 1864,
    "pilots": 16,
    "networks": 0,
    "recipe": {"name": "adaptive", "union": [{"name": k, "view": v} for k, v in VIEWS.items()]},
}


def record(cell, recipe, union=()):
    attack = "union" if union else "none"
    return {
        "cell": cell,
        "defense": "rdg",
        "chain": "rdg",
        "vote": "one",
        "recipe": recipe,
        "recipe_settings": {"attack": attack, "steps": 0, "union": [{"name": n} for n in union]},
        "threat": "linf 0.1",
        "ball": "linf",
        "eps": 0.1,
        "targeted": False,
        "draws": 4,
        "classes": [str(i) for i in range(10)],
    }


def rows(cell, right, passes, flags):
    sizes = {k: np.full(N, 0.1) for k in ("linf", "l2", "rms", "l1", "l0", "size", "seconds")}
    return {
        "cell": [cell] * N,
        "id": np.arange(N),
        "label": np.zeros(N, int),
        "target": np.full(N, -1),
        "predicted": [[0] * right + [1] * (4 - right)] * N,
        "claim": np.full(N, 1.0),
        "lucky": np.ones(N, bool),
        "point": ["0" * 16] * N,
        "forwards": np.full(N, passes),
        "backwards": np.full(N, passes),
        "flags": [flags] * N,
        **sizes,
    }


def made(path, plan, findings=()):
    cells = [record("a" * 16, "none"), record("b" * 16, "adaptive", VIEWS)]
    resolved = {"experiment": {"data": {}}, "cells": cells, "ids": list(range(N))}
    with RunFolder.open(path) as folder:
        versions = dict.fromkeys(("python", "device", "processor", "platform", "revision"), "")
        more = {"plans": {"x": plan}}
        folder.write_experiment("", {**resolved, **more}, {"packages": {}, **versions})
        folder.write_shard(rows("a" * 16, 4, 0, []), None, {})
        found = ["found by: 1 pgd, best surrogates"]
        folder.write_shard(rows("b" * 16, 1, 73, found), None, {})
        folder.write_findings([finding.record() for finding in findings])
    return path


@pytest.fixture
def run(tmp_path):
    return made(tmp_path / "run", PLAN)


def test_the_headline_and_the_table_say_what_planning_took(run):
    (headline,) = summarise(run).worst
    shared = 1864 * 16 / N
    assert headline.planning == pytest.approx(shared)
    said = "after 146 passes an image, and planning 1,864 on each of 16 (746 an image);"
    assert said in str(headline)
    none, adaptive = summarise(run).lines
    assert (none.planning, adaptive.planning) == (0, pytest.approx(shared))
    text = str(summarise(run))
    assert "146 + 746" in text
    assert "those of planning" in text
    page = write_report(run).read_text()
    assert said.removeprefix("after ")[:-1] in page
    assert "<td>746</td>" in page
    assert "146 + 746" in summarise(run)._repr_html_()
    found = json.loads(json.dumps(summarise(run).record(), allow_nan=False))
    assert found["worst"][0]["planning"] == found["lines"][1]["planning"] == pytest.approx(shared)
    assert [found["plans"][0][k] for k in ("passes", "pilots", "networks")] == [1864, 16, 0]


def test_a_folder_that_does_not_say_on_how_many_is_not_guessed_at(tmp_path):
    old = {k: v for k, v in PLAN.items() if k not in ("pilots", "networks")}
    found = summarise(made(tmp_path / "old", old))
    assert "and planning 1,864 on each pilot image;" in str(found.worst[0])
    assert math.isnan(found.lines[1].planning)
    assert "146 + ?" in str(found)
    assert json.loads(json.dumps(found.record(), allow_nan=False))["lines"][1]["planning"] is None
    assert "<td>?</td>" in write_report(tmp_path / "old").read_text()


def test_networks_are_said_beside_passes(tmp_path):
    found = summarise(made(tmp_path / "two", {**PLAN, "networks": 2}))
    assert "1,864 on each of 16, and training 2 networks (746 an image)" in str(found.worst[0])


def test_who_won_is_told_with_the_measurement_that_chose_its_way(run):
    why = (
        "1 pgd, best surrogates sees rdg by moved: 96 % of the pilots fell to it in 32 steps "
        "(rdg by identity 41 %, without rdg 31 % in 8)"
    )
    assert summarise(run).worst[0].reason == why
    assert f"  - {why}" in str(summarise(run))
    assert why in write_report(run).read_text()
    assert why in summarise(run)._repr_html_()


@pytest.mark.parametrize(
    ("search", "says"),
    [
        ("2 pgd, rdg by identity", "by identity: 41 % of the pilots fell to it in 32 steps (best"),
        ("the rest, adam", "the rest, adam sees rdg by identity: 41 % of the pilots fell to it"),
        ("the rest, adam", "; of 2 pilots that stand: more steps 10%, adam 60%"),
        ("3 one draw kept", "with one draw kept: rdg: loss gained by a step: moved +2.31"),
        ("4 square, as it is", ""),
        ("of another version", ""),
    ],
)
def test_a_reason_is_that_of_the_search(search, says):
    (plan,) = plans_of({"plans": {"x": PLAN}})
    assert says in plan.reason(search)
    assert bool(says) == bool(plan.reason(search))


def test_where_one_way_won_all_there_is_no_other():
    notes = ("best surrogates: 100% of the pilots in 8 steps",)
    plan = PlanNotes("d", "t", "untargeted", "r", notes, 9, 8, 0, {"1 pgd, best surrogates": BEST})
    assert plan.reason("1 pgd, best surrogates").endswith("in 8 steps (no other was tried)")


def test_the_interval_by_draws_too_is_in_json_and_on_the_page(run):
    adaptive = summarise(run).lines[1]
    expected = two_level(np.full(N, 0.25), 4)
    assert adaptive.resampled == expected
    assert summarise(run).record()["lines"][1]["resampled"]["high"] == expected.high
    limits = f"[{100 * expected.low:.1f}, {100 * expected.high:.1f}]"
    assert f"<td>{limits}</td>" in write_report(run).read_text()


def finding(level, number, cells, what="Something."):
    return Finding(number, "a check", level, 1.0, 0.0, what, "Mend it.", cells=cells)


def test_findings_are_under_every_table(tmp_path, capsys):
    import sys

    found = (
        finding(STOP, 14, ("b" * 16,), "Of <adaptive>."),
        finding(NOTE, 29, ()),
        finding(STOP, 15, ("e" * 16,), "Of another cell."),
    )
    run = made(tmp_path / "run", PLAN, found)
    html = summarise(run)._repr_html_()
    assert "<li>STOP 14 a check: Of &lt;adaptive&gt;. Mend it.</li>" in html
    assert "1 note of checks (29 a check)" in html
    assert "Of another cell" not in html
    other = made(tmp_path / "other", PLAN, found[:1])
    show(pairs(run, other), sys.stdout, findings_of(run, other))
    tables = capsys.readouterr().out.split("linf 0.1, untargeted, ")[1:]
    for table in tables:
        attacked = "no attack" not in table.splitlines()[0]
        assert ("STOP 14 a check: Of <adaptive>. Mend it." in table) == attacked
        assert table.count("STOP 14") <= 1
        assert "1 note of checks (29 a check)" in table
        assert "another cell" not in table
    assert len(tables) == 3
