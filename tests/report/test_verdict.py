"""The word on a defense: the rule by hand, what is called broken and what is not, and why."""

import dataclasses
import json

import numpy as np
import pytest

from besiege.core.stats import Interval, wilson
from besiege.core.store import RunFolder
from besiege.report.page import write_report
from besiege.report.tables import summarise
from besiege.report.verdict import BROKEN, CERTIFIED, UNPROVED, Evidence, verdict_of

CLEAN = wilson(45, 50)


def evidence(right, n=50, **more):
    return Evidence(wilson(right, n), n, **{"clean": CLEAN, "chance": 0.1, **more})


KNOWN = [
    # FD+RDG of 2020, 50 photographs: 0 and 2 % of 90 %
    (evidence(0), BROKEN),
    (evidence(1), BROKEN),
    (evidence(5, 100), BROKEN),
    # adversarially trained networks at 8/255
    (evidence(94, 200), UNPROVED),
    (evidence(82, 200), UNPROVED),
    # on the wrong side of a quarter by its interval alone: 10 % of 50 is [4.3, 21.4], 12 % to 23.8
    (evidence(5), BROKEN),
    (evidence(6), UNPROVED),
    # few images: 0 of 10 may be 27.8 %
    (evidence(0, 10), UNPROVED),
    (evidence(0, 14), BROKEN),
    # two classes: a guess is right on half
    (evidence(16, 50, chance=0.5), BROKEN),
    (evidence(20, 50, chance=0.5), UNPROVED),
    # without attack no better than a guess, or nothing is known of it
    (evidence(0, clean=wilson(8, 50)), UNPROVED),
    (evidence(0, clean=None), UNPROVED),
    # nobody attacked
    (evidence(0, attacked=False), UNPROVED),
    # targets hit
    (evidence(30, missed=wilson(0, 50)), BROKEN),
    (evidence(30, missed=wilson(2, 50)), BROKEN),
    (evidence(30, missed=wilson(10, 50)), UNPROVED),
    # a claim falls or stands, whatever a quarter says
    (evidence(94, 200, claim=0.6), BROKEN),
    (evidence(94, 200, claim=0.5), UNPROVED),
    (evidence(1, claim=0.02), UNPROVED),
    (evidence(0, clean=None, claim=0.3), BROKEN),
    # proved on more than a quarter, or than the claim; an attack that breaks it has the last word
    (evidence(40, certified=wilson(30, 50), radius="l2 0.1"), CERTIFIED),
    (evidence(40, certified=wilson(15, 50), radius="l2 0.1"), UNPROVED),
    (evidence(40, certified=wilson(30, 50), radius="l2 0.1", claim=0.7), UNPROVED),
    (evidence(1, certified=wilson(30, 50), radius="l2 0.1"), BROKEN),
]


@pytest.mark.parametrize(("seen", "word"), KNOWN)
def test_the_rule_by_hand(seen, word):
    told = verdict_of(seen)
    assert told.word == word
    assert told.why


def test_more_right_answers_never_break_and_fewer_never_mend():
    """The word goes one way as accuracy rises, at any number of images."""
    for n in (5, 20, 50, 200):
        words = [verdict_of(evidence(k, n)).word for k in range(n + 1)]
        assert words == sorted(words)
        assert words[-1] == UNPROVED


def test_the_numbers_are_said():
    told = verdict_of(evidence(1))
    (why,) = told.why
    assert told.bar == pytest.approx(0.225)
    assert why == "at most 10.5 % is left, below 22.5 %, a quarter of clean accuracy"
    told = verdict_of(evidence(94, 200, claim=0.6))
    assert told.gap == pytest.approx(0.13)
    assert told.why == ("at most 53.9 % is left, below the claim of 60.0 %",)
    told = verdict_of(evidence(40, certified=wilson(30, 50), radius="l2 0.1"))
    assert str(told) == "certified at l2 0.1"


def test_what_weakens_the_evidence_is_said_where_nothing_is_broken():
    weak = evidence(40, fitted=False, passes=120.0, grave=("WARN 11 not converged",))
    text = " / ".join(verdict_of(weak).why)
    for part in (
        "no adaptive attacker",
        "120 passes on an image that stands are few",
        "too few images: 50 leave +-10.9 points; about 337 would leave +-5",
        "see WARN 11 not converged",
        "below 22.5 %",
    ):
        assert part in text, part
    strong = evidence(500, 1000, passes=3000.0)
    assert len(verdict_of(strong).why) == 1
    assert "WARN" not in " ".join(verdict_of(dataclasses.replace(weak, accuracy=wilson(0, 50))).why)
    assert "recipe none" in " ".join(verdict_of(evidence(40, clean=None)).why)
    assert "may be a guess" in " ".join(verdict_of(evidence(2, clean=wilson(8, 50))).why)


