"""Where gradients come from: every source by its name."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from besiege.attacks.attack import Ask
from besiege.attacks.finite_differences import FiniteDifferences
from besiege.core.entry import Catalog, Entry

# From an oracle to the one that an attack asks in its place.
Gradients: TypeAlias = Callable[[Ask], Ask]


def backward() -> Gradients:
    """Backward passes through the defense as the attacker sees it.

    Needs the access "gradients". Cost: as many backwards as forwards.
    """
    return lambda oracle: oracle


GRADIENTS: Catalog[Gradients] = Catalog(
    "gradients",
    [
        Entry("backward", backward, "house"),
        Entry(
            "finite-differences",
            FiniteDifferences,
            "Ilyas et al. 2018 (arXiv:1804.08598); Chen et al. 2017 (arXiv:1708.03999)",
            cases=({}, {"directions": 16, "basis": "coordinates"}),
        ),
    ],
)
