"""Unions of searches that are broken on purpose, as runs of the adaptive attacker show them.

Each search gets what the former left, so that no two are cells of a run; what is wrong with those
that come first has to be seen by what those after them break. And sound ones, which must pass.
"""

from __future__ import annotations

from collections.abc import Callable

from besiege.attacks.threat import Linf, Threat
from besiege.checks.finding import Finding
from besiege.defenses.defense import Defense
from besiege.defenses.jpeg import Jpeg
from besiege.defenses.noise import Noise
from besiege.defenses.transform import Transform, identity
from besiege.laws.broken import MORE, Broken, behind, cells, digits
from besiege.laws.broken_links import Claiming, Scaled, Seen, coarse, misled, modelled, moved_by_two
from besiege.study.evidence.examine import examine
from besiege.study.recipe import UNION, Recipe

CONTROL = Recipe("none", attack="none", links="skip", steps=0)


def union_of(*searches: Recipe) -> Recipe:
    """Them one after the other."""
    return Recipe("union", attack=UNION, steps=0, union=searches)


def _ask(
    defense: Callable[[], Defense], eps: float, *searches: Recipe, n: int = MORE
) -> Callable[[int], list[Finding]]:
    """A run of the union and the control on n other digits for every seed."""

    def ask(seed: int) -> list[Finding]:
        recipes = (CONTROL, union_of(*searches))
        ran = cells(defense(), recipes, Threat(Linf(eps)), seed, images=digits(n, seed))
        return examine(ran)

    return ask


def _masked() -> Defense:
    return behind(Claiming(coarse, misled))


def _two_links() -> Defense:
    return behind(Claiming(coarse, misled), Claiming(moved_by_two, identity, "moved by 2"))


def _sure() -> Defense:
    return behind(model=modelled(Scaled(1e4)))


_TINY = "pgd:step=0.001,decay=constant,start=clean"
_BPDA = Recipe("bpda", loss="margin", steps=10)
_MOVED = {"moved by 2": "moved"}

UNIONS: tuple[Broken, ...] = (
    Broken(
        "union: masked, against scores",
        (22,),
        _ask(_masked, 0.2, _BPDA, Recipe("square", attack="square", links="as-is", steps=150)),
    ),
    Broken(
        "union: masked, against the classifier alone",
        (23,),
        _ask(_masked, 0.2, _BPDA, Recipe("oblivious", loss="margin", links="skip", steps=10)),
    ),
    Broken(
        "union: masked, against labels",
        (22, 24),
        _ask(
            _masked,
            0.3,
            Recipe("bpda", attack="pgd:start=clean", loss="margin", steps=10),
            Recipe("labels", attack="hop-skip-jump", links="as-is", steps=20),
            n=8,
        ),
    ),
    Broken(
        "union: two surrogates, one misled",
        (25,),
        _ask(
            _masked,
            0.2,
            _BPDA,
            Recipe("identity", loss="margin", view={"own": "identity"}, steps=10),
        ),
    ),
    Broken(
        "union: a link better left out",
        (26,),
        _ask(
            _two_links,
            0.2,
            Recipe("bpda", loss="margin", view=_MOVED, steps=10),
            Recipe("without", loss="margin", view={"own": "skip", **_MOVED}, steps=10),
        ),
    ),
    Broken(
        "union: cross-entropy on logits x 1e4",
        (20,),
        _ask(
            _sure,
            0.1,
            Recipe("cross-entropy", loss="cross-entropy", steps=10),
            Recipe("margin", loss="margin", steps=10),
        ),
    ),
    Broken(
        "union: one random start",
        (16,),
        _ask(
            behind,
            0.3,
            Recipe("creeping", attack=_TINY, steps=30),
            Recipe("starts", attack="pgd:step=0.05,decay=constant", steps=1, restarts=30),
        ),
    ),
    Broken(
        "union: last search still breaks",
        (11,),
        _ask(
            behind,
            0.1,
            Recipe("creeping", attack=_TINY, steps=5),
            Recipe("three", attack="pgd:step=0.2,decay=constant", steps=3),
        ),
    ),
    Broken(
        "union: steps of a thousandth",
        (42,),
        _ask(
            behind,
            0.2,
            Recipe("five", attack=_TINY, steps=5),
            Recipe("ten", attack=_TINY, loss="margin", steps=10),
        ),
    ),
)

_SOUND = (
    Recipe("pgd", steps=20),
    Recipe("apgd", attack="apgd", loss="dlr", steps=20),
    Recipe("margin", loss="margin", steps=20),
    Recipe("oblivious", loss="margin", links="skip", steps=20),
    Recipe("square", attack="square", links="as-is", steps=100),
    Recipe("restarts", loss="dlr", restarts=2, steps=20),
    Recipe("labels", attack="hop-skip-jump", links="as-is", steps=3),
    Recipe("the rest", loss="margin", steps=60),
)


def _sound(*links: Transform, eps: float = 0.08) -> Callable[[int], list[Finding]]:
    return _ask(lambda: behind(*links), eps, *_SOUND)


SOUND_UNIONS: tuple[Broken, ...] = (
    Broken("union: no defense", (), _sound(eps=0.06)),
    Broken("union: Gaussian noise", (), _sound(Noise(scale=0.1, clip=True))),
    Broken("union: JPEG, identity", (), _sound(Seen(Jpeg()))),
)
