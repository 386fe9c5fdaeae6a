"""The searches of the adaptive attacker: cheap and strong first, as many as its budget holds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import Any

from besiege.attacks.threat import Threat
from besiege.defenses.defense import VOTE, Deployed
from besiege.study.recipe import UNION, Recipe
from besiege.study.recipes import RECIPES

RIVALS = 10  # readings beside its steps that a search makes at most: of each target, and of rivals
LUCK = 0.05  # share of the pilots by which two ways may differ for nothing
PROMISING = 3  # the best ways, whose searches are long if half as many were won
LEAST = 32  # steps that are worth another search
MORE = 8  # draws a step, at least, of those who look twice at a random defense


@dataclass(frozen=True)
class Way:
    """A way to see the defense.

    partial: leaves links out. won: share of the pilots and fresh draws that a short attack through
    it was worth.
    """

    name: str
    view: Mapping[str, str]
    partial: bool = False
    won: float = 0.0


@dataclass(frozen=True)
class Schedule:
    """What is known when searches are chosen.

    ways: the best first. draws: that a step's gradient is the mean of. confirm: fresh draws on
    which points are compared. random: whether the defense draws. models: others, to transfer from.
    budget: forward and backward passes an image. last: how to search with what is left of it, if
    that has been found out.
    """

    defense: Deployed
    threat: Threat
    ways: Sequence[Way]
    draws: int
    confirm: int
    random: bool
    models: tuple[str, ...]
    budget: int
    last: Recipe | None = None

    def recipe(self) -> tuple[Recipe, list[str]]:
        """A union of the searches, and what was left out and why, in words."""
        if self.threat.access != "gradients":
            return self._union(list(self._by_questions())), []
        chosen: list[Recipe] = []
        left_out = []
        left = self.budget - self.confirm * self.defense.passes  # for the claim
        # What was found out to be best has the time to show it.
        kept = self.budget // 3 if self.last else 0
        for number, search in zip(count(1), self._searches(), strict=False):
            recipe = replace(search, name=f"{number} {search.name}", confirm=self.confirm)
            cost = self.cost(recipe)
            if chosen and cost > left - kept:
                left_out.append(
                    f"left out, with {left - kept} passes of {self.budget}: {recipe.name}"
                )
                continue
            chosen.append(recipe)
            left -= cost
        if (rest := self._rest(left)) is not None:
            chosen.append(rest)
        return self._union(chosen), [*left_out, *self._not_asked()]

    def cost(self, recipe: Recipe) -> int:
        """Passes an image of one search, at most."""
        once = self.defense.passes if recipe.view.get(VOTE) != "one" else 1
        # Its last and best point and its claim, and two points beside each other in the union.
        talk = 5 * recipe.confirm * self.defense.passes
        if recipe.attack == "hop-skip-jump":
            return jumps_cost(recipe.steps) * once + talk
        each = 2 if recipe.attack == "square" else 2 * recipe.draws
        return recipe.restarts * (recipe.steps * each + RIVALS * recipe.draws) * once + talk

    def _searches(self) -> Iterator[Recipe]:
        """Those who know the gradients; none does what a former one has done."""
        best, draws = self.ways[0], self.draws

        def search(what: str, way: Way, attack: str, steps: int, **how: Any) -> Recipe:
            settings = {"draws": draws, **how}
            return Recipe(f"{what}, {way.name}", attack, view=way.view, steps=steps, **settings)

        yield search("pgd", best, "pgd", 20, draws=max(1, draws // 4))
        if self.random:
            # Digits behind FD + RDG, linf 0.1: 19 % stand after this one, 21 % after any apgd.
            yield search("more draws", best, "pgd", 50, draws=self._more(), loss="margin")
        strong = [way for way in self.ways[1:PROMISING] if way.won >= best.won / 2]
        for way in self.ways[1:]:
            # Who knows less can do better: of two pieces one may hide the gradient of the other.
            if way.partial and way not in strong:
                yield search("pgd", way, "pgd", 20, draws=1)
        yield search("apgd", best, "apgd", 50, loss="dlr")
        for way in strong:
            yield search("pgd", way, "pgd", 30)
        if not self.threat.targeted:
            yield search("targets", best, "multi-targeted of pgd", 90)
        if self.random:
            yield search("former points", best, "pgd:start=former,step=0.25", 30)
            yield Recipe("one draw kept", view=self._kept(), steps=20)
        as_is = Way("as it is", {})
        yield search("square", as_is, "square", 200, links="as-is", draws=1)
        if self.models:
            yield RECIPES.build("transfer", models=self.models, name="transfer", steps=20)
        yield search("restarts", best, "pgd", 50, restarts=2, loss="dlr")
        if not self.random:
            yield search("labels", as_is, "hop-skip-jump", 5, links="as-is", draws=1)

    def _not_asked(self) -> Iterator[str]:
        """Attackers that this defense or its user rules out."""
        if not self.models:
            yield "no points carried over: no other models were named"
        if self.random:
            yield "no attack by labels alone: the one that there is counts on answers that stay"
        if self.threat.targeted:
            yield "no attack on each rival class: the threat names one"

    def _rest(self, left: int) -> Recipe | None:
        """One long search for all that is left, if that is worth a search."""
        rest = self.last or self._usual()
        rest = replace(rest, name=f"the rest, {rest.name}", confirm=self.confirm, steps=1)
        once = self.cost(replace(rest, steps=2)) - self.cost(rest)
        steps = (left - self.cost(replace(rest, steps=0))) // once
        least = LEAST // 4 if self.last else LEAST
        return replace(rest, steps=steps) if steps * rest.restarts >= least else None

    def _usual(self) -> Recipe:
        """What to do longest where nothing says what is best."""
        # Of two ways that no pilot told apart it takes the one that others have used less.
        way = next((w for w in self.ways[1:2] if w.won >= self.ways[0].won - LUCK), self.ways[0])
        if self.random:
            draws = max(MORE // 2, self.draws)
            return Recipe(way.name, view=way.view, draws=draws, loss="margin")
        return Recipe(way.name, "pgd" if self.threat.targeted else "apgd-t", view=way.view)

    def _more(self) -> int:
        """Draws a step that leave most of a small budget to others."""
        draws = max(MORE, 2 * self.draws)
        while draws > 2 and 2 * 50 * draws * self.defense.passes > self.budget / 3:
            draws //= 2
        return draws

    def _kept(self) -> Mapping[str, str]:
        """The best way with one draw kept."""
        view = self.ways[0].view
        return {
            link: how if link == VOTE or how == "skip" else f"frozen:{how}"
            for link, how in view.items()
        }

    def _by_questions(self) -> Iterator[Recipe]:
        """Those who hear scores, or labels only."""
        passes, budget = self.defense.passes, self.budget
        if self.threat.access == "scores":
            each = passes * (2 if self.random else 1)
            yield Recipe("scores", "square", "as-is", steps=budget * 2 // 3 // each)
            budget //= 3
        yield Recipe("labels", "hop-skip-jump", "as-is", steps=jumps(budget // passes))

    def _union(self, searches: Sequence[Recipe]) -> Recipe:
        agreed = tuple(replace(search, confirm=self.confirm) for search in searches)
        return Recipe("adaptive", attack=UNION, steps=0, union=agreed, confirm=self.confirm)


def jumps_cost(steps: int) -> int:
    """Queries of hop-skip-jump: 92, then 25 sqrt(t + 1) + 12 in step t.

    >>> jumps_cost(0), jumps_cost(2)
    (92, 176)
    """
    return int(92 + sum(25 * (t + 1) ** 0.5 + 12 for t in range(steps)))


def jumps(budget: int) -> int:
    """Steps of hop-skip-jump for so many queries, at least 1.

    >>> jumps(176), jumps(175)
    (2, 1)
    """
    steps = 1
    while jumps_cost(steps + 1) <= budget:
        steps += 1
    return steps
