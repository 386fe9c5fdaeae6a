"""An experiment whose adaptive attackers are worked out: recipes that can be read and run again."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from besiege.core.errors import BadRun, several
from besiege.core.files import write_whole
from besiege.core.key import Key
from besiege.core.store import PLANS
from besiege.study.adaptive.planner import BUDGET, PUPILS, pilots_for, plan
from besiege.study.engines.engine import Engine, Evaluate, Task, threads
from besiege.study.engines.local import Processes
from besiege.study.experiment.catalogs import Catalogs
from besiege.study.experiment.experiment import Experiment
from besiege.study.experiment.tables import RecipeTable
from besiege.study.prepared import Prepared, prepare
from besiege.study.recipe import ADAPTIVE, Recipe
from besiege.study.shard import Examples
from besiege.study.siege import Siege

Told = Callable[[str], None]  # a title, when a plan is begun and when it has found something
TRAINED = ": a network learned it"  # what a plan notes of a network that it trained


def adapts(experiment: Experiment, prepared: Prepared) -> bool:
    """Whether it has an attacker that is yet to be worked out."""
    return any(siege.recipe.attack == ADAPTIVE for siege in prepared.sieges.values())


def planned(
    experiment: Experiment,
    prepared: Prepared,
    ids: list[int],
    folder: Path,
    told: Told | None = None,
) -> tuple[Experiment, dict[str, Any]]:
    """The experiment with a union of recipes for each defense and threat in place of an adaptive
    one, and the plans by the cells that asked for them.

    ids: of the images; plans are made on the first, as many at a time as the experiment has local
    workers. folder: of the run; each plan is kept there as soon as it is made, with the networks
    that it names, and one that is there is taken as it is. told: what is begun and found.
    Raises BadRun where some could not be made, when all others are.
    """
    cells = [cell for cell, siege in prepared.sieges.items() if siege.recipe.attack == ADAPTIVE]
    tasks = [Task(c, tuple(ids[:PUPILS])) for c in cells if not _kept(folder, c).exists()]
    settings = experiment.engine
    workers = settings.workers if settings.kind == "local" else 1  # others may see no `folder`
    if min(workers, len(tasks)) > 1:
        engine = Processes(min(workers, len(tasks)), settings.threads)
        _side_by_side(engine, partial(_worker, experiment, folder), tasks, prepared, told)
    with threads(settings.threads):
        plans = {cell: _plan(prepared, folder, told, cell, ids[:PUPILS]) for cell in cells}
    tables = [
        _table(plan, folder).model_copy(update=prepared.place(cell)) for cell, plan in plans.items()
    ]
    others = [t for t in experiment.recipe if t.recipe(prepared.catalogs).attack != ADAPTIVE]
    return experiment.model_copy(update={"recipe": (*others, *tables)}), plans


def _side_by_side(
    engine: Engine,
    build: Callable[[], Evaluate],
    tasks: Sequence[Task],
    prepared: Prepared,
    told: Told | None,
) -> None:
    """Make plans in several processes, all that can be made."""
    _told(told, f"planning {len(tasks)} attacks")
    failed = []
    with closing(engine.run(build, tasks)) as outcomes:
        for done, outcome in enumerate(outcomes, 1):
            title = prepared.title(outcome.task.cell)
            _told(told, f"{title} · planned, {done} of {len(tasks)}")
            if outcome.error:
                failed.append(f"{title}: {outcome.error}")
    if failed:
        raise BadRun(
            f"{len(failed)} of {len(tasks)} attacks could not be worked out; the others' plans are "
            f"kept. The same command again goes on.\n  {several(failed)}"
        )


def _worker(experiment: Experiment, folder: Path) -> Evaluate:
    """What a worker process makes plans with."""
    prepared = prepare(experiment)
    return lambda task: _plan(prepared, folder, None, task.cell, list(task.ids))


def _plan(
    prepared: Prepared, folder: Path, told: Told | None, cell: str, ids: list[int]
) -> dict[str, Any]:
    """The plan for one cell, made if the folder lacks it."""
    tell = partial(_told, told, f"{prepared.title(cell)} · planning")
    make = partial(_made, prepared, prepared.sieges[cell], ids, folder, tell)
    return kept_plan(folder, cell, make)


def kept_plan(folder: Path, cell: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The plan that a run folder has for a cell; if none, what `make` returns, which is kept."""
    kept = _kept(folder, cell)
    if not kept.exists():
        write_whole(kept, json.dumps(make(), indent=1).encode())
    found: dict[str, Any] = json.loads(kept.read_text())
    return found


