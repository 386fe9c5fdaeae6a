"""Accuracy against passes: by hand, against a loop over images, and where it is shown."""

import csv
import io
import json
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from besiege.core.stats import wilson
from besiege.core.store import RunFolder
from besiege.report.effort import as_csv, effort_of
from besiege.report.figures import by_passes
from besiege.report.page import write_report
from besiege.report.tables import summarise

NAMES = ("first", "second", "third")
ENVIRONMENT = {
    "packages": {},
    **dict.fromkeys(("python", "device", "processor", "platform", "revision"), ""),
}
# After the three searches, of images broken by the first, second and third, and of one that stands.
PASSES = [[10, 10, 10], [12, 40, 40], [14, 50, 100], [16, 60, 120]]
WON = [[1, 1, 1], [0, 1, 1], [0, 0, 1], [0, 0, 0]]
CLAIM = [1, 1, 1, 0]


def record(cell, recipe, defense="bare", targeted=False):
    union = [{"name": name} for name in NAMES] if recipe == "adaptive" else []
    attack = "union" if union else recipe
    return {
        "cell": cell * 16,
        "defense": defense,
        "chain": "",
        "vote": "one",
        "recipe": recipe,
        "recipe_settings": {"attack": attack, "steps": 0, "union": union},
        "threat": "l2 0.5",
        "ball": "l2",
        "eps": 0.5,
        "targeted": targeted,
        "draws": 2,
        "classes": ["zero", "one"],
    }


def rows(cell, predicted, claim, spent, targeted=False):
    """Images of label 0; a targeted attacker wants 1. Half of what is spent are forwards."""
    n = len(predicted)
    sizes = {k: np.full(n, 0.1) for k in ("linf", "l2", "rms", "l1", "l0", "size", "seconds")}
    return {
        "cell": [cell * 16] * n,
        "id": np.arange(n),
        "label": np.zeros(n, int),
        "target": np.full(n, 1 if targeted else -1),
        "predicted": predicted,
        "claim": np.asarray(claim, float),
        "lucky": np.ones(n, bool),
        "point": ["0" * 16] * n,
        "forwards": np.asarray(spent) - np.asarray(spent) // 2,
        "backwards": np.asarray(spent) // 2,
        "flags": [[f"found by: {NAMES[min(i, 2)]}"] for i in range(n)],
        **sizes,
    }


def traces(cell, won, passes):
    n, none = len(won), [[]] * len(won)
    return {
        "cell": [cell * 16] * n,
        "id": np.arange(n),
        "loss": won,
        "won": won,
        "passes": passes,
        "judged_step": none,
        "judged": none,
        "judged_won": none,
    }


def totals(settling=1):
    return [p[-1] + settling for p in PASSES]


def folder_of(path, cells, certificates=(), ids=range(4)):
    """cells: (record, rows, traces or None) each."""
    found = {"experiment": {"name": "r"}, "cells": [c[0] for c in cells], "ids": [*ids]}
    with RunFolder.open(path) as folder:
        folder.write_experiment("", found, ENVIRONMENT)
        for _, some, trace in cells:
            folder.write_shard(some, trace, {})
        folder.write_certificates(certificates)
    return path


def clean_rows(cell="a", n=4):
    return rows(cell, [[0, 0]] * n, [0] * n, [0] * n)


def attacked_rows(cell="b", targeted=False):
    predicted = [[1, 1], [1, 1], [1, 0], [0, 0]]
    return rows(cell, predicted, CLAIM, totals(), targeted)


@pytest.fixture
def run(tmp_path):
    attacked = (record("b", "adaptive"), attacked_rows(), traces("b", WON, PASSES))
    return folder_of(tmp_path / "run", [(record("a", "none"), clean_rows(), None), attacked])


def test_three_images_broken_after_known_passes(run):
    (effort,) = summarise(run).efforts
    steps = {0: 4, 9: 4, 10: 3, 39: 3, 40: 2, 99: 2, 100: 1, 121: 1, 9999: 1}
    assert {p: round(4 * effort.at(p).estimate) for p in steps} == steps
    assert effort.at(40) == wilson(2, 4)
    assert effort.milestones == {"half": 40, "nine tenths": None, "all": None}
    assert (effort.after(0.25), effort.after(0.75), effort.after(0.76)) == (10, 100, None)
    assert (effort.most, effort.n, effort.kept) == (121, 4, True)
    assert effort.left == wilson(1, 4)
    assert effort.judged == wilson(1.5, 4)  # the judge disbelieves half of the third
    assert str(effort) == (
        "bare · adaptive · l2 0.5 untargeted: broken by passes an image: half after 40; 25.0 % "
        f"claimed to be left after 121, judged {wilson(1.5, 4)}"
    )


