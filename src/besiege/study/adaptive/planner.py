"""An attacker that works out by measurement what to attack a defense with.

Nothing that a defense says of itself is believed but the names of its links. On a few pilot images
each surrogate of each link has to move the true loss (`descent`), each way to see the whole is
tried in a short attack, and the noise of the gradients says how many draws they are worth. Where
that is not enough, a network learns what each link does, and the `remedies` that checks advise for
weak searches are tried on the pilots that stand. What comes out is a recipe, a union of searches
with the cheap and strong first (`schedule`), that can be written into an experiment and run again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from besiege.attacks.draws import draws_for
from besiege.attacks.loss import margin
from besiege.attacks.oracle import Meter, Oracle
from besiege.attacks.threat import Threat
from besiege.core.errors import BesiegeError
from besiege.core.key import Key
from besiege.defenses.defense import VOTE, Deployed
from besiege.defenses.imitation import LEARNED, write_imitator
from besiege.study.adaptive.descent import RANDOM, Descent, descent, known_surrogates
from besiege.study.adaptive.imitation import imitate
from besiege.study.adaptive.remedies import remedies
from besiege.study.adaptive.schedule import LUCK, Schedule, Way
from besiege.study.recipe import Recipe
from besiege.study.siege import Opponents, Siege

BUDGET = 3000  # passes an image where the threat sets no limit
PILOTS, FEW, EACH = 16, 8, 150  # images on which ways are tried; least; budget for each of them
PUPILS = 64  # images that a network learns a link from, at most
LESSONS, PIXELS = 300, 2**16  # its steps, and the pixels that each of them looks at, about
THOROUGH, TAUGHT = 500, 1500  # passes an image that are worth longer trials; and such networks
TRIAL, HARD = 6, 8  # a sixth of the budget may go into a trial; pilots that remedies are tried on
SHORT, LONGER = 8, 32  # steps of a trial, and of another for the best of them
TRIED, KEPT = 7, 3  # ways to see the whole that are tried at most; and tried again
SURE = 0.99  # won of the pilots: no other way is tried
PLENTY, ENOUGH = 0.95, 0.9  # the same: no remedy is looked for; nothing is learned
CLOSE = 0.02  # the same after longer attacks: pixel deflection hits 88 or 93 % by its stand-in
ALIKE, WORTH = 0.8, 0.5  # of the best gain: no worse than it, and worth a trial
TELLING = 3  # surrogates of a link that are tried at most
COSINE, MOST_DRAWS = 0.5, 16  # of a step's mean gradient with the true mean; draws for it
CONFIRM = 16  # forward passes on which an example's best points are compared


@dataclass(frozen=True)
class Plan:
    """A recipe, and what was measured on the way to it.

    notes: a sentence each, in the order in which things were found.
    passes: forward and backward passes a pilot image that planning took, in the mean; those of the
        networks that it trained are not among them.
    """

    recipe: Recipe
    notes: tuple[str, ...]
    passes: int


def plan(
    defense: Deployed,
    x: Tensor,
    goal: Tensor,
    threat: Threat,
    key: Key,
    *,
    budget: int = BUDGET,
    opponents: Opponents | None = None,
    folder: Path | None = None,
    on_note: Callable[[str], None] | None = None,
) -> Plan:
    """How to attack `defense` under `threat`, for at most `budget` passes an image.

    x (B, C, H, W) in [0, 1], goal (B,) labels, or targets where the threat is targeted, key: of
    the images; the first PILOTS are used (fewer of a budget under EACH for each of them, at least
    FEW), and PUPILS to learn from. budget: forward and backward
    passes, draws counted. opponents: its models, if any, are others to transfer points from.
    folder: where networks that imitate links are kept, which the recipe names; None trains none.
        A budget under TAUGHT has no such network, and one under THOROUGH has short trials only.
    on_note: is told each note as soon as it is made.
    Cost: for each link about 60 forwards a pilot and surrogate, then 7 short attacks and 3 longer;
    where those leave more than a tenth of the pilots, LESSONS training steps a link and as many
    longer attacks more, and up to 8 attacks of a sixth of the budget on the pilots that stand.
    """
    opponents = opponents or Opponents()
    planner = _Planner(defense, threat, opponents, x, goal, key, budget, on_note)
    ways, draws, last = [Way("best surrogates", {})], 1, None
    if threat.access != "gradients":
        planner.note(f"access to {threat.access} only: no surrogate was tried")
    else:
        ways = planner.ways()
        draws = planner.draws(ways[0])
        ways = planner.ranked(ways, draws)
        if budget >= TAUGHT and folder is not None and ways[0].won < ENOUGH:
            ways = planner.taught(ways, draws, folder)
        if planner.thorough and ways[0].won < PLENTY:
            last = planner.remedied(ways[0], draws)
            draws = last.draws
    schedule = Schedule(
        defense,
        threat,
        ways,
        draws,
        planner.confirm,
        planner.random,
        (*opponents.models,),
        budget,
        last,
    )
    recipe, left_out = schedule.recipe()
    return Plan(recipe, (*planner.notes, *left_out), round(planner.passes))


def pilots_for(budget: int) -> int:
    """How many images a plan for `budget` passes an image is tried on, the first of them.

    >>> pilots_for(BUDGET), pilots_for(1500)
    (16, 10)
    """
    return min(PILOTS, max(FEW, budget // EACH))


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
        budget: int,
        on_note: Callable[[str], None] | None,
    ) -> None:
        self.defense, self.threat = defense, threat
        pilots, self.thorough = pilots_for(budget), budget >= THOROUGH
        self.affordable = budget // TRIAL  # passes of a trial
        self.pupils, self.pupils_key = x[:PUPILS], key[:PUPILS].fold("plan", "learn")
        self.x, self.goal, self.key = x[:pilots], goal[:pilots], key[:pilots]
        # Batches are filled up to their size: of so few images, smaller ones cost less.
        self.opponents = replace(opponents, micro_batch=min(opponents.micro_batch, len(self.x)))
        self.random = defense.is_random((x.shape[1], x.shape[2], x.shape[3]))
        self.confirm = max(1, CONFIRM // defense.passes) if self.random else 1
        self.gains: dict[str, dict[str, float]] = {}  # of surrogates of a link
        self.won: dict[str, Tensor] = {}  # (pilots,) share of draws, of a way's last trial
        self.notes: list[str] = []
        self.on_note = on_note
        self.passes = 0.0

    def note(self, text: str) -> None:
        self.notes.append(text)
        if self.on_note:
            self.on_note(text)

    def ways(self) -> list[Way]:
        """The ways worth a trial: the best surrogate of each link, then one change at a time."""
        base = {VOTE: "one"} if VOTE in self.defense.viewable else {}
        ranking = {link: self.surrogates(link) for link in self._names()}
        best = {**base, **{link: names[0] for link, names in ranking.items()}}
        found = [Way("best surrogates", best)]
        # Two links that each move the image can look right one by one and be wrong together.
        led = [n for n in ranking if ranking[n][0] not in ("exact", "moved")]
        if len(led) > 1:
            found.append(Way("all as moved", {**best, **dict.fromkeys(led, "moved")}))
        same = [link for link in ranking if "identity" in self._known(link)]
        if len(same) == len(ranking) > 1 and {best[link] for link in same} != {"identity"}:
            # What one link does to the gradient another may undo.
            found.append(Way("all by identity", {**best, **dict.fromkeys(same, "identity")}))
        for link, names in ranking.items():
            found += [Way(f"{link} by {name}", {**best, link: name}) for name in names[1:]]
        bare = {**base, **dict.fromkeys(ranking, "skip")}
        partial = {f"without {link}": {**best, link: "skip"} for link in ranking}
        alone = {"classifier alone": bare} if ranking else {}
        left_out = {**(partial if len(ranking) > 1 else {}), **alone}
        return found + [Way(n, v, partial=True) for n, v in left_out.items() if self._runs(v)]

    def _runs(self, view: Mapping[str, str]) -> bool:
        """Whether the classifier takes what reaches it without the links that `view` leaves out."""
        try:
            Recipe("plan", view=view).seen(self.defense).logits(self.x[:1], self.key[:1])
        except (BesiegeError, RuntimeError, ValueError) as error:
            self.note(f"not seen with {view}: {error}")
            return False
        return True

    def surrogates(self, link: str) -> list[str]:
        """The surrogates of a link that lead somewhere: as the link ranks those that lead far."""
        names = list(dict.fromkeys([*self._known(link), "moved"]))
        if len(names) == 1:
            return names
        tested = self.tested(link, names)
        gains = {name: tested.gain(name) for name in names}
        self.gains[link] = {**gains, RANDOM: tested.gain(RANDOM)}
        told = ", ".join(f"{n} {gains[n]:+.2f}" for n in tested.ranking if n != RANDOM)
        self.note(f"{link}: loss gained by a step: {told}; at random {tested.gain(RANDOM):+.2f}")
        # Two of one gain are one, as the identity and straight-through: that which is named first.
        once = {f"{gains[n]:.3g}": n for n in reversed(names)}.values()
        ranked = sorted(once, key=lambda n: -gains[n])
        best = gains[ranked[0]]
        alike = [n for n in names if n in ranked and gains[n] >= ALIKE * best > 0]
        useful = [n for n in ranked if n not in alike and gains[n] > WORTH * max(best, 0)]
        return [*alike, *useful][:TELLING] or ranked[:1]

    def tested(self, link: str, names: Sequence[str]) -> Descent:
        """What single steps along surrogates of a link are worth."""
        self.passes += (1 + len(names) + 2) * 8 + 2 * 4 * len(names)
        return descent(
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

    def draws(self, way: Way) -> int:
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

    def ranked(self, ways: Sequence[Way], draws: int) -> list[Way]:
        """The ways by what a short attack through each is worth."""
        if len(ways) == 1 and not self.thorough:
            return list(ways)
        if untried := [way.name for way in ways[TRIED:]]:
            self.note(f"tried are {TRIED} ways, not {', '.join(untried)}")
        tried = [*self._compared(ways[:TRIED], draws, SHORT), *ways[TRIED:]]
        if tried[0].won >= SURE or not self.thorough:
            return tried
        # What gets a point across soonest is not always what gets most across.
        again = [way for way in ways if way.name in {t.name for t in tried[:KEPT]}]
        return [*self._compared(again, draws, LONGER, CLOSE), *tried[KEPT:]]

    def _compared(
        self, ways: Sequence[Way], draws: int, steps: int, luck: float = LUCK
    ) -> list[Way]:
        """The ways after an attack of so many steps through each, the best first.

        Those after one that wins all, or nearly, are not tried. luck: share of the pilots by which
        two may differ for nothing.
        """
        tried = list[Way]()
        for way in ways:
            tried.append(self._tried(way, draws, steps))
            self.note(f"{way.name}: {tried[-1].won:.0%} of the pilots in {steps} steps")
            if tried[-1].won >= SURE:
                break
        most = max(way.won for way in tried)
        # Of ways that no pilot tells apart the first is the one that was there before.
        tried.sort(key=lambda way: 0 if way.won >= most - luck else 1 - way.won)
        return [*tried, *ways[len(tried) :]]

    def taught(self, ways: Sequence[Way], draws: int, folder: Path) -> list[Way]:
        """The ways, and those through networks that learn here what links do, the best first."""
        best, found = ways[0], dict[str, Way]()
        size = max(1, PIXELS // (self.x.shape[2] * self.x.shape[3]))
        for link in self.defense.links:
            gains = self.gains.get(link.name, {})
            if gains.get("exact", 0) > max(0, ALIKE * max(gains.values(), default=0)):
                continue
            pupils, key, batch = self.pupils, self.pupils_key, min(16, size)
            # What is seen to move is followed, and the rest learned.
            follows = gains.get("moved", 0) > max(0, gains.get("identity", 0))
            network = imitate(
                link, pupils, key, steps=LESSONS, batch=batch, follows=follows
            ).network
            how = f"{LEARNED}:{write_imitator(network, folder)}"
            gain = self.tested(link.name, [how]).gain(how)
            self.note(f"{link.name}: a network learned it; a step along it gains {gain:+.2f}")
            found[link.name] = Way(f"{link.name} as learned", {**best.view, link.name: how})
        if len(found) > 1:
            views = {name: way.view[name] for name, way in found.items()}
            found["all"] = Way("all as learned", {**best.view, **views})
        if not found:
            return list(ways)
        return [*self._compared([best, *found.values()], draws, LONGER, CLOSE), *ways[1:]]

    def remedied(self, way: Way, draws: int) -> Recipe:
        """The settings that win most of the pilots that `way` leaves, all for as many passes."""
        stand = self.won[way.name].argsort(stable=True)[:HARD]
        stand = stand[self.won[way.name][stand] < PLENTY]
        before = Recipe(way.name, view=way.view, loss="margin", draws=draws)
        tried = remedies(before, self.affordable, random=self.random, targeted=self.threat.targeted)
        won = [float(self._won(one, stand).mean()) for one in tried]
        told = ", ".join(f"{one.name} {share:.0%}" for one, share in zip(tried, won, strict=True))
        self.note(f"of {len(stand)} pilots that stand: {told or 'no remedy can be afforded'}")
        return tried[won.index(max(won))] if tried else before

    def _tried(self, way: Way, draws: int, steps: int) -> Way:
        draws = max(1, min(draws, self.affordable // (2 * steps)))
        trial = Recipe("trial", view=way.view, loss="margin", steps=steps, draws=draws)
        self.won[way.name] = self._won(trial, torch.arange(len(self.x)))
        return replace(way, won=float(self.won[way.name].mean()))

    def _won(self, recipe: Recipe, rows: Tensor) -> Tensor:
        """(len(rows),) share of fresh draws on which an attack on these pilots wins."""
        x, goal, key = self.x[rows], self.goal[rows], self.key[rows]
        found = self._siege(recipe).attack(x, goal, key)
        meter, n = Meter(None), self.confirm
        whole = Oracle(
            self.defense, margin(), self.threat, meter, n, micro_batch=self.opponents.micro_batch
        )
        seen = whole(found.x, goal, key.fold("plan", "judged"), gradient=False)
        spent = (found.forwards + found.backwards).double().mean() + meter.forwards
        self.passes += float(spent) * len(rows) / len(self.x)
        return seen.won

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
