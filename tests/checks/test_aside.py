"""What a run asks by the way: another seed, claims where nothing may change, the model alone."""

import numpy as np
import pytest
import torch

import besiege
from besiege.attacks.catalog import ATTACKS
from besiege.core.key import Key
from besiege.core.store import RunFolder
from besiege.defenses.noise import Noise
from besiege.laws.broken import behind, cells, digits
from besiege.laws.problems import code_images, coin_defense
from besiege.study.evidence.aside import FIRST
from besiege.study.evidence.examine import examine
from besiege.study.recipe import Recipe

NONE = Recipe("none", attack="none", links="skip", steps=0)
N = 40


@pytest.fixture(scope="module")
def coins():
    """A coin of 80 % whatever it sees, under an attacker who believes his luck and one who asks."""
    y = torch.arange(N) % 10
    recipes = (NONE, Recipe("lucky", steps=10, believe_first=True), Recipe("fair", steps=5))
    threat = besiege.Threat(besiege.Linf(0.04))
    return cells(coin_defense(0.8), recipes, threat, images=(code_images(y, 10), y))


def test_the_second_seed_is_another_and_scores_the_same(coins):
    control, lucky, fair = coins
    for cell in (lucky, fair):
        again = cell.shares("again")
        assert np.isfinite(again).all()
        assert again.mean() == pytest.approx(0.8, abs=0.08)
        assert (again != cell.right).any()
    assert np.isnan(control.shares("again")).all()


def test_claims_of_nothing_are_asked_of_the_first(coins):
    _, lucky, fair = coins
    for cell, claim, within in ((lucky, 1 - 0.8**10, 0.15), (fair, 0.2, 0.1)):
        idle = cell.shares("idle")
        assert np.isfinite(idle).sum() == FIRST
        assert np.nanmean(idle) == pytest.approx(claim, abs=within)
    found = [f for f in examine(coins) if f.number == 28]
    assert [f.cells[0] for f in found] == [lucky.hash]
    assert "claims to leave" in found[0].what


def test_the_model_alone_is_asked_of_controls(coins):
    control, _, fair = coins
    assert control.shares("bare").tolist() == [1.0] * N
    assert np.isnan(fair.shares("bare")).all()
    (told,) = [f for f in examine(coins) if f.number == 38]
    assert told.figure == pytest.approx(0.2, abs=0.05)


def test_no_row_depends_on_which_images_are_asked_more():
    x, y = digits(8, 0)
    recipes, threat = (Recipe("pgd", steps=3),), besiege.Threat(besiege.Linf(0.1))
    noisy = behind(Noise(scale=0.3, clip=True))
    both = cells(noisy, recipes, threat, images=(x, y))[0]
    few = cells(noisy, recipes, threat, images=(x[:5], y[:5]))[0]
    for name in ("again", "idle", "claim"):
        assert few.shares(name).tolist() == both.shares(name).tolist()[:5]


@pytest.mark.parametrize("name", sorted(ATTACKS))
def test_every_attack_can_be_asked_or_says_nothing(name):
    """None of the catalog fails at a radius of nothing, and none claims more than chance."""
    y = torch.arange(8) % 10
    threat = besiege.Threat(besiege.Linf(0.04))
    try:
        ran = cells(
            coin_defense(1.0),
            (Recipe(name, attack=name, steps=2),),
            threat,
            images=(code_images(y, 10), y),
        )
    except besiege.BesiegeError:
        pytest.skip("made for other balls")
    idle = ran[0].shares("idle")
    assert not (idle > 0).any()


def test_a_deterministic_defense_is_asked_nothing_more(tmp_path):
    x, y = digits(4, 0)
    threat = besiege.Linf(0.1)
    besiege.evaluate(behind(), x, y, threat, recipes=["none", "bpda"], steps=2, out=tmp_path / "r")
    rows = RunFolder(tmp_path / "r").rows()
    assert {row["again"] for row in rows} == {row["idle"] for row in rows} == {None}
    assert [row["bare"] for row in rows].count(None) == 4


def test_it_is_drawn_from_a_stream_of_its_own():
    ids = [3, 4]
    judge = Key.root(7, ids).fold("judge").values
    other = Key.root(8, ids).fold("judge").values
    assert not np.intersect1d(judge.numpy(), other.numpy()).size
