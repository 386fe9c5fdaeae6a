"""A siege of a defense that is in memory: worked out, run into a folder, and resumed there."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from besiege.attacks.threat import Threat
from besiege.core.key import Key
from besiege.core.store import RunFolder
from besiege.defenses.defense import Deployed
from besiege.models.sources import weights_hash
from besiege.study.adaptive.planned import kept_plan, made_plan, recipe_in
from besiege.study.budget import seconds_a_pass, settled
from besiege.study.content import content
from besiege.study.evidence.aside import FIRST
from besiege.study.evidence.examine import examine_run
from besiege.study.experiment.written import settings_toml
from besiege.study.judge import Judging
from besiege.study.progress import Event
from besiege.study.recipe import ADAPTIVE, GIVEN, NONE, Recipe
from besiege.study.record import cell_hash, describe, environment, portable
from besiege.study.shard import Examples, point_hash, siege_batch
from besiege.study.siege import Opponents, Siege
from besiege.study.until import Told, looks, told

BATCH = 64  # images between two events, and between two shards
KEPT = 4  # images whose points are kept


@dataclass(frozen=True)
class Case:
    """What is attacked, for what, and how it is judged."""

    defense: Deployed
    examples: Examples
    threat: Threat
    opponents: Opponents
    judging: Judging
    seed: int

    @property
    def key(self) -> Key:
        """The root of each example."""
        return Key.root(self.seed, list(self.examples.ids), self.examples.x.device)

    @property
    def goal(self) -> Tensor:
        """(B,) labels, or targets."""
        return self.examples.target if self.threat.targeted else self.examples.label

    @cached_property
    def fingerprint(self) -> dict[str, Any]:
        """All that a cell is named by beside its settings."""
        own = self.examples
        pixels = torch.cat([own.x.flatten().double(), own.label.double()]).cpu().numpy()
        return {
            "seed": self.seed,
            "weights": weights_hash(*(part.classifier for part in self.defense.parts)),
            "models": {name: weights_hash(m) for name, m in self.opponents.models.items()},
            "chain": " & ".join(content(part.chain) for part in self.defense.parts),
            "images": hashlib.sha256(pixels.tobytes()).hexdigest(),
            "targets": own.target.tolist(),
            "points": None if own.points is None else [point_hash(p) for p in own.points],
        }

    def siege(self, recipe: Recipe) -> Siege:
        """The case under one recipe."""
        return Siege(self.defense, recipe, self.threat, self.opponents)

    def record(self, siege: Siege) -> dict[str, Any]:
        """What resolved.json says of it."""
        name = self.defense.name
        how = {"defense": name, "chain": name, "vote": self.defense.counting}
        found = describe(siege, self.judging, **how)
        return {"cell": cell_hash(portable(found), self.fingerprint), **found}

    def timed(
        self, recipes: Sequence[Recipe], minutes: float, out: Path
    ) -> tuple[Case, list[dict[str, Any]]]:
        """The case with as many passes as fit into `minutes`, and the budgets as a folder has them.

        out: a run folder, whose earlier budget holds if it has one.
        """
        own = self.examples

        def seconds() -> float:
            args = self.defense, own.x, self.goal, self.threat, self.key, self.opponents
            return seconds_a_pass(*args)

        asked = {"threat": 0, "title": self.threat.name, "minutes": minutes}
        attackers = sum(recipe.attack != NONE for recipe in recipes)
        known = RunFolder(out).resolved().get("budgets", ())
        random = self.defense.is_random((own.x.shape[1], own.x.shape[2], own.x.shape[3]))
        found = settled(
            asked, known, lambda: [seconds()] * attackers, len(own.ids), self.judging.draws, random
        )
        return replace(self, threat=replace(self.threat, passes=found["passes"])), [found]


def run_case(
    path: Path,
    case: Case,
    recipes: Sequence[Recipe],
    said: Mapping[str, Any],
    *,
    minutes: float | None = None,
    until: float | None = None,
    on_event: Callable[[Event], None] | None = None,
) -> list[str]:
    """Attack and judge what the folder at `path` lacks; what is known at the end, in words.

    recipes: an adaptive one is worked out, unless the folder has its plan. said: what else
    resolved.json holds. minutes: for all recipes together, in place of the threat's limit.
    until: see `study.until`.
    """
    if minutes is not None:
        case, budgets = case.timed(recipes, minutes, path)
        said = {**said, "budgets": budgets}
    runner = _Runner(path, case, on_event)
    sieges, plans = zip(*(runner.worked(recipe) for recipe in recipes), strict=True)
    asked = recipes, case.threat, case.seed, case.judging.draws, path
    found = [siege.recipe for siege in sieges], *asked[1:]
    texts = settings_toml(*asked), settings_toml(*found) if any(plans) else ""
    known: tuple[Told, ...] = ()
    for ids in looks(case.examples.ids, until):
        runner.run(sieges, plans, ids, said, texts)
        known = () if until is None else told(path, until)
        if known and all(one.stop for one in known):
            break
    return [str(one) for one in known]


class _Runner:
    """One case and its folder."""

    def __init__(self, path: Path, case: Case, on_event: Callable[[Event], None] | None) -> None:
        self.path, self.case, self.on_event = path, case, on_event
        self.began = time.perf_counter()

    def tell(self, cell: str, what: str, done: int, total: int) -> None:
        if self.on_event:
            threat = self.case.threat
            goal = "targeted" if threat.targeted else "untargeted"
            title = f"{self.case.defense.name} · {threat.name} {goal} · {what}"
            seconds = time.perf_counter() - self.began
            self.on_event(Event(cell, title, done, total, seconds))

    def worked(self, recipe: Recipe) -> tuple[Siege, dict[str, Any] | None]:
        """The siege by a recipe, worked out where that is yet to be done, and its plan."""
        asked = self.case.siege(recipe)
        if recipe.attack != ADAPTIVE:
            return asked, None
        record = self.case.record(asked)
        made = kept_plan(self.path, record["cell"], lambda: self._plan(asked))
        where = {name: record[name] for name in ("defense", "threat", "targeted")}
        return self.case.siege(recipe_in(made, self.path)), {**made, **where}

    def _plan(self, asked: Siege) -> dict[str, Any]:
        case, title = self.case, f"{asked.recipe.name} · planning"
        self.tell("", title, 0, 0)

        def note(text: str) -> None:
            self.tell("", f"{title}: {text}", 0, 0)

        return made_plan(asked, case.examples, case.seed, self.path, note)

    def run(
        self,
        sieges: Sequence[Siege],
        plans: Sequence[dict[str, Any] | None],
        ids: Sequence[int],
        said: Mapping[str, Any],
        texts: tuple[str, str],
    ) -> None:
        """Attack and judge what the folder lacks of the examples `ids`.

        plans: of sieges, None for those that needed none. texts: of experiment.toml, planned.toml.
        """
        case = self.case
        records = {record["cell"]: record for record in map(case.record, sieges)}
        by_cell = dict(zip(records, sieges, strict=True))
        made = {cell: plan for cell, plan in zip(records, plans, strict=True) if plan}
        resolved = {**said, "cells": [*records.values()], "ids": list(ids)}
        if made:
            resolved["plans"] = made
        with RunFolder.open(self.path) as folder:
            folder.write_experiment(texts[0], resolved, environment(str(case.examples.x.device)))
            if texts[1]:
                folder.write_planned(texts[1])
            done, total = 0, len(ids) * len(by_cell)
            for cell, there in folder.finished(by_cell):
                siege = by_cell[cell]
                missing = [i for i in ids if i not in there]
                done += len(ids) - len(missing)
                for start in range(0, len(missing), BATCH):
                    self.tell(cell, siege.recipe.name, done, total)
                    some = missing[start : start + BATCH]
                    part = self._part(some, given=siege.recipe.attack == GIVEN)
                    keep = [i for i in some if i in missing[:KEPT]]
                    shard = siege_batch(
                        cell, siege, part, case.seed, case.judging, keep=keep, first=ids[:FIRST]
                    )
                    folder.write_shard(shard.rows, shard.traces, shard.images)
                    done += len(some)
            self.tell("", "checks", done, total)
        examine_run(self.path)

    def _part(self, ids: list[int], given: bool) -> Examples:
        """These examples, with the points that were given for them if these are judged."""
        own = self.case.examples
        at = torch.tensor(ids, device=own.x.device)
        points = own.points[at] if given and own.points is not None else None
        return Examples(ids, own.x[at], own.label[at], own.target[at], points)
