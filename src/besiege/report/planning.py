"""What adaptive attackers measured before they attacked: what it cost, and why they came so."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from besiege.report.cells import goal_of

# As the notes of a plan say it; see study.adaptive.planner.
TRIAL = re.compile(r"(.+): (\d+)% of the pilots in (\d+) steps")
STEP = "{link}: loss gained by a step: "
REST, STAND = "the rest, ", "pilots that stand: "
LEARNED, KEPT, SKIP, VOTE = "learned:", "frozen:", "skip", "vote"  # in the views of recipes
RIVALS = 2  # other ways that are told beside the one that won


class Trial(NamedTuple):
    """What a short attack on the pilots was worth, in per cent of them."""

    way: str
    won: int
    steps: int

    def told(self, but: int) -> str:
        """In words, with its steps unless they are as many as `but`."""
        return f"{self.way} {self.won} %{'' if self.steps == but else f' in {self.steps}'}"


@dataclass(frozen=True)
class PlanNotes:
    """What an adaptive attacker measured on its way to its searches."""

    defense: str
    threat: str
    goal: str
    recipe: str
    notes: tuple[str, ...]
    passes: int  # of each pilot image, in the mean
    pilots: int = 0  # how many they are; 0 where the folder does not say
    networks: int = 0  # that were trained besides
    views: Mapping[str, Mapping[str, str]] = field(default_factory=dict)  # of each search

    @property
    def title(self) -> str:
        """Whose plan it is."""
        return f"how {self.recipe} came to attack {self.defense}, {self.threat} {self.goal}"

    @property
    def cost(self) -> str:
        """Its passes, in words; "" where it took none."""
        if not self.passes:
            return ""
        where = f"each of {self.pilots}" if self.pilots else "each pilot image"
        some = f", and training {self.networks} network{'s' if self.networks > 1 else ''}"
        return f"{self.passes:,} on {where}{some if self.networks else ''}"

    def over(self, n: int) -> float:
        """Its passes an image, if n images share them; not a number where that is not known."""
        if self.passes and not self.pilots:
            return math.nan
        return self.passes * self.pilots / n

    @property
    def trials(self) -> tuple[Trial, ...]:
        """Of the ways to see the whole, in the order in which they were tried."""
        found = (TRIAL.fullmatch(note) for note in self.notes)
        return tuple(Trial(m[1], int(m[2]), int(m[3])) for m in found if m)

    def reason(self, search: str) -> str:
        """Why `search` sees the defense as it does, by what was measured; "" where none was."""
        if search not in self.views:
            return ""
        measured = self._tried(search) or "; ".join(self._stepped(search))
        told = "; ".join(filter(None, [measured, self._remedy(search)]))
        seen = _seen(self.views[search])
        return f"{search} sees {seen}: {told}" if told else ""

    def _tried(self, search: str) -> str:
        """What the trial of its way was worth, beside others, of as many steps if there are."""
        last = {trial.way: trial for trial in self.trials}
        view = self.views[search]
        alike = [search, *(name for name, how in self.views.items() if how == view)]
        own = next((last[way] for name in alike if (way := _way(name)) in last), None)
        if own is None:
            return ""
        others = [t for t in last.values() if t.way != own.way]
        best = sorted(others, key=lambda t: (t.steps != own.steps, -t.won))[:RIVALS]
        told = (t.told(but=own.steps) for t in best)
        beside = ", ".join(told) or "no other was tried"
        return f"{own.won} % of the pilots fell to it in {own.steps} steps ({beside})"

    def _remedy(self, search: str) -> str:
        """What the settings of the last search won of the pilots that stood, beside others."""
        if not search.startswith(REST):
            return ""
        own = f"{_way(search)} "
        return next((n for n in self.notes if STAND in n and own in n.partition(STAND)[2]), "")

    def _stepped(self, search: str) -> list[str]:
        """What the descent test said of the links that it sees."""
        starts = tuple(STEP.format(link=link) for link in self.views[search])
        return [note for note in self.notes if note.startswith(starts)] if starts else []


Place = tuple[str, str, str, str]  # defense, threat, goal, recipe


def plans_of(resolved: Mapping[str, Any]) -> tuple[PlanNotes, ...]:
    """Those that a run folder keeps; folders of older versions do not say whose they are."""
    return tuple(_notes_of(p) for p in resolved.get("plans", {}).values() if "defense" in p)


def by_place(plans: Iterable[PlanNotes]) -> dict[Place, PlanNotes]:
    """The plans by what they are of."""
    return {(plan.defense, plan.threat, plan.goal, plan.recipe): plan for plan in plans}


def _notes_of(plan: Mapping[str, Any]) -> PlanNotes:
    union: Sequence[Mapping[str, Any]] = plan["recipe"].get("union", ())
    return PlanNotes(
        defense=plan["defense"],
        threat=plan["threat"],
        goal=goal_of(plan["targeted"]),
        recipe=plan["recipe"]["name"],
        notes=tuple(plan["notes"]),
        passes=plan["passes"],
        pilots=plan.get("pilots", 0),
        networks=plan.get("networks", 0),
        views={one["name"]: one.get("view") or {} for one in union},
    )


def _way(search: str) -> str:
    """The way that a search is named after: "2 apgd, rdg by moved" takes "rdg by moved"."""
    return search.partition(", ")[2]


def _seen(view: Mapping[str, str]) -> str:
    """A view in words."""
    return ", ".join(_link(link, how) for link, how in view.items()) or "the defense as it is"


def _link(link: str, how: str) -> str:
    if link == VOTE:
        return f"{how} draw of the vote"
    if how == SKIP:
        return f"past {link}"
    if how.startswith(LEARNED):
        return f"{link} by a network that learned it"
    kept = how.startswith(KEPT)
    return f"{link} by {how.removeprefix(KEPT)}{' with one draw kept' if kept else ''}"