# In a run: a random defense of four draws, attacked by a union of three searches.

N = 40
UNION = ("1 pgd, <b>best</b>", "2 apgd", "3 in vain")
PLAN = {
    "notes": ["jpeg: <i>gained</i>", "left out: 4"],
    "passes": 321,
    "recipe": {"name": "adaptive"},
}


def record(cell, recipe, union=(), defense="noise", **more):
    settings = {"attack": "union" if union else "pgd" if cell[0] != "a" else "none", "steps": 0}
    return {
        "cell": cell,
        "defense": defense,
        "chain": defense,
        "vote": "one",
        "recipe": recipe,
        "recipe_settings": {**settings, "union": [{"name": name} for name in union]},
        "threat": "l2 0.5",
        "ball": "l2",
        "eps": 0.5,
        "targeted": False,
        "draws": 4,
        "classes": [str(i) for i in range(10)],
        **more,
    }


def rows(cell, right, flags=None, passes=20, label=0, target=-1):
    """One row an entry of `right`, that many of 4 draws right."""
    n = len(right)
    sizes = {k: np.full(n, 0.3) for k in ("linf", "l2", "rms", "l1", "l0", "size", "seconds")}
    return {
        "cell": [cell] * n,
        "id": np.arange(n),
        "label": np.full(n, label),
        "target": np.full(n, target),
        "predicted": [[label] * k + [label + 1] * (4 - k) for k in right],
        "claim": np.full(n, 1.0),
        "lucky": np.arange(n) < n - 1,
        "point": ["0" * 16] * n,
        "forwards": np.full(n, passes),
        "backwards": np.full(n, passes),
        "flags": flags or [[]] * n,
        **sizes,
    }


@pytest.fixture
def run(tmp_path):
    """A quarter of the images resists: 30 broken by two searches, 10 stand on 3 of 4 draws."""
    cells = [record("a" * 16, "none"), record("b" * 16, "adaptive", UNION)]
    where = {"defense": "noise", "threat": "l2 0.5", "targeted": False}
    resolved = {
        "experiment": {"defense": [{"name": "noise", "claim": 0.5}]},
        "cells": cells,
        "ids": list(range(N)),
        "plans": {"x": {**PLAN, **where}},
        "budgets": [{"note": "10 minutes are 600 passes"}],
    }
    by = [[f"found by: {UNION[0]}"]] * 20 + [
        [f"found by: {UNION[1]}", "limit of passes reached"]
    ] * 20
    with RunFolder.open(tmp_path / "run") as folder:
        versions = dict.fromkeys(("python", "device", "processor", "platform", "revision"), "")
        folder.write_experiment("", resolved, {"packages": {}, **versions})
        folder.write_shard(rows("a" * 16, [4] * N), None, {})
        folder.write_shard(rows("b" * 16, [0] * 30 + [3] * 10, by, passes=700), None, {})
    return folder.path


def test_a_run_says_who_found_what(run):
    none, adaptive = summarise(run).lines
    assert none.searches == ()
    assert [(s.name, s.points, s.broken, s.passes) for s in adaptive.searches] == [
        (UNION[0], 20, 20, 1400.0),
        (UNION[1], 20, 10, 1400.0),
    ]
    assert adaptive.flags == {"limit of passes reached": 20}
    text = str(summarise(run))
    assert "which search found the point" in text
    assert UNION[2] not in text
    assert "found by" not in text


def test_the_four_scores_of_a_run(run):
    none, adaptive = summarise(run).lines
    assert not none.scores.differ
    assert none.scores.as_published is None
    found = [score.estimate for score in adaptive.scores[:4]]
    assert found == pytest.approx([30 / 40 + 10 / 40 / 4, 1.0, 30 / 40, 39 / 40])
    text = str(summarise(run))
    assert "attack success % [95 %] by other rules, k = 4 draws" in text
    assert "100.0 [91.2, 100.0]" in text
    write = write_report(run).read_text()
    assert "Attack success by other rules" in write


def test_a_run_has_a_verdict_and_says_why(run):
    (headline,) = summarise(run).worst
    assert headline.verdict.word == BROKEN
    assert headline.verdict.gap == pytest.approx(0.5 - 0.1875)
    text = str(summarise(run))
    assert (
        f"noise: broken: robust accuracy at most {wilson(7.5, N)} (clean {wilson(N, N)}) at "
        "l2 0.5 untargeted, n = 40, after 1,400 passes an image, and planning 321 on each "
        f"pilot image; broken by adaptive (most by {UNION[0]}); claim 50 %, minus verdict +31.2 "
        "points; checks: not asked"
    ) in " ".join(text.split())
    assert "- at most 33.4 % is left, below the claim of 50.0 %" in text
    assert "note: 10 minutes are 600 passes" in text


