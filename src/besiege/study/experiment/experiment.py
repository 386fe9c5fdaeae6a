"""Experiment files: one frozen schema for TOML, for `--set a.b=1` and for Python."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import tomli_w
from pydantic import BeforeValidator, Field, ValidationError

from besiege.attacks.catalog import load_attack
from besiege.attacks.loss import load_loss
from besiege.attacks.threat import Threat
from besiege.core.errors import BadSetting, BesiegeError, unknown
from besiege.core.files import existing
from besiege.core.foreign import paths_in
from besiege.defenses.catalog import parse_chain
from besiege.defenses.defense import STAGES, VOTE, VOTES
from besiege.study.experiment.catalogs import Catalogs, load_plugins
from besiege.study.experiment.complaints import explained
from besiege.study.experiment.overrides import override
from besiege.study.experiment.places import weights_in
from besiege.study.experiment.schema import Table
from besiege.study.experiment.tables import (
    PLAIN,
    Data,
    DefenseTable,
    EngineTable,
    Guard,
    Judge,
    Keep,
    Model,
    RecipeTable,
    ThreatTable,
)
from besiege.study.recipe import ADAPTIVE, Recipe


def _spec(value: object) -> object:
    """`data = "digits"` for `[data] source = "digits"`."""
    return {"source": value} if isinstance(value, str) else value


class CellSpec(NamedTuple):
    """One cell of the grid."""

    defense: DefenseTable
    place: int  # of the threat
    threat: Threat
    recipe: Recipe


class Experiment(Table):
    """Defenses x threats x recipes, on images, with a model."""

    name: str = "experiment"
    seed: int = 0
    plugins: tuple[Path, ...] = ()
    data: Annotated[Data, BeforeValidator(_spec)]
    model: Annotated[Model, BeforeValidator(_spec)]
    defense: tuple[DefenseTable, ...] = Field(min_length=1)
    threat: tuple[ThreatTable, ...] = Field(min_length=1)
    recipe: tuple[RecipeTable, ...] = Field(min_length=1)
    judge: Judge = Judge()
    keep: Keep = Keep()
    engine: EngineTable = EngineTable()
    text: str = Field(default="", exclude=True, description="the file as given")

    def resolved(self) -> dict[str, Any]:
        """Every setting with its value, for resolved.json."""
        return self.model_dump(mode="json")

    def written(self) -> str:
        """The experiment as TOML, without what is left at its default."""
        return tomli_w.dumps(self.model_dump(mode="json", exclude_defaults=True))

    @property
    def guards(self) -> tuple[Guard, ...]:
        """All defenses, with the members of ensembles in their place."""
        return tuple(guard for defense in self.defense for guard in defense.guards)

    @property
    def models(self) -> tuple[str, ...]:
        """Models beside that of [model]: of defenses, and those that recipes attack instead."""
        own = [guard.model for guard in self.guards if guard.model is not None]
        recipes = [table for r in self.recipe for table in (r, *r.union)]
        return tuple(sorted({*own, *(m for r in recipes for m in r.models or ())}))

    def files(self) -> list[Path]:
        """The user's own Python files that the experiment names, and weights inside chains."""
        chains = [guard.chain for guard in self.guards]
        python = [
            path for spec in (self.model.source, *chains, *self.models) for path in paths_in(spec)
        ]
        weights = [path for chain in chains for path in weights_in(chain)]
        return [*self.plugins, *python, *weights]

    def cells(self, catalogs: Catalogs) -> tuple[CellSpec, ...]:
        """The grid: every defense against every threat by every recipe, filters applied."""
        recipes = [(table, table.recipe(catalogs)) for table in self.recipe]
        return tuple(
            CellSpec(defense, i, threat.threat(), recipe)
            for defense in self.defense
            for i, threat in enumerate(self.threat)
            if not threat.defenses or defense.name in threat.defenses
            for table, recipe in recipes
            if not table.defenses or defense.name in table.defenses
            if not table.threats or i in table.threats
        )


def load_experiment(path: Path, overrides: Sequence[str] = ()) -> Experiment:
    """The experiment in a TOML file, with `overrides` such as "engine.batch=7" applied.

    Paths in the file count from its folder. Raises BadSetting or UnknownName, naming file, key,
    what was expected and what came; everything is checked before anything is loaded.
    """
    existing(path, "experiment", BadSetting)
    text = path.read_text()
    try:
        settings = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise BadSetting(f"{path} is not TOML: {error}.") from error
    return experiment_from(settings, overrides, home=path.parent, where=str(path), text=text)


