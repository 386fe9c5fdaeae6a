"""A classifier right with probability p is judged p after every attacker, and claimed so."""

import importlib.util
from pathlib import Path

import pytest

import besiege
from besiege.attacks.catalog import ATTACKS
from besiege.defenses.catalog import parse_chain
from besiege.defenses.defense import Defense
from besiege.study.recipes import RECIPES

PATH = Path(__file__).parents[2] / "examples" / "coin.py"
SPEC = importlib.util.spec_from_file_location("coin", PATH)
coin = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(coin)


@pytest.mark.parametrize("p", coin.PROBABILITIES)
@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_leaves_the_coin_at_p(recipe, p):
    score = coin.coin(p, coin.named(recipe, 3), coin.Threat(coin.SMALL), 500)
    assert abs(score.right - p) < 0.02  # four standard errors at p = 1/2


def test_no_radius_leaves_it_at_p_too():
    score = coin.coin(0.8, coin.named("bpda+eot", 3), coin.Threat(coin.Linf(0)), 500)
    assert abs(score.right - 0.8) < 0.016
    assert abs(score.claimed - 0.8) < 0.026


@pytest.mark.parametrize("attack", ATTACKS)
def test_every_attack_leaves_the_coin_at_p_and_claims_no_more(attack):
    """Four standard errors of 300 x 20 draws of the judge, and of 300 x 32 of the attacker."""
    score = coin.coin(0.8, *coin.told(attack, confirm=32), 300)
    assert abs(score.right - 0.8) < 0.021
    assert abs(score.claimed - 0.8) < 0.017


@pytest.mark.parametrize("attack", ["pgd", "cw", "ddn", "square", "one-pixel", "hop-skip-jump"])
def test_no_claim_exceeds_the_verdict_behind_a_random_link(attack):
    images, labels, _ = besiege.load_images("digits").take(range(24))
    defense = Defense(parse_chain(coin.BEHIND[1]), besiege.load_model("digits-cnn"))
    score = coin.besieged(defense, *coin.told(attack, True, draws=2, confirm=32), images, labels)
    assert score.excess < 0.02 + 3 * score.error
    assert score.error < 0.04
