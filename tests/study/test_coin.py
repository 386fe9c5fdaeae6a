"""A classifier right with probability p is judged p after every attacker."""

import importlib.util
from pathlib import Path

import pytest

from besiege.study.recipes import RECIPES

PATH = Path(__file__).parents[2] / "examples" / "coin.py"
SPEC = importlib.util.spec_from_file_location("coin", PATH)
coin = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(coin)


@pytest.mark.parametrize("p", coin.PROBABILITIES)
@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_leaves_the_coin_at_p(recipe, p):
    judged, _ = coin.score(p, recipe, 8 / 255, steps=3)
    assert abs(judged - p) < 0.01


@pytest.mark.parametrize("p", coin.PROBABILITIES)
def test_no_radius_leaves_it_at_p_too(p):
    judged, claimed = coin.score(p, "bpda+eot", 0.0, steps=3)
    assert abs(judged - p) < 0.01
    assert abs(claimed - p) < 0.05
