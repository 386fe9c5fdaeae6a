"""Pairs of a run folder: who is compared with whom, on which ids, by which figures."""

import io

import numpy as np
import pytest

from besiege.core.comparisons import bonett_price, compare, holm, mcnemar
from besiege.core.errors import BadRun
from besiege.core.store import RunFolder
from besiege.report.pairs import pairs, show

N = 40
SOUND, HALF = np.ones((N, 1), bool), (np.arange(N) % 2 == 0)[:, None]


def record(cell, defense, recipe, targeted=False):
    return {
        "cell": cell,
        "defense": defense,
        "recipe": recipe,
        "recipe_settings": {"attack": "none" if recipe == "none" else "pgd"},
        "threat": "linf 8/255",
        "ball": "linf",
        "targeted": targeted,
    }


def rows(cell, right, ids=None, target=-1, label=0):
    """Answers right (n, draws) bool; wrong ones say 1."""
    n = len(right)
    zeros = {k: np.zeros(n) for k in ("linf", "l2", "rms", "l1", "l0", "size", "seconds")}
    return {
        "cell": [cell] * n,
        "id": np.arange(n) if ids is None else np.asarray(ids),
        "label": np.full(n, label),
        "target": np.full(n, target),
        "predicted": np.where(right, label, 1).tolist(),
        "claim": np.zeros(n),
        "lucky": np.zeros(n, bool),
        "point": [""] * n,
        "forwards": np.ones(n, int),
        "backwards": np.ones(n, int),
        "flags": [[]] * n,
        **zeros,
    }


def run(path, cells, ids=range(N)):
    """A run folder of (record, rows)."""
    with RunFolder.open(path) as folder:
        resolved = {"experiment": {}, "ids": [int(i) for i in ids], "cells": [r for r, _ in cells]}
        folder.write_experiment("", resolved, {})
        for _, table in cells:
            folder.write_shard(table, None, {})
    return path


@pytest.fixture
def two(tmp_path):
    """fd and rdg without attack, and under a weak and a strong attacker."""
    return run(
        tmp_path / "run",
        [
            (record("a", "fd", "none"), rows("a", SOUND)),
            (record("b", "fd", "weak"), rows("b", SOUND)),
            (record("c", "fd", "strong"), rows("c", HALF)),
            (record("d", "rdg", "none"), rows("d", HALF)),
            (record("e", "rdg", "weak"), rows("e", ~SOUND)),
            (record("f", "rdg", "strong"), rows("f", HALF)),
        ],
    )


def test_every_pair_of_attackers_and_of_defenses(two):
    found = {(p.what, p.first, p.second): p for p in pairs(two)}
    assert list(found) == [
        ("attackers on fd (accuracy)", "weak", "strong"),
        ("attackers on rdg (accuracy)", "weak", "strong"),
        ("defenses, no attack (accuracy)", "fd", "rdg"),
        ("defenses, at their worst (accuracy)", "fd", "rdg"),
    ]
    gaps = [p.found.difference.estimate for p in found.values()]
    assert gaps == [0.5, -0.5, 0.5, 0.5]  # rdg falls to weak: its worst is 0, that of fd 0.5
    first = next(iter(found.values()))
    assert first.found.p == mcnemar(20, 0)
    assert first.found == compare(SOUND[:, 0].astype(float), HALF[:, 0].astype(float))
    assert [p.corrected for p in found.values()] == holm([mcnemar(20, 0)] * 4).tolist()
    assert all(p.told for p in found.values())
    assert [p.only for p in found.values()] == [(20, 0), (0, 20), (20, 0), (20, 0)]


def test_shares_of_draws_are_compared_by_the_bootstrap(tmp_path):
    some = np.arange(20)[None] < np.linspace(4, 16, N)[:, None]
    more = np.arange(20)[None] < np.linspace(5, 17, N)[:, None]
    path = run(
        tmp_path / "run",
        [
            (record("a", "fd", "x"), rows("a", some)),
            (record("b", "fd", "y"), rows("b", more)),
        ],
    )
    (found,) = pairs(path)
    assert found.found.test == "paired bootstrap"
    assert found.found == compare(some.mean(1), more.mean(1), (20, 20))


def test_targeted_attackers_are_compared_by_success(tmp_path):
    path = run(
        tmp_path / "run",
        [
            (record("a", "fd", "x", targeted=True), rows("a", SOUND, target=1)),
            (record("b", "fd", "y", targeted=True), rows("b", ~SOUND, target=1)),
        ],
    )
    (found,) = pairs(path)
    assert found.what == "attackers on fd (success)"
    assert (found.found.first, found.found.second) == (0, 1)


def test_two_runs_are_paired_by_id(tmp_path):
    ids = np.arange(10, N + 10)
    before = run(tmp_path / "one", [(record("a", "fd", "x"), rows("a", SOUND))])
    after = run(
        tmp_path / "two",
        [
            (record("b", "fd", "x"), rows("b", HALF, ids)),
            (record("c", "fd", "y"), rows("c", HALF, ids)),
        ],
        ids=ids,
    )
    found = pairs(before, after)
    assert [(p.first, p.second) for p in found] == [
        ("fd, x (1)", "fd, x (2)"),
        ("fd (1)", "fd (2)"),
    ]
    assert {p.found.n for p in found} == {30}
    assert found[0].found.difference.estimate == 0.5


def test_other_images_are_refused(tmp_path):
    one = run(tmp_path / "one", [(record("a", "fd", "x"), rows("a", SOUND))])
    other = run(tmp_path / "two", [(record("a", "fd", "x"), rows("a", SOUND, label=3))])
    apart = run(
        tmp_path / "three",
        [(record("a", "fd", "x"), rows("a", SOUND, np.arange(N) + 100))],
        ids=range(100, 100 + N),
    )
    with pytest.raises(BadRun, match="image 0 has other labels"):
        pairs(one, other)
    with pytest.raises(BadRun, match="no image is in both"):
        pairs(one, apart)
    with pytest.raises(BadRun, match="nothing to compare"):
        pairs(one)
    with pytest.raises(BadRun, match="holds no run"):
        pairs(tmp_path)


def test_the_table_is_plain_and_says_what_is_told_apart(two):
    buffer = io.StringIO()
    show(pairs(two), buffer)
    text = buffer.getvalue()
    assert text.isascii()
    assert text.count("| differ") == 4
    low, high = (f"{100 * v:+.1f}" for v in bonett_price(20, 0, N)[1:])
    assert f"+50.0 [{low}, {high}]" in text
    assert "4 comparisons; p is corrected" in text
