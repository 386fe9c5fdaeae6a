"""The searches of a union, as a run of the adaptive attacker has them, and what each check says."""

import numpy as np
import pytest

from besiege.checks.finding import FOUND, NOT_ASKED, PASSED
from besiege.core.store import FOUND_BY
from besiege.laws.broken_unions import SOUND_UNIONS, UNIONS
from besiege.study.evidence.evidence import Cell
from besiege.study.evidence.examine import examine, examined
from besiege.study.evidence.members import members

N = 40
PGD = {"name": "pgd", "attack": "pgd", "steps": 20}


@pytest.mark.parametrize("item", UNIONS, ids=lambda item: item.name)
def test_the_broken_one_is_named(item):
    assert set(item.checks) <= {finding.number for finding in item.ask(0)}


@pytest.mark.parametrize("item", SOUND_UNIONS, ids=lambda item: item.name)
def test_the_sound_one_passes(item):
    assert [str(f) for f in item.ask(0) if f.level != "NOTE"] == []


def union(searches, won, by, predicted, passes=None, **record):
    """A union of N examples of label 0; won (N, T) after each search, by (N,) who found the point.

    Each search costs 10 passes, and a search costs nobody anything after all draws are won.
    """
    won, turns = np.asarray(won, float), len(searches)
    stood = np.hstack([np.zeros((N, 1)), won[:, :-1]]) < 1
    passes = np.cumsum(10 * stood, axis=1) if passes is None else passes
    plain = {"links": "best", "view": {}, "restarts": 1, "draws": 1, "loss": "margin"}
    settings = {
        "attack": "union",
        "steps": 0,
        "confirm": 16,
        "union": [{**plain, **one} for one in searches],
    }
    whole = {
        "cell": "union",
        "recipe": "adaptive",
        "recipe_settings": settings,
        "defense": "d",
        "threat": "linf 0.1",
        "ball": "linf",
        "eps": 0.1,
        "targeted": False,
        "view": {"fd": "best"},
        **record,
    }
    row = {"label": 0, "target": -1, "claim": np.nan, "lucky": False, "linf": 0.1}
    rows = [
        {**row, "id": i, "predicted": list(predicted[i]), "flags": [f"{FOUND_BY}{name}"]}
        for i, name in enumerate(searches[k]["name"] for k in by)
    ]
    traces = {i: {"won": won[i].tolist(), "passes": passes[i].tolist()} for i in range(N)}
    assert all(len(t["won"]) == turns for t in traces.values())
    return Cell(whole, rows, traces)


SQUARE = {"name": "square", "attack": "square", "steps": 100, "links": "as-is"}


def after(gradients, scores, handed=None):
    """pgd breaks the first so many, square the next; the point handed over is right elsewhere."""
    i = np.arange(N)
    won = np.stack([i < gradients, i < gradients + scores], 1)
    final = won[:, 1] if handed is None else i < handed
    by = np.where((i >= gradients) & (i < gradients + scores), 1, 0)
    return union([PGD, SQUARE], won, by, [[int(w)] for w in final])


@pytest.mark.parametrize(
    ("cell", "number", "state"),
    [
        (after(20, 5), 22, FOUND),
        (after(20, 0), 22, PASSED),
        (after(40, 0), 22, NOT_ASKED),  # nobody was left to it
        (after(20, 5), 11, FOUND),
        (after(20, 2), 11, PASSED),  # two of forty
        (after(30, 10), 11, NOT_ASKED),  # nothing stands, and nothing can fall
        (after(20, 5, handed=22), 12, FOUND),
        (after(20, 5), 12, PASSED),
        (after(20, 5), 15, NOT_ASKED),
    ],
)
def test_what_survivors_tell(cell, number, state):
    found = examined([cell])
    (answer,) = [one for one in found.answers if one.number == number]
    assert answer.state == state
    assert bool(answer.because) == (state == NOT_ASKED)
    assert (number in {f.number for f in found.findings}) == (state == FOUND)