def test_it_starts_from_the_clean_answers_and_ends_at_the_claim(tmp_path):
    """The first is wrong half of the time as it is, and won on all draws but claimed on most."""
    clean = rows("a", [[0, 1], [0, 0], [0, 0], [0, 0]], [0] * 4, [0] * 4)
    own = rows("b", [[1, 1]] * 4, [0.75, 1, 1, 0], totals(settling=2))
    cells = [
        (record("a", "none"), clean, None),
        (record("b", "adaptive"), own, traces("b", WON, PASSES)),
    ]
    (effort,) = summarise(folder_of(tmp_path / "run", cells)).efforts
    shares = [4 * effort.at(p).estimate for p in (0, 10, 11, 12, 100, 122)]
    assert shares == pytest.approx([3.5, 3, 3, 3.25, 1.25, 1.25])
    assert effort.after(0.5) == 100  # 2.25 of 4 stood at 40, once the first had been tested again
    alone = folder_of(tmp_path / "alone", cells[1:])
    assert summarise(alone).efforts[0].at(0).estimate == 1


def test_without_passes_by_search_an_image_counts_at_its_last(tmp_path):
    """As of folders of before, and of runs without traces."""
    for name, trace in (("old", traces("b", WON, [None] * 4)), ("none", None)):
        cells = [(record("b", "adaptive"), attacked_rows(), trace)]
        (effort,) = summarise(folder_of(tmp_path / name, cells)).efforts
        assert effort.passes.tolist() == [0, 11, 41, 101, 121]  # which is where it ends
        assert (4 * effort.standing).tolist() == [4, 3, 2, 1, 1]
        assert not effort.kept
        assert "not kept by search" in str(effort)
        assert "passes were not kept by search" in str(summarise(tmp_path / name))
        assert "passes were not kept by search" in write_report(tmp_path / name).read_text()


COUNTS = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 4)), min_size=3, max_size=3)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.lists(st.tuples(COUNTS, st.integers(0, 4), st.integers(0, 3)), min_size=1, max_size=6),
    st.integers(0, 100),
    st.booleans(),
)
def test_it_is_what_each_image_had_by_then(drawn, budget, targeted):
    """Against a loop over the images: the last search that each could pay for."""
    passes = [np.cumsum([cost for cost, _ in turns]).tolist() for turns, _, _ in drawn]
    won = [[share / 4 for _, share in turns] for turns, _, _ in drawn]
    claim = [c / 4 for _, c, _ in drawn]
    spent = [p[-1] + more for p, (_, _, more) in zip(passes, drawn, strict=True)]
    table = rows("b", [[0, 1]] * len(drawn), claim, spent, targeted)
    own = [{k: v[i] for k, v in table.items()} for i in range(len(drawn))]
    trace = traces("b", won, passes)
    some = [{k: v[i] for k, v in trace.items()} for i in range(len(drawn))]
    effort = effort_of(record("b", "adaptive", targeted=targeted), own, some)

    def left(i, allowed):
        path = [*zip(passes[i], won[i], strict=True), (spent[i], claim[i])]
        return ([1] + [1 - w for p, w in path if p <= allowed])[-1]

    for allowed in (0, budget, max(spent)):
        wanted = np.mean([left(i, allowed) for i in range(len(drawn))])
        assert effort.at(allowed).estimate == pytest.approx(wanted, abs=1e-9)
    assert effort.left.estimate == pytest.approx(1 - np.mean(claim))
    assert effort.judged.estimate == 0.5
    reached = effort.after(0.5)
    if reached is not None:
        later = [effort.at(p).estimate for p in range(reached, max(spent) + 1)]
        assert max(later) <= 0.5 + 1e-6


def test_it_is_shown_and_handed_out(run):
    summary = summarise(run)
    text = str(summary)
    assert "passes an image until broken" in text
    assert re.search(r"bare +\| adaptive \| +40 \| +> 121 \| +> 121 \| +25\.0 \|", text)
    assert "half after 40" in summary._repr_html_()
    page = write_report(run).read_text()
    assert page == write_report(run).read_text()
    assert page.count("<h2>Accuracy against passes, l2 0.5, untargeted") == 1
    assert page.count("data:text/csv;base64,") == 1
    assert "forward and backward passes an image" in page
    whole = json.loads(json.dumps(summary.record(), allow_nan=False))["efforts"][0]
    assert whole["passes"] == [0, 10, 40, 100, 121]
    table = list(csv.DictReader(io.StringIO(as_csv(summary.efforts))))
    assert [float(row["passes"]) for row in table] == whole["passes"]
    assert [float(row["standing"]) for row in table] == whole["standing"]
    assert [row["judged"] for row in table] == [*[""] * 4, "0.375"]


