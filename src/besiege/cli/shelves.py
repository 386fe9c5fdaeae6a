"""The catalogs by the names that `list` and `explain` give them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from besiege.core.entry import Catalog


def shelves() -> Mapping[str, Catalog[Any]]:
    """Shelf name -> catalog."""
    from besiege.attacks.catalog import ATTACKS, GRADIENTS
    from besiege.attacks.loss import LOSSES
    from besiege.attacks.threat import BALLS
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
        "losses": LOSSES,
        "gradients": GRADIENTS,
        "balls": BALLS,
        "models": MODELS,
        "data": DATASETS,
    }
