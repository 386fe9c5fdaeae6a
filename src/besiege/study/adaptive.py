"""An attacker that works out by measurement what to attack a defense with.

Nothing that a defense says of itself is believed but the names of its links. On a few pilot images
each surrogate of each link has to move the true loss (`descent`), each way to see the whole is
tried in a short attack, and the noise of the gradients says how many draws they are worth. What
comes out is a recipe, a union of searches with the cheap and strong first, that can be written into
an experiment and run again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import count

from torch import Tensor

from besiege.attacks.draws import draws_for
from besiege.attacks.loss import margin
from besiege.attacks.oracle import Meter, Oracle
from besiege.attacks.threat import Threat
from besiege.core.key import Key
from besiege.defenses.defense import VOTE, Deployed
from besiege.study.descent import RANDOM, descent, known_surrogates
from besiege.study.recipe import UNION, Recipe
from besiege.study.siege import Opponents, Siege

BUDGET = 3000  # passes an image where the threat sets no limit
PILOTS = 16  # images on which ways are tried
SHORT, LONGER = 8, 32  # steps of a trial, and of another for the best of them
TRIED, KEPT = 6, 3  # ways to see the whole that are tried at most; and tried again
LUCK = 0.05  # share of the pilots by which two ways may differ for nothing
ALIKE, WORTH = 0.9, 0.5  # of the best gain: no worse than it, and worth a trial
COSINE, MOST_DRAWS = 0.5, 16  # of a step's mean gradient with the true mean; draws for it
RIVALS = 10  # readings beside its steps that a search makes at most: of each target, and of rivals
CONFIRM = 16  # forward passes on which an example's best points are compared


@dataclass(frozen=True)
class Plan:
    """A recipe, and what was measured on the way to it.

    notes: a sentence each, in the order in which things were found.
    passes: forward and backward passes a pilot image that planning took.
    """

    recipe: Recipe
    notes: tuple[str, ...]
    passes: int


@dataclass(frozen=True)
class _Way:
    """A way to see the defense, and what a short attack through it was worth on the pilots."""

    name: str
    view: Mapping[str, str]
    won: float = 0.0  # share of pilots and fresh draws


def plan(
    defense: Deployed,
    x: Tensor,
    goal: Tensor,
    threat: Threat,
    key: Key,
    *,
    budget: int = BUDGET,
    opponents: Opponents | None = None,
) -> Plan:
    """How to attack `defense` under `threat`, for at most `budget` passes an image.

    x (B, C, H, W) in [0, 1], goal (B,) labels, or targets where the threat is targeted, key: of
    the images; the first PILOTS are used. budget: forward and backward passes, draws counted.
    Cost: for each link about 60 forwards a pilot and surrogate, then 6 short attacks and 3 longer.
    """
    x, goal, key = x[:PILOTS], goal[:PILOTS], key[:PILOTS]
    planner = _Planner(defense, threat, opponents or Opponents(), x, goal, key)
    if threat.access != "gradients":
        return planner.without_gradients(budget)
    ways = planner.ways()
    draws = planner.draws(ways[0])
    return planner.united(planner.ranked(ways, draws), draws, budget)


class _Planner:
    """One defense and its pilots; what is found is noted."""

    def __init__(
        self,
        defense: Deployed,
        threat: Threat,
        opponents: Opponents,
        x: Tensor,
        goal: Tensor,
        key: Key,
    ) -> None:
        self.defense, self.threat, self.opponents = defense, threat, opponents
        self.x, self.goal, self.key = x, goal, key
        self.random = defense.is_random((x.shape[1], x.shape[2], x.shape[3]))
        self.confirm = max(1, CONFIRM // defense.passes) if self.random else 1
        self.notes: list[str] = []
        self.passes = 0

    def note(self, text: str) -> None:
        self.notes.append(text)

    def ways(self) -> list[_Way]:
        """The ways worth a trial: the best surrogate of each link, then one change at a time."""
        base = {VOTE: "one"} if VOTE in self.defense.viewable else {}
        ranking = {link: self.surrogates(link) for link in self._names()}
        best = {**base, **{link: names[0] for link, names in ranking.items()}}
        found = [_Way("best surrogates", best)]
        # Two links that each move the image can look right one by one and be wrong together.
        led = [n for n in ranking if ranking[n][0] not in ("exact", "moved")]
        if len(led) > 1:
            found.append(_Way("all as moved", {**best, **dict.fromkeys(led, "moved")}))
        for link, names in ranking.items():
            found += [_Way(f"{link} by {name}", {**best, link: name}) for name in names[1:]]
        kept = [link for link in ranking if "identity" in self._known(link)]
        if len(ranking) > 1:
            found += [_Way(f"without {link}", {**best, link: "skip"}) for link in kept]
        if kept and len(kept) == len(ranking):
            found.append(_Way("classifier alone", {**base, **dict.fromkeys(kept, "skip")}))
        return found[:TRIED]

    def surrogates(self, link: str) -> list[str]:
        """The surrogates of a link that lead somewhere, best first; at most two."""
        names = list(dict.fromkeys([*self._known(link), "moved"]))
        if len(names) == 1:
            return names
        tested = descent(
            self.defense,
            link,
            self.x,
            self.goal,
            self.key.fold("plan"),
            surrogates=names,
            sizes=(self._step(),),
            draws=4,
            targeted=self.threat.targeted,
            micro_batch=self.opponents.micro_batch,
        )
        self.passes += (1 + len(names) + 2) * 8 + 2 * 4 * len(names)
        gains = {name: tested.gain(name) for name in names}
        told = ", ".join(f"{n} {gains[n]:+.2f}" for n in tested.ranking if n != RANDOM)
        self.note(f"{link}: loss gained by a step: {told}; at random {tested.gain(RANDOM):+.2f}")
        ranked = [n for n in tested.ranking if n != RANDOM]
        best = gains[ranked[0]]
        alike = [n for n in names if gains[n] >= ALIKE * best > 0]  # as the link ranks them
        useful = [n for n in ranked if n not in alike and gains[n] > WORTH * max(best, 0)]
        return [*alike, *useful][:2] or ranked[:1]

    def draws(self, way: _Way) -> int:
        """Draws a step: a power of two that gives the mean gradient a cosine with the true mean."""
        if not self.random:
            return 1
        siege = self._siege(Recipe("plan", view=way.view, loss="margin", steps=SHORT))
        meter = Meter(None)
        need = draws_for(siege.problem(self.x, self.goal, self.key, meter), cosine=COSINE)
        self.passes += meter.forwards + meter.backwards
        typical = int(need.double().quantile(0.75).clamp(1, MOST_DRAWS))
        draws = 1 << (typical - 1).bit_length()
        self.note(f"noise of the gradient: {draws} draws a step for a cosine of {COSINE:g}")
        return draws

    def ranked(self, ways: Sequence[_Way], draws: int) -> list[_Way]:
        """The ways by what a short attack through each is worth."""
        if len(ways) == 1:
            return list(ways)
        tried = self._compared(ways, draws, SHORT)
        # What gets a point across soonest is not always what gets most across.
        return [*self._compared(tried[:KEPT], draws, LONGER), *tried[KEPT:]]

    def _compared(self, ways: Sequence[_Way], draws: int, steps: int) -> list[_Way]:
        """The ways after an attack of so many steps through each, the best first."""
        tried = [self._tried(way, draws, steps) for way in ways]
        most = max(way.won for way in tried)
        # Of ways that no pilot tells apart the first is the one that was there before.
        tried.sort(key=lambda way: 0 if way.won >= most - LUCK else 1 - way.won)
        for way in tried:
            self.note(f"{way.name}: {way.won:.0%} of the pilots in {steps} steps")
        return tried

    def united(self, ways: Sequence[_Way], draws: int, budget: int) -> Plan:
        """The searches, cheap and strong first, as many as the budget holds."""
        chosen: list[Recipe] = []
        left = budget - self.confirm * self.defense.passes  # for the claim
        for recipe in self._searches(ways, draws):
            cost = self._cost(recipe)
            if chosen and cost > left:
                self.note(f"left out, since {left} passes remain of {budget}: {recipe.name}")
                continue
            chosen.append(recipe)
            left -= cost
        if (rest := self._rest(ways[0], draws, left)) is not None:
            chosen.append(rest)
        return Plan(self._union(chosen), tuple(self.notes), self.passes)

    def without_gradients(self, budget: int) -> Plan:
        """For an attacker who hears scores, or labels only."""
        self.note(f"access to {self.threat.access} only: no surrogate was tried")
        by_labels = partial(Recipe, "labels", "hop-skip-jump", "as-is", confirm=self.confirm)
        if self.threat.access == "labels":
            found = [by_labels(steps=_jumps(budget, self.defense.passes))]
        else:
            each = self.defense.passes * (2 if self.random else 1)
            scores = Recipe("scores", "square", "as-is", steps=budget * 2 // 3 // each)
            found = [scores, by_labels(steps=_jumps(budget // 3, self.defense.passes))]
        return Plan(self._union(found), tuple(self.notes), self.passes)

    def _union(self, searches: Sequence[Recipe]) -> Recipe:
        return Recipe(
            "adaptive", attack=UNION, steps=0, union=tuple(searches), confirm=self.confirm
        )

    def _searches(self, ways: Sequence[_Way], draws: int) -> Iterator[Recipe]:
        """Each with another name, and none that a former one makes idle."""
        number = count(1)

        def search(what: str, way: _Way, attack: str, steps: int, **more: object) -> Recipe:
            name = f"{next(number)} {what}, {way.name}"
            settings = {"draws": draws, "confirm": self.confirm, **more}
            return Recipe(name, attack, view=way.view, steps=steps, **settings)  # type: ignore[arg-type]

        best = ways[0]
        yield search("pgd", best, "pgd", 20, draws=max(1, draws // 4))
        yield search("apgd", best, "apgd", 50, loss="dlr")
        for way in ways[1:3]:
            yield search("pgd", way, "pgd", 30)
        if not self.threat.targeted:
            yield search("targets", best, "multi-targeted of pgd", 90)
        yield search("square", _Way("as it is", {}), "square", 200, links="as-is", draws=1)
        yield search("more draws", best, "pgd", 60, draws=max(8, 2 * draws) if self.random else 1)
        yield search("restarts", best, "pgd", 50, restarts=2, loss="dlr")

    def _rest(self, way: _Way, draws: int, left: int) -> Recipe | None:
        """One long search for all that is left, if that is worth a search."""
        draws = max(8, 2 * draws) if self.random else 1
        recipe = Recipe("the rest", view=way.view, draws=draws, confirm=self.confirm, steps=1)
        once = self._cost(replace(recipe, steps=2)) - self._cost(recipe)
        steps = (left - self._cost(replace(recipe, steps=0))) // once
        return replace(recipe, steps=steps) if steps >= LONGER else None

    def _cost(self, recipe: Recipe) -> int:
        """Passes an image, at most."""
        once = self.defense.passes if recipe.view.get(VOTE) != "one" else 1
        each = 2 if recipe.attack == "square" else 2 * recipe.draws
        asked = recipe.restarts * (recipe.steps * each + RIVALS * recipe.draws) * once
        # Its last and best point and its claim, and two points beside each other in the union.
        return asked + 5 * self.confirm * self.defense.passes

    def _tried(self, way: _Way, draws: int, steps: int) -> _Way:
        recipe = Recipe("trial", "pgd", view=way.view, loss="margin", steps=steps, draws=draws)
        found = self._siege(recipe).attack(self.x, self.goal, self.key)
        meter, n = Meter(None), self.confirm
        whole = Oracle(
            self.defense, margin(), self.threat, meter, n, micro_batch=self.opponents.micro_batch
        )
        seen = whole(found.x, self.goal, self.key.fold("plan", "judged"), gradient=False)
        self.passes += int((found.forwards + found.backwards).max()) + meter.forwards
        return replace(way, won=float(seen.won.mean()))

    def _siege(self, recipe: Recipe) -> Siege:
        return Siege(self.defense, recipe, self.threat, self.opponents)

    def _names(self) -> list[str]:
        return [link.name for link in self.defense.links]

    def _known(self, link: str) -> tuple[str, ...]:
        shape = (self.x.shape[1], self.x.shape[2], self.x.shape[3])
        return known_surrogates(self.defense, link, shape)

    def _step(self) -> float:
        """Half of the ball's radius, as a change of every entry alike; at most 8/255."""
        unit = 1 / 255
        size = self.threat.ball.size((self.x + unit).clamp(0, 1), self.x).clamp_min(1e-12)
        return float((unit * self.threat.ball.eps / 2 / size).median().clamp(unit / 2, 8 * unit))


def _jumps(budget: int, passes: int) -> int:
    """Steps of hop-skip-jump for so many passes: 92 queries, then 25 sqrt(t + 1) + 12 a step."""
    steps, spent = 0, 92.0
    while (spent := spent + 25 * (steps + 1) ** 0.5 + 12) * passes <= budget:
        steps += 1
    return max(1, steps)