def _kept(folder: Path, cell: str) -> Path:
    return folder / PLANS / f"{cell}.json"


def recipe_in(plan: Mapping[str, Any], folder: Path) -> Recipe:
    """The recipe that a plan kept in `folder` came to; it names nothing of a user's own."""
    return _table(plan, folder).recipe(Catalogs())


def _table(plan: Mapping[str, Any], folder: Path) -> RecipeTable:
    return RecipeTable.model_validate(plan["recipe"]).placed(lambda name: str(folder / name))


def _told(told: Told | None, title: str, note: str = "") -> None:
    if told:
        told(f"{title}: {note}" if note else title)


def _made(
    prepared: Prepared, siege: Siege, ids: list[int], folder: Path, tell: Told
) -> dict[str, Any]:
    """The plan of one siege of an experiment."""
    tell("")
    images = prepared.examples(tuple(ids), siege.threat)
    at_hand = siege.opponents.models
    models = {name: at_hand[name] for name in siege.recipe.models or ()}
    asked = replace(siege, opponents=replace(siege.opponents, models=models))
    return made_plan(asked, images, prepared.experiment.seed, folder, tell)


def made_plan(
    siege: Siege, examples: Examples, seed: int, folder: Path, told: Told
) -> dict[str, Any]:
    """A plan as JSON: its recipe as a table with paths from `folder`, its notes and its cost.

    siege: by an adaptive recipe, whose name the found one has; all its opponents' models are tried.
    examples: to plan on. folder: of the run. told: each note, as soon as it is made.
    """
    goal = examples.target if siege.threat.targeted else examples.label
    key = Key.root(seed, list(examples.ids), examples.x.device)
    budget = siege.threat.passes or BUDGET
    with torch.inference_mode(False):
        found = plan(
            siege.defense,
            examples.x,
            goal,
            siege.threat,
            key,
            budget=budget,
            opponents=siege.opponents,
            folder=folder / PLANS,
            on_note=told,
        )
    whole = RecipeTable.model_validate({**as_table(found.recipe), "name": siege.recipe.name})
    return {
        "recipe": within(whole, folder).model_dump(mode="json", exclude_defaults=True),
        "notes": list(found.notes),
        "passes": found.passes,
        "pilots": min(len(examples.ids), pilots_for(budget)),
        "networks": sum(TRAINED in note for note in found.notes),
    }


def within(table: RecipeTable, folder: Path) -> RecipeTable:
    """The table with paths into `folder` counted from there."""

    def inside(path: str) -> str:
        return str(Path(path).relative_to(folder)) if Path(path).is_relative_to(folder) else path

    return table.placed(inside)


def as_table(recipe: Recipe) -> dict[str, Any]:
    """The keys of a `[[recipe]]` table that describe `recipe`.

    >>> as_table(Recipe("quick", steps=10))
    {'kind': 'bpda', 'name': 'quick', 'steps': 10}
    """
    plain = Recipe("plain")
    own = {f.name: getattr(recipe, f.name) for f in fields(Recipe)}
    changed = {k: v for k, v in own.items() if v != getattr(plain, k)}
    if recipe.union:
        changed = {**changed, "union": [as_table(one) for one in recipe.union]}
        del changed["attack"]
        return {"kind": "union", **changed}
    if "view" in changed:
        changed["view"] = dict(recipe.view)
    return {"kind": "bpda", **changed}