def experiment_from(
    settings: Mapping[str, Any],
    overrides: Sequence[str] = (),
    *,
    home: Path | None = None,
    where: str = "the experiment",
    text: str = "",
) -> Experiment:
    """The experiment that `settings` describe; see `load_experiment`."""
    whole = override(settings, overrides)
    try:
        experiment = Experiment.model_validate({**whole, "text": text})
    except ValidationError as error:
        raise explained(error, Experiment, where) from error
    if home is not None:
        experiment = _rooted(experiment, home)
    _check(experiment, where)
    return experiment


def _rooted(experiment: Experiment, home: Path) -> Experiment:
    """The experiment with its paths counted from `home`."""

    def path(text: str) -> str:
        return str((home / Path(text).expanduser()).resolve())

    return experiment.model_copy(
        update={
            "plugins": tuple(Path(path(str(p))) for p in experiment.plugins),
            "data": experiment.data.placed(path),
            "model": experiment.model.placed(path),
            "defense": tuple(defense.placed(path) for defense in experiment.defense),
            "recipe": tuple(recipe.placed(path) for recipe in experiment.recipe),
        }
    )


@contextmanager
def _at(where: str, key: str) -> Iterator[None]:
    """Say in which file and under which key an error was met."""
    try:
        yield
    except BesiegeError as error:
        raise type(error)(f"{where}, {key}: {error}") from error


def _check(experiment: Experiment, where: str) -> None:
    """Build everything that needs no data, so that a misspelling fails before anything runs."""
    with _at(where, "plugins"):
        catalogs = load_plugins(experiment.plugins)
    links: dict[str, list[str]] = {}
    for i, defense in enumerate(experiment.defense):
        with _at(where, f"defense[{i}].name"):
            _unique(defense.name, links)
        links[defense.name] = []
        if defense.member and any(getattr(defense, k) != v for k, v in PLAIN.items()):
            raise BadSetting(
                f"{where}, defense[{i}]: {', '.join(PLAIN)} belong to the members of an ensemble: "
                "write them in each [[defense.member]]."
            )
        for j, guard in enumerate(defense.guards):
            place = f"defense[{i}].member[{j}]" if defense.member else f"defense[{i}]"
            with _at(where, f"{place}.chain"):
                chain = parse_chain(guard.chain, catalogs.transforms)
                links[defense.name] += [link.name for link in chain.links]
            with _at(where, f"{place}.vote"):
                VOTES.build(guard.vote)
    for i, threat in enumerate(experiment.threat):
        with _at(where, f"threat[{i}]"):
            _known(threat.defenses, links)
            threat.threat()
    seen: dict[tuple[str, int], dict[str, int]] = {}
    for i, table in enumerate(experiment.recipe):
        with _at(where, f"recipe[{i}]"):
            _known(table.defenses, links)
            if beyond := [i for i in table.threats if i >= len(experiment.threat)]:
                raise BadSetting(
                    f"threats = {beyond}: there are {len(experiment.threat)}, counted from 0."
                )
            recipe = table.recipe(catalogs)
            for name in table.defenses or links:
                for number in table.threats or range(len(experiment.threat)):
                    _unique(recipe.name, seen.setdefault((name, number), {}))
                    seen[name, number][recipe.name] = i
            for search in recipe.searches:
                if search.attack != ADAPTIVE:
                    attack = load_attack(search.attack, catalogs.attacks)
                    load_loss(search.loss or attack.loss, catalogs.losses)
                for name in table.defenses or links:
                    _view(search, name, links[name])


def _unique(name: str, taken: Mapping[str, Any]) -> None:
    if name in taken:
        raise BadSetting(f'the name "{name}" is used twice: tables could not tell them apart.')


def _known(names: Sequence[str], links: Mapping[str, Any]) -> None:
    for name in names:
        if name not in links:
            raise unknown("defense", name, links)


def _view(recipe: Recipe, defense: str, links: Sequence[str]) -> None:
    for link in recipe.view:
        if link not in (known := (*links, STAGES, VOTE)):
            error = unknown("link", link, known, where=f'view (of the defense "{defense}")')
            raise type(error)(f"{error} Name other defenses under `defenses` if this is not meant.")