def test_many_lines_are_a_figure_a_defense_and_targets_are_named(tmp_path):
    cells = []
    for i in range(9):
        settled = record(chr(ord("b") + i), "adaptive", defense=f"defense {i}", targeted=True)
        own = attacked_rows(settled["cell"][0], targeted=True)
        cells.append((settled, own, traces(settled["cell"][0], WON, PASSES)))
    few = write_report(folder_of(tmp_path / "few", cells[:8])).read_text()
    many = write_report(folder_of(tmp_path / "many", cells)).read_text()
    for page in (few, many):
        assert "Accuracy against passes, l2 0.5, targeted" in page
        assert "target missed %" in page
    assert many.count("forward and backward passes an image") == 9
    assert few.count("forward and backward passes an image") == 1


@pytest.mark.parametrize(("targeted", "left"), [(True, 2), (False, 1)])
def test_a_wrong_answer_that_is_not_the_target_meets_no_target(targeted, left):
    table = rows("b", [[2], [2], [1], [0]], [0, 0, 1, 0], [9] * 4, targeted)
    own = [{k: v[i] for k, v in table.items()} for i in range(3 if targeted else 4)]
    found = effort_of(record("b", "adaptive", targeted=targeted), own)
    assert found.judged == wilson(left, len(own))


def test_a_curve_of_thousands_of_steps_stays_small(tmp_path):
    n = 2000
    spent = np.arange(n) + 5
    table = rows("b", [[1, 1]] * n, [1.0] * n, spent + 1)
    trace = traces("b", [[1.0]] * n, [[int(p)] for p in spent])
    path = folder_of(tmp_path / "run", [(record("b", "adaptive"), table, trace)], ids=range(n))
    (effort,) = summarise(path).efforts
    assert len(effort.passes) == n + 2  # from 0, and to where the last was tested again
    assert effort.after(0.5) == 5 + 999
    svg = by_passes("", [effort], wide=True)
    assert len(svg) < 100_000


def test_no_union_no_curve(tmp_path):
    cells = [(record("a", "none"), clean_rows(), None)]
    path = folder_of(tmp_path / "run", cells)
    assert summarise(path).efforts == ()
    assert "until broken" not in str(summarise(path))
    assert "Accuracy against passes" not in write_report(path).read_text()


CERTIFICATE = {
    "defense": "bare",
    "norm": "l2",
    "samples": 1000,
    "alpha": 0.001,
    "cells": ["a" * 16],
    "ids": [0, 1, 2, 3],
    "label": [0] * 4,
    "answer": [0, 0, 1, -1],
    "radius": [0.9, 0.6, 2.0, 0.0],
    "answering": [0.7, 0.4, 1.5, 0.0],
}


def test_what_is_proved_stands_beside_what_is_left(tmp_path):
    cells = [
        (record("a", "none"), clean_rows(), None),
        (record("b", "adaptive"), attacked_rows(), traces("b", WON, PASSES)),
    ]
    path = folder_of(tmp_path / "run", cells, [CERTIFICATE])
    (proof,) = summarise(path).proofs
    assert [round(4 * proof.at(r).estimate) for r in (0, 0.4, 0.5, 0.7, 0.8)] == [2, 2, 1, 1, 0]
    assert round(4 * proof.unless_silent(0.5).estimate) == 2
    assert (proof.reach, proof.n) == (0.9, 4)  # wrong answers have no radius
    page = write_report(path).read_text()
    section = page[page.index("Proved and attacked: bare") :]
    section = section[: section.index("</section>")]
    assert "left by all attackers" in section
    assert re.search(r'main">25\.0<.*\n?.*main">37\.5<', section)
    found = json.loads(json.dumps(summarise(path).record(), allow_nan=False))["proofs"][0]
    assert found["right"] == [True, True, False, False]


@pytest.mark.parametrize("change", [{"ids": [0, 1]}, {"cells": ["e" * 16]}])
def test_a_certificate_of_other_images_or_weights_is_not_shown(tmp_path, change):
    cells = [(record("a", "none"), clean_rows(), None)]
    path = folder_of(tmp_path / "run", cells, [{**CERTIFICATE, **change}])
    assert summarise(path).proofs == ()
    assert "Proved and attacked" not in write_report(path).read_text()


def test_a_proof_in_another_norm_is_drawn_without_the_runs_radii(tmp_path):
    cells = [(record("a", "none"), clean_rows(), None)]
    path = folder_of(tmp_path / "run", cells, [{**CERTIFICATE, "norm": "l1"}])
    page = write_report(path).read_text()
    section = page[page.index("Proved and attacked: bare") :]
    assert "l1 radius" in section
    assert "left by attackers" not in section