def test_all_are_answered_and_those_of_the_doctor_say_so():
    answers = {one.number: one for one in examined([after(20, 5)]).answers}
    assert list(answers) == list(range(1, 47))
    assert "doctor" in answers[7].because
    assert answers[22].figure == pytest.approx(5 / 40)
    assert (answers[22].threshold, answers[22].times) == (0.002, 1)


def test_a_union_without_traces_is_not_asked_and_does_not_pass():
    whole = after(20, 5)
    answers = examined([Cell(whole.record, whole.rows, {})]).answers
    assert {one.number for one in answers if one.times} & {11, 12, 20, 22, 23, 25, 26} == set()


@pytest.mark.parametrize("steps, asked", [(20, True), (200, False)])
def test_a_search_with_more_steps_is_no_evidence_of_another_view(steps, asked):
    other = {"name": "other", "attack": "pgd", "steps": steps, "view": {"fd": "soft"}}
    i = np.arange(N)
    won, by = np.stack([i < 10, i < 30], 1), np.where((i >= 10) & (i < 30), 1, 0)
    cell = union([PGD, other], won, by, [[int(w)] for w in won[:, 1]])
    assert (25 in {f.number for f in examine([cell])}) == asked


def test_luck_of_draws_is_no_search_that_breaks_what_others_left():
    """Every search hands over points that win as often as those before; later ones win by luck."""
    random = np.random.default_rng(0)  # noqa: TID251
    searches = [PGD, {**PGD, "name": "oblivious", "links": "skip"}, SQUARE]
    wrong = 0
    for _ in range(100):
        p = random.uniform(0, 1, N)
        before, own = random.binomial(16, p) / 16, random.binomial(16, p) / 16
        again, last = random.binomial(16, p) / 16, random.binomial(16, p) / 16
        by = np.where(before == 1, 0, np.where(own > before, 1, 0))
        second = np.where(before == 1, 1, np.maximum(own, before))
        by = np.where((second < 1) & (last > again), 2, by)
        won = np.stack([before, second, np.where(second == 1, 1, np.maximum(last, again))], 1)
        predicted = (random.uniform(size=(N, 20)) < p[:, None]).astype(int)
        found = {f.number for f in examine([union(searches, won, by, predicted)])}
        wrong += bool(found & {11, 12, 22, 23, 26})
    assert wrong == 0


def test_a_search_that_clearly_wins_is_seen_behind_noise_too():
    i = np.arange(N)
    won = np.stack([np.where(i < 30, 0.1, 1.0), np.where(i < 30, 0.95, 1.0)], 1)
    predicted = np.tile(np.arange(20) < 18, (N, 1)).astype(int)
    cell = union([PGD, SQUARE], won, np.where(i < 30, 1, 0), predicted)
    assert members(cell)[1].broken.tolist() == (i < 30).tolist()
    assert 22 in {f.number for f in examine([cell])}


def test_a_union_is_beside_other_attackers():
    """Points of a transfer that beat it, and another radius, under its name."""
    worst = union([PGD, SQUARE], np.zeros((N, 2)), np.zeros(N, int), [[0]] * N)
    transfer = {"attack": "mi-fgsm", "steps": 20, "models": ["m"], "loss": "margin"}
    more = {"cell": "t", "recipe": "transfer", "recipe_settings": transfer}
    other = Cell({**worst.record, **more}, after(20, 5).rows, {})
    assert 23 in {f.number for f in examine([worst, other])}
    nearer = after(20, 5)
    nearer = Cell(
        {**nearer.record, "cell": "n", "eps": 0.05, "threat": "linf 0.05"}, nearer.rows, {}
    )
    assert 14 in {f.number for f in examine([nearer, worst])}


def test_standing_points_that_use_little_of_the_ball_are_seen():
    cell = union([PGD, SQUARE], np.zeros((N, 2)), np.zeros(N, int), [[0]] * N)
    assert 42 not in {f.number for f in examine([cell])}
    idle = Cell(cell.record, [{**row, "linf": 0.01} for row in cell.rows], cell.traces)
    assert 42 in {f.number for f in examine([idle])}
