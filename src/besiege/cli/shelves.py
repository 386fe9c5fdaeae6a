"""The catalogs by the names that `list` and `explain` give them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from besiege.core.entry import Catalog, Entry


def shelves() -> Mapping[str, Catalog[Any]]:
    """Shelf name -> catalog."""
    from besiege.attacks.catalog import ATTACKS, GRADIENTS
    from besiege.attacks.loss import LOSSES
    from besiege.attacks.threat import BALLS
    from besiege.attacks.wrappers.catalog import WRAPPERS
    from besiege.data.catalog import DATASETS
    from besiege.defenses.catalog import TRANSFORMS
    from besiege.defenses.defense import VOTES
    from besiege.models.catalog import MODELS
    from besiege.study.recipes import RECIPES

    return {
        "transforms": TRANSFORMS,
        "votes": VOTES,
        "recipes": RECIPES,
        "attacks": ATTACKS,
        "wrappers": WRAPPERS,
        "losses": LOSSES,
        "gradients": GRADIENTS,
        "balls": BALLS,
        "models": MODELS,
        "data": DATASETS,
    }


def traits(shelf: str, entry: Entry[Any]) -> Mapping[str, str]:
    """What tells entries of a shelf apart beside summary and source: access, ball, cost of attacks.

    Of its first case; nothing for one that has none, since it needs files or packages.
    """
    if shelf != "attacks" or not entry.cases:
        return {}
    return {**entry.factory(**entry.cases[0]).traits, "cost": entry.cost}
