"""Findings of run folders: gathered, stored, shown, and an exit code."""

import json

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import besiege
from besiege.checks.catalog import CHECKS
from besiege.checks.finding import STOP
from besiege.cli.main import app
from besiege.core.errors import BadRun
from besiege.core.store import RunFolder
from besiege.laws.broken import behind, cells
from besiege.laws.broken_links import Claiming, coarse, misled
from besiege.report.page import write_report
from besiege.report.tables import summarise
from besiege.study.doctor.doctor import doctor
from besiege.study.evidence.evidence import Cell, cells_of, common
from besiege.study.evidence.examine import examine, examine_run
from besiege.study.recipe import Recipe


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A defense whose surrogate misleads, attacked through it and around it."""
    x, y, _ = besiege.load_images("digits").take(range(24))
    folder = tmp_path_factory.mktemp("run") / "run"
    recipes = [
        "none",
        Recipe("bpda", loss="margin", steps=8),
        Recipe("oblivious", loss="margin", links="skip", steps=8),
    ]
    threat = besiege.Linf(0.2)
    besiege.evaluate(behind(Claiming(coarse, misled)), x, y, threat, recipes=recipes, out=folder)
    return folder


def test_findings_are_stored_with_the_run(run):
    stored = RunFolder(run).findings()
    assert 23 in {f["number"] for f in stored}
    assert [f.record() for f in examine_run(run)] == [
        {**f, "examples": tuple(f["examples"]), "cells": tuple(f["cells"])} for f in stored
    ]


def test_they_are_shown_under_the_table(run):
    text = str(summarise(run))
    assert "WARN 23 transfer wins" in text
    page = write_report(run).read_text()
    assert "WARN 23 transfer wins" in page
    assert "notes of checks" in page


def test_besiege_check_prints_them(run):
    told = CliRunner().invoke(app, ["check", str(run)])
    assert told.exit_code == 0, told.output
    assert "23 transfer wins" in told.output


def test_besiege_check_lists_all_of_them(run):
    told = CliRunner().invoke(app, ["check", str(run), "--all"])
    assert told.exit_code == 0, told.output
    lines = {
        n: line
        for line in told.output.splitlines()
        for n in range(1, 47)
        if line.startswith(f"{n:>2} {CHECKS[n].name} ")
    }
    assert set(lines) == set(range(1, 47))
    assert "not asked: `besiege doctor` asks it" in lines[7]
    assert "found: " in lines[23]
    assert "passed: 0, threshold 0 " in lines[36]
    asked = sum("not asked: " not in line for line in lines.values())
    assert f"{asked} of 46 checks could be asked" in told.output
    assert f"({asked} of 46 asked)" in " ".join(str(summarise(run)).split())


def test_a_stop_is_exit_code_1(run, tmp_path):
    """A row that says that its point was refused."""
    folder = RunFolder(run)
    rows = [r for r in folder.rows() if r["cell"] == folder.resolved()["cells"][1]["cell"]]
    rows[0]["flags"] = ["point outside the threat: judged at the clean image"]
    with RunFolder.open(tmp_path / "run") as other:
        other.write_experiment("", folder.resolved(), folder.environment())
        other.write_shard({k: [r[k] for r in rows] for k in rows[0]}, None, {})
    told = CliRunner().invoke(app, ["check", str(tmp_path / "run")])
    assert told.exit_code == 1
    assert "36 outside the threat" in told.output


def test_besiege_doctor_prints_and_exits():
    settings = ["doctor", "--model", "digits-cnn", "--data", "digits", "--n", "8"]
    told = CliRunner().invoke(app, [*settings, "--defense", "bits:bits=3"])
    assert told.exit_code == 0, told.output
    assert told.output.strip().splitlines()[-1].startswith("bits: ")


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(BadRun, match=r"no resolved\.json"):
        examine_run(tmp_path)


def cell(record, right, ids=None, **columns):
    """A cell of n examples of label 0, each right on all draws or on none."""
    n = len(right)
    record = {
        "defense": "d",
        "threat": "linf 0.1",
        "ball": "linf",
        "eps": 0.1,
        "targeted": False,
        "view": {},
        "chain": "fd",
        **record,
    }
    settings = {
        "attack": "pgd",
        "steps": 10,
        "restarts": 1,
        "draws": 1,
        "loss": "margin",
        "models": None,
        "gradients": "backward",
        "check_whole": False,
        "believe_first": False,
        "precision": "float32",
        **record.pop("settings", {}),
    }
    row = {"label": 0, "target": -1, "claim": np.nan, "lucky": False, "linf": 0.1, "flags": []}
    rows = [
        {**row, "id": i, "predicted": [0 if ok else 1], **{k: v[j] for k, v in columns.items()}}
        for j, (i, ok) in enumerate(zip(ids or range(n), right, strict=True))
    ]
    name = record.get("recipe", "r")
    whole = {"cell": f"{name}-{settings}", "recipe": name, **record, "recipe_settings": settings}
    return Cell(whole, rows, {})


UP = [True] * 40
DOWN = [True] * 20 + [False] * 20
SYMMETRIC = (20, 25, 31)  # whichever is better, the other is not


@pytest.mark.parametrize(
    "number, first, second",
    [
        (13, cell({"recipe": "a", "eps": 1.0, "threat": "linf 1"}, DOWN), None),
        (14, cell({"recipe": "a"}, DOWN), cell({"recipe": "a", "eps": 0.2, "threat": "b"}, UP)),
        (15, cell({"recipe": "a"}, UP), cell({"recipe": "b", "settings": {"steps": 100}}, DOWN)),
        (16, cell({"recipe": "a"}, UP), cell({"recipe": "b", "settings": {"restarts": 5}}, DOWN)),
        (19, cell({"recipe": "a", "settings": {"steps": 1}}, DOWN), cell({"recipe": "b"}, UP)),
        (20, cell({"recipe": "a"}, UP), cell({"recipe": "b", "settings": {"loss": "dlr"}}, DOWN)),
        (
            20,
            cell({"recipe": "a"}, UP),
            cell({"recipe": "a", "targeted": True}, DOWN, target=[1] * 40),
        ),
        (
            22,
            cell({"recipe": "a"}, UP),
            cell({"recipe": "b", "settings": {"attack": "square"}}, DOWN),
        ),
        (
            24,
            cell({"recipe": "a"}, UP),
            cell({"recipe": "b", "settings": {"attack": "surfree"}}, DOWN),
        ),
        (23, cell({"recipe": "a"}, UP), cell({"recipe": "b", "view": {"fd": "skip"}}, DOWN)),
        (23, cell({"recipe": "a"}, UP), cell({"recipe": "b", "settings": {"models": ["m"]}}, DOWN)),
        (25, cell({"recipe": "a"}, UP), cell({"recipe": "b", "view": {"fd": "soft"}}, DOWN)),
        (
            26,
            cell({"recipe": "a"}, UP),
            cell({"recipe": "b", "view": {"fd": "skip", "rdg": "exact"}}, DOWN),
        ),
        (
            31,
            cell({"recipe": "a", "settings": {"draws": 5, "steps": 20}}, UP),
            cell({"recipe": "b", "settings": {"draws": 10, "steps": 10}}, DOWN),
        ),
        (
            38,
            cell({"recipe": "n", "settings": {"attack": "none"}}, DOWN),
            cell(
                {"recipe": "n", "defense": "no", "chain": "none", "settings": {"attack": "none"}},
                UP,
            ),
        ),
        (2, cell({"recipe": "a"}, UP, flags=[["no gradient passes fd"]] * 40), None),
        (12, cell({"recipe": "a"}, UP, lucky=[True] * 40), None),
        (35, cell({"recipe": "a"}, UP, predicted=[[-1]] * 40), None),
        (36, cell({"recipe": "a"}, UP, linf=[0.2] * 40), None),
        (40, cell({"recipe": "a"}, DOWN), None),
        (42, cell({"recipe": "a"}, UP, linf=[0.01] * 40), None),
        (43, cell({"recipe": "a"}, UP, claim=[1.0] * 40), None),
    ],
)
def test_cells_are_compared(number, first, second):
    group = [c for c in (first, second) if c is not None]
    found = {f.number: f for f in examine(group)}
    assert number in found
    assert set(found[number].cells) <= {c.hash for c in group}
    if second is not None and number not in SYMMETRIC:
        swapped = [
            Cell(one.record, other.rows, {}) for one, other in ((first, second), (second, first))
        ]
        assert number not in {f.number for f in examine(swapped)}


@pytest.mark.parametrize("other", [{"draws": 8}, {"draws": 8, "steps": 100}, {}])
def test_cells_that_differ_in_more_or_nothing_are_not_compared(other):
    group = [cell({"recipe": "a"}, UP), cell({"recipe": "b", "settings": other}, DOWN)]
    assert not {15, 16, 17, 20, 25, 31} & {f.number for f in examine(group)}


def test_notes_on_the_whole_run():
    numbers = {f.number for f in examine([cell({}, UP)], select="correct")}
    assert 39 in numbers


def test_too_few_images_are_told_once():
    few, fewer = cell({"recipe": "a"}, UP[:20]), cell({"recipe": "b"}, DOWN)
    many = cell({"recipe": "c"}, UP * 10)
    found = [f for f in examine([few, fewer, many]) if f.number == 40]
    assert [f.cells for f in found] == [(few.hash, fewer.hash)]
    assert "40 images give 50.0 %" in found[0].what
    assert 40 not in {f.number for f in examine([many])}


@pytest.mark.parametrize(
    ("tuned", "right", "says"),
    [
        (range(16), [False] * 16 + [True] * 24, "0.0 % on the 16 images on which the attack was"),
        (range(16), DOWN, ""),
        (range(16, 40), DOWN, "17 % on the 24"),
        (range(40), DOWN, "tuned on all 40 images"),
        ((), DOWN, ""),
    ],
)
def test_tuning_is_told_where_it_shows(tuned, right, says):
    one, other = cell({"recipe": "a"}, right), cell({"recipe": "b"}, right)
    found = [f for f in examine([one, other], pilots={one.hash: list(tuned)}) if f.number == 45]
    assert [f.cells for f in found] == ([(one.hash,)] if says else [])
    assert all(says in f.what.replace("16.7 %", "17 %") for f in found)


@pytest.mark.parametrize(
    ("plan", "passes", "pilots"),
    [
        ({"defense": "own", "threat": "linf 0.2", "targeted": False}, None, 16),
        ({}, 1500, 10),  # as older folders have it; a plan for fewer passes
        ({"targeted": True}, None, 0),
    ],
)
def test_a_plan_says_on_which_images_it_was_tried(run, tmp_path, plan, passes, pilots):
    folder = RunFolder(run)
    resolved = folder.resolved()
    record = resolved["cells"][1]
    resolved["cells"] = [{**record, "passes": passes}]
    resolved["plans"] = {"asked": {"recipe": {"name": record["recipe"]}, **plan}}
    rows = [r for r in folder.rows() if r["cell"] == record["cell"]]
    for i, row in enumerate(rows):
        row["predicted"] = [row["label"] + (i < 10)]
    with RunFolder.open(tmp_path / "run") as other:
        other.write_experiment("", resolved, folder.environment())
        other.write_shard({k: [r[k] for r in rows] for k in rows[0]}, None, {})
    found = [f.what for f in examine_run(tmp_path / "run") if f.number == 45]
    assert len(found) == (pilots > 0)
    assert all(f"on the {pilots} images" in what for what in found)


def test_best_of_k_is_told_of_the_strongest_attacker_and_beside_the_control():
    def drawn(recipe, wrong, **settings):
        rows = [[1] * wrong + [0] * (20 - wrong)] * 40
        return cell({"recipe": recipe, "settings": settings}, UP, predicted=rows)

    control, weak, strong = drawn("none", 2, attack="none"), drawn("a", 3), drawn("b", 8)
    found = [f for f in examine([weak, strong]) if f.number == 34]
    assert [f.cells for f in found] == [(strong.hash,)]
    assert found[0].figure == pytest.approx(0.6)
    (beside,) = [f for f in examine([control, drawn("b", 0)]) if f.number == 34]
    assert beside.figure == pytest.approx(-0.9)
    assert "1: 100.0 %, 5: 100.0 %, 20: 100.0 %; without an attack 1: 90.0 %" in beside.what


def proof(one, **more):
    """Certificates of 40 images, all of label 0 within 0.15."""
    ids = list(range(40))
    found = {"answer": [0] * 40, "radius": [0.15] * 40, "norm": "linf", "alpha": 1e-3}
    return {"defense": "d", "ids": ids, "cells": [one.hash], **found, **more}


@pytest.mark.parametrize(
    ("more", "named"),
    [
        ({}, True),
        ({"radius": [0.05] * 40}, False),  # the points lie outside
        ({"answer": [-1] * 40}, False),
        ({"answer": [0] * 20 + [1] * 20}, False),  # as they are answered
        ({"defense": "other"}, False),
    ],
)
def test_points_are_held_against_certificates(more, named):
    one = cell({"recipe": "a"}, DOWN)
    found = [f for f in examine([one], proofs=[proof(one, **more)]) if f.number == 44]
    assert [(f.level, f.figure) for f in found] == ([(STOP, 20)] if named else [])


def test_a_certificate_in_the_folder_is_refuted_by_its_attacks(run, tmp_path):
    folder = RunFolder(run)
    resolved = folder.resolved()
    rows, ids = folder.rows(), resolved["ids"]
    with RunFolder.open(tmp_path / "run") as other:
        other.write_experiment("", resolved, folder.environment())
        other.write_shard({k: [r[k] for r in rows] for k in rows[0]}, None, {})
        hashes = [c["cell"] for c in resolved["cells"]]
        label = [next(r["label"] for r in rows if r["id"] == i) for i in ids]
        forged = {"defense": resolved["cells"][0]["defense"], "norm": "l2", "alpha": 1e-3}
        forged |= {"ids": ids, "cells": hashes, "answer": label, "radius": [100.0] * len(ids)}
        other.write_certificates([forged])
        named = [f for f in examine_run(tmp_path / "run") if f.number == 44]
        assert [f.level for f in named] == [STOP] * len(named)
        assert named
        other.write_certificates([{**forged, "cells": ["0" * 16]}])  # other weights, or seed
        assert 44 not in {f.number for f in examine_run(tmp_path / "run")}


def test_only_common_examples_are_compared():
    a, b = cell({"recipe": "a"}, UP), cell({"recipe": "b"}, DOWN, ids=list(range(20, 60)))
    assert [c.ids.tolist() for c in common([a, b])] == [list(range(20, 40))] * 2
    assert common([a, cell({}, UP, ids=list(range(100, 140)))]) == []


def test_rows_of_other_ids_do_not_count():
    one = cell({}, UP)
    rows = [{**r, "cell": one.hash} for r in one.rows]
    (kept,) = cells_of([one.record], rows, [], range(5))
    assert kept.ids.tolist() == [0, 1, 2, 3, 4]


def test_a_vote_is_not_a_link_that_is_left_out():
    assert not cell({"view": {"vote": "one"}}, UP).transferred


def test_the_doctor_stops_at_images_that_are_none():
    x, y, _ = besiege.load_images("digits").take(range(8))
    found = doctor(behind(), 255 * x, y)
    assert [(f.number, f.level) for f in found] == [(37, STOP)]


def test_the_doctor_leaves_the_model_as_it_was():
    x, y, _ = besiege.load_images("digits").take(range(8))
    defense = behind()
    before = {k: v.clone() for k, v in defense.classifier.state_dict().items()}
    doctor(defense, x, y)
    after = defense.classifier.state_dict()
    assert all(torch.equal(before[k], after[k]) for k in before)
    assert not any(m.training for m in defense.classifier.network.modules())


def test_a_cell_in_memory_is_one_on_disk(run):
    resolved = RunFolder(run).resolved()
    x, y, _ = besiege.load_images("digits").take(range(24))
    recipe = Recipe("bpda", loss="margin", steps=8)
    (own,) = cells(
        behind(Claiming(coarse, misled)),
        (recipe,),
        besiege.Threat(besiege.Linf(0.2)),
        images=(x, y),
    )
    stored = [r for r in RunFolder(run).rows() if r["cell"] == resolved["cells"][1]["cell"]]
    assert [r["predicted"] for r in stored] == [list(r["predicted"]) for r in own.rows]
    assert json.dumps(own.settings, default=str)