def test_how_it_came_to_attack_is_told_and_escaped(run):
    text = str(summarise(run))
    title = "how adaptive came to attack noise, l2 0.5 untargeted"
    assert f"{title} (passes: 321 on each pilot image):" in text
    assert "- jpeg: <i>gained</i>" in text
    for page in (write_report(run).read_text(), summarise(run)._repr_html_()):
        assert "<i>gained</i>" not in page
        assert "&lt;i&gt;gained" in page
        assert "<b>best</b>" not in page
        assert "10 minutes are 600 passes" in page
    assert '<p class="verdict broken">broken</p>' in write_report(run).read_text()


def test_effort_is_counted_where_it_failed(tmp_path):
    """Half of the images fall at 20 passes; 1,500 do not break the others, and that is not few."""
    cells = [record("a" * 16, "none"), record("b" * 16, "bpda")]
    with RunFolder.open(tmp_path / "run") as folder:
        resolved = {"experiment": {}, "cells": cells, "ids": list(range(N))}
        folder.write_experiment("", resolved, {})
        folder.write_shard(rows("a" * 16, [4] * N, passes=0), None, {})
        fallen = rows("b" * 16, [0] * 20 + [4] * 20, passes=10)
        fallen["forwards"] = np.repeat([10, 750], 20)
        fallen["backwards"] = fallen["forwards"]
        folder.write_shard(fallen, None, {})
    (headline,) = summarise(folder.path).worst
    assert headline.passes == 760
    assert not any("are few" in why for why in headline.verdict.why)


def test_all_of_it_is_json(run):
    found = json.loads(json.dumps(summarise(run).record(), allow_nan=False))
    assert found["worst"][0]["verdict"]["word"] == BROKEN
    assert found["worst"][0]["accuracy"]["high"] == pytest.approx(wilson(7.5, N).high)
    assert found["lines"][1]["scores"]["any_of_k"]["estimate"] == 1
    assert found["lines"][1]["searches"][1]["broken"] == 10
    assert found["plans"][0]["notes"] == PLAN["notes"]


def proof(**more):
    """38 of 40 images right, 36 of them for certain within 0.5."""
    return {
        "defense": "noise",
        "norm": "l2",
        "cells": ["a" * 16],
        "ids": list(range(N)),
        "label": [0] * N,
        "answer": [0] * 38 + [-1] * 2,
        "answering": [0.6] * 36 + [0.4] * 4,
        "radius": [0.8] * N,
        "samples": 1000,
        "alpha": 0.001,
        **more,
    }


def certified(run, **more):
    """The verdict on the run, with all answers right and no claim, after a proof."""
    folder = RunFolder(run)
    resolved = folder.resolved()
    resolved["experiment"] = {}
    (run / "resolved.json").write_text(json.dumps(resolved))
    with RunFolder.open(run) as opened:
        opened.write_shard(rows("b" * 16, [4] * N, passes=700), None, {})
        opened.write_certificates([proof(**more)])
    (headline,) = summarise(run).worst
    return headline.verdict


def test_what_is_proved_counts(run):
    for shard in (run / "cells").glob("bbbb*"):
        shard.unlink()
    told = certified(run)
    assert str(told) == "certified at l2 0.5"
    assert str(Interval(0.9, *wilson(36, 40)[1:])) in told.why[0]


@pytest.mark.parametrize(
    "change",
    [
        {"norm": "l1"},  # another ball
        {"cells": ["e" * 16]},  # other weights, or another seed
        {"ids": list(range(N - 1))},  # other images
        {"defense": "jpeg"},
        {"answering": [0.4] * N},  # a smaller radius
        {"answer": [1] * N},  # wrong, however surely
    ],
)
def test_a_proof_of_something_else_does_not(run, change):
    for shard in (run / "cells").glob("bbbb*"):
        shard.unlink()
    assert certified(run, **change).word == UNPROVED


def test_targets_hit_break_a_defense_that_answers_otherwise(tmp_path):
    """The target is hit on 39 of 40 images, and the label is never given: accuracy says as much."""
    cells = [record("a" * 16, "none", targeted=True), record("b" * 16, "bpda", targeted=True)]
    resolved = {"experiment": {}, "cells": cells, "ids": list(range(N))}
    with RunFolder.open(tmp_path / "run") as folder:
        folder.write_experiment("", resolved, {})
        folder.write_shard(rows("a" * 16, [4] * N, target=1), None, {})
        folder.write_shard(rows("b" * 16, [0] * 39 + [4], target=1), None, {})
    (headline,) = summarise(folder.path).worst
    assert headline.success.estimate == pytest.approx(39 / 40)
    assert (headline.verdict.word, headline.broken_by) == (BROKEN, "bpda")
    assert any(why.startswith("targets are hit on 97.5 %") for why in headline.verdict.why)
    assert "targets hit on 97.5 % [87.1, 99.6], robust accuracy" in str(headline)
