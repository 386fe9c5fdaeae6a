"""What an attacker changes when its best way leaves images, as the checks advise.

All cost about the same, so that what wins more does so by what it is and not by what it costs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from besiege.study.recipe import Recipe

FACTOR = 4  # of what a remedy has more of
LEAST = 4  # steps that show what a remedy is worth


def remedies(search: Recipe, passes: int, *, random: bool, targeted: bool) -> list[Recipe]:
    """Other settings of `search`, each of about `passes` forward and backward passes an image.

    search: what left images; its steps do not matter, and the first is itself with all the passes.
    random: whether the defense draws. Checks, by their numbers: 15 (more steps help), 31 (draws
    against steps at equal cost), 16 (restarts help), 17 (the step at the edge of a sweep), 5 and 6
    (a loss that no longer tells), 20 (rival classes one by one beat all together). Those that would
    not make LEAST steps are left out.

    >>> [r.name for r in remedies(Recipe("x"), 240, random=False, targeted=True)]
    ['more steps', 'restarts', 'shorter steps', 'adam', 'another loss']
    >>> [r.steps for r in remedies(Recipe("x"), 240, random=False, targeted=True)]
    [120, 30, 120, 120, 120]
    """

    def found() -> Iterator[tuple[str, dict[str, Any]]]:
        yield "more steps", {}
        if random:
            yield "more draws", {"draws": FACTOR * search.draws}
        if search.draws >= FACTOR:
            yield "fewer draws", {"draws": search.draws // FACTOR}
        yield "restarts", {"restarts": FACTOR}
        yield "shorter steps", {"attack": "pgd:step=0.125"}
        yield "adam", {"attack": "adam"}
        yield "another loss", {"attack": "apgd", "loss": "dlr"}
        if not targeted:
            yield "rival classes", {"attack": "apgd-t", "loss": None}

    changed = [replace(search, name=name, **how) for name, how in found()]
    sized = [replace(one, steps=passes // (2 * one.draws * one.restarts)) for one in changed]
    return [one for one in sized if one.steps >= LEAST]
