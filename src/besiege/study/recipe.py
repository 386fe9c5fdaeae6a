"""What an attacker knows and does, as data: which links it sees how, and which attack it runs.

The only module that calls `Defense.seen_through`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor

from besiege.attacks.attack import Attack, Problem
from besiege.attacks.catalog import ATTACKS
from besiege.attacks.loss import LOSSES, Loss
from besiege.attacks.oracle import Meter, Oracle
from besiege.attacks.search import Found, Plan, search
from besiege.attacks.threat import Threat
from besiege.core.entry import Catalog
from besiege.core.errors import BadSetting, unknown
from besiege.core.key import Key
from besiege.defenses.defense import Defense
from besiege.defenses.transform import Shape, Transform

# How a link that the recipe's `view` does not name is seen.
RULES: Mapping[str, str] = {
    "best": "the best surrogate of each link",
    "identity": "the identity through every link",
    "as-is": "each link as it is, no surrogate",
    "exact-or-identity": "exact links; the identity elsewhere",
    "exact-or-skip": "exact links; the others left out",
    "skip": "every link left out",
    "frozen": "the best surrogate of each link, with one draw kept",
}


@dataclass(frozen=True)
class Recipe:
    """One attacker.

    attack: a spec of the attack catalog, "pgd:step=0.1,decay=cosine".
    links: the rule for links that `view` does not name, one of RULES.
    view: link name -> "SURROGATE", "as-is", "skip", "frozen" or "frozen:SURROGATE".
    draws: draws that each reading averages over; average: what is averaged (see Oracle).
    loss: a spec of the loss catalog.  steps, restarts: of the search.
    check_whole: successes are looked for on the whole defense, forward only, at each step.
    believe_first: stop at the first success on any draw and claim it, as published loops do.
    confirm: fresh draws on which the final point is chosen.

    >>> Recipe("mine", steps=10).draws
    1
    """

    name: str
    attack: str = "pgd"
    links: str = "best"
    view: Mapping[str, str] = field(default_factory=dict)
    draws: int = 1
    average: str = "loss"
    loss: str = "cross-entropy"
    steps: int = 50
    restarts: int = 1
    check_whole: bool = False
    believe_first: bool = False
    confirm: int = 8

    def __post_init__(self) -> None:
        if self.links not in RULES:
            raise unknown("rule", self.links, RULES, where=f'recipe "{self.name}", links')
        for key, least in (("draws", 1), ("steps", 0), ("restarts", 1), ("confirm", 1)):
            if (got := getattr(self, key)) < least:
                raise BadSetting(f'recipe "{self.name}": {key} is at least {least}, got {got}.')

    def view_of(self, defense: Defense) -> dict[str, str]:
        """Every link of the defense and how this attacker sees it."""
        rule = {link.name: _by_rule(self.links, link) for link in defense.chain.links}
        return {**rule, **self.view}

    def stops_at(self, defense: Defense) -> str | None:
        """The link nearest to the classifier that lets no gradient through, if there is one."""
        how = self.view_of(defense)
        for link in reversed(defense.chain.links):
            if how[link.name] == "as-is" and "exact" not in link.surrogates:
                return link.name
        return None


def _by_rule(rule: str, link: Transform) -> str:
    exact = "exact" in link.surrogates
    if rule == "exact-or-identity":
        return "exact" if exact else "identity"
    if rule == "exact-or-skip":
        return "exact" if exact else "skip"
    return rule


@dataclass(frozen=True)
class Opponents:
    """The catalogs that a recipe's specs are looked up in, and the size of the model's batches."""

    attacks: Catalog[Attack] = ATTACKS
    losses: Catalog[Loss] = LOSSES
    micro_batch: int = 32


class Watch(Protocol):
    """Somebody who looks at the points of every `every`-th step."""

    @property
    def every(self) -> int:
        """Steps between two looks."""
        ...

    def observe(self, step: int, x: Tensor, index: Tensor) -> None:
        """Called with the points x of the examples `index`."""
        ...


@dataclass(frozen=True)
class Siege:
    """A recipe made ready against one defense and threat: views built, specs looked up."""

    defense: Defense
    recipe: Recipe
    threat: Threat
    opponents: Opponents = field(default_factory=Opponents)

    def attack(self, x0: Tensor, goal: Tensor, key: Key, watch: Watch | None = None) -> Found:
        """Search for adversarial points of x0 (B, C, H, W) in [0, 1].

        goal: (B,) true labels, or targets where the threat is targeted.
        key: of the examples; the search folds ("attack", recipe) into it and can never name the
        judge's stream.
        """
        recipe, shape = self.recipe, _shape(x0)
        how = recipe.view_of(self.defense)
        view = self.defense.seen_through(how)
        meter = Meter(self.threat.passes)
        loss = self.opponents.losses.build(recipe.loss)
        micro = self.opponents.micro_batch
        draws = recipe.draws if view.is_random(shape) else 1  # equal draws would only cost
        oracle = Oracle(view, loss, self.threat, meter, draws, recipe.average, micro)
        whole = Oracle(self.defense, loss, self.threat, meter, micro_batch=micro)
        faithful = not any(h == "skip" for h in how.values())
        # Rounding may undo a success, so that it is no fact before the point is handed over.
        exact = faithful and not self.threat.eight_bit
        plan = Plan(
            steps=recipe.steps,
            restarts=recipe.restarts,
            certain=exact and not self.defense.is_random(shape),
            confirm=recipe.confirm,
            check=whole if recipe.check_whole else None,
            believe_first=recipe.believe_first,
            observe=watch.observe if watch else None,
            every=watch.every if watch else 0,
        )
        own = key.fold("attack", recipe.name)
        own = Key(own.values, own.values)  # its origin: no attack can get back to the judge's
        problem = Problem(x0, goal, own, oracle, self.threat, recipe.steps)
        return search(problem, self.opponents.attacks.build(recipe.attack), meter, plan)


def _shape(x: Tensor) -> Shape:
    return (x.shape[1], x.shape[2], x.shape[3])
