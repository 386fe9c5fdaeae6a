"""Experiment files: one frozen schema for TOML, for `--set a.b=1` and for Python."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import BeforeValidator, Field, NonNegativeInt, ValidationError

from besiege.attacks.catalog import load_attack
from besiege.attacks.loss import load_loss
from besiege.attacks.threat import ACCESS, BALLS, Threat
from besiege.core.entry import Catalog
from besiege.core.errors import BadSetting, BesiegeError, unknown
from besiege.core.files import existing
from besiege.core.foreign import paths_in
from besiege.defenses.catalog import parse_chain
from besiege.defenses.defense import STAGES, VOTES, Defense, Deployed
from besiege.defenses.ensemble import AVERAGES, Ensemble, Member
from besiege.defenses.transform import Transform
from besiege.models.classifier import Classifier
from besiege.study.catalogs import Catalogs, load_plugins
from besiege.study.complaints import explained
from besiege.study.overrides import override
from besiege.study.places import respelled, respelled_chain, weights_in
from besiege.study.recipe import Recipe
from besiege.study.schema import Number, Sourced, Table


def _spec(value: object) -> object:
    """`data = "digits"` for `[data] source = "digits"`."""
    return {"source": value} if isinstance(value, str) else value


_PLAIN = {"chain": "none", "vote": "one", "model": None}


class Data(Sourced):
    """Which images are attacked."""

    source: str = Field(description='an image set, "digits" or "packed:path=FILE"')
    n: int = Field(default=100, ge=0, description="how many images; 0 for all")
    start: int = Field(default=0, ge=0, description="number of the first image looked at")
    select: Literal["all", "correct"] = Field(
        default="all", description='"correct": only those that the bare classifier gets right'
    )
    targets: Literal["random", "given", "least-likely", "runner-up"] = Field(
        default="random",
        description="of targeted threats: drawn by key, those of the image set, or of all wrong "
        "labels the one that the bare classifier takes for least, or most, likely",
    )


class Model(Sourced):
    """The classifier behind every defense."""

    source: str = Field(
        description='a model, "digits-cnn", "file:WEIGHTS.safetensors" or "onnx:FILE"'
    )


class _Guard(Table):
    chain: str = Field(default="none", description='links in order, "fd + rdg:limit=0.15"')
    vote: str = Field(default="one", description='"one", "mean:draws=10" or "majority:draws=16"')
    model: str | None = Field(default=None, description="its own classifier, not that of [model]")

    def placed(self, change: Callable[[str], str]) -> Self:
        """The same with every path in it changed."""
        chain = respelled_chain(self.chain, change)
        model = None if self.model is None else respelled(self.model, change)
        return self.model_copy(update={"chain": chain, "model": model})


class MemberTable(_Guard):
    """One member of an ensemble, in place of chain, vote and model of the defense."""

    weight: Number = Field(default=1.0, gt=0, description="share of the sum of all weights")


class DefenseTable(_Guard):
    """One defense: a chain of transforms and a vote over draws, or several that answer together."""

    name: str
    of: Literal[AVERAGES] = Field(  # type: ignore[valid-type]
        default="logits", description="what the mean over members is of"
    )
    member: tuple[MemberTable, ...] = Field(
        default=(), description="members of an [ensemble](ensembles.md); none for a plain defense"
    )

    @property
    def guards(self) -> tuple[_Guard, ...]:
        """The members, or itself alone."""
        return self.member or (self,)

    def placed(self, change: Callable[[str], str]) -> Self:
        """The same with every path in it changed, those of the members too."""
        members = tuple(member.placed(change) for member in self.member)
        return super().placed(change).model_copy(update={"member": members})

    def deployed(
        self, transforms: Catalog[Transform], classifiers: Mapping[str | None, Classifier]
    ) -> Deployed:
        """The defense that this table describes; classifiers: by their source, None for [model]."""

        def built(guard: _Guard) -> Defense:
            chain = parse_chain(guard.chain, transforms)
            return Defense(chain, classifiers[guard.model], VOTES.build(guard.vote))

        if not self.member:
            return built(self)
        return Ensemble(tuple(Member(built(m), m.weight) for m in self.member), self.of)

    def record(self) -> dict[str, Any]:
        """What a run folder says of it."""
        if self.member:
            members = [member.model_dump(mode="json") for member in self.member]
            chain = " & ".join(member.chain for member in self.member)
            return {"chain": chain, "vote": f"mean of {self.of}", "members": members}
        own = {} if self.model is None else {"model": self.model}
        return {"chain": self.chain, "vote": self.vote, **own}


class ThreatTable(Table):
    """What the attackers may do."""

    ball: str = Field(default="linf", description="the norm, see `besiege list balls`")
    eps: Number = Field(ge=0, description='radius on the [0, 1] scale, a number or "8/255"')
    targeted: bool = False
    access: Literal[ACCESS] = "gradients"  # type: ignore[valid-type]
    eight_bit: bool = Field(default=False, description="points are rounded to 8 bit before judging")
    passes: int | None = Field(default=None, ge=1, description="limit of passes an image")
    defenses: tuple[str, ...] = Field(default=(), description="only these defenses; empty for all")

    def threat(self) -> Threat:
        """The threat that this table describes."""
        ball = BALLS.build(self.ball, eps=self.eps)
        return Threat(ball, self.targeted, self.access, self.eight_bit, self.passes)


class RecipeTable(Table):
    """One attacker: a recipe of the catalog, with any of its settings changed."""

    kind: str = Field(description="the recipe, see `besiege list recipes`")
    name: str | None = Field(default=None, description="how tables call it; its kind if not given")
    attack: str | None = None
    links: str | None = None
    view: dict[str, str] | None = None
    models: tuple[str, ...] | None = None
    joined: str | None = None
    draws: int | None = None
    cosine: float | None = None
    most_draws: int | None = None
    average: str | None = None
    gradients: str | None = None
    precision: str | None = None
    loss: str | None = None
    steps: int | None = None
    restarts: int | None = None
    check_whole: bool | None = None
    believe_first: bool | None = None
    confirm: int | None = None
    union: tuple[RecipeTable, ...] = Field(
        default=(), description="recipes one after the other, each on what the former left"
    )
    defenses: tuple[str, ...] = Field(default=(), description="only these defenses; empty for all")

    def recipe(self, catalogs: Catalogs) -> Recipe:
        """The recipe that this table describes."""
        changes = self.model_dump(exclude={"kind", "defenses", "union"}, exclude_none=True)
        if self.union:
            changes["union"] = tuple(table.recipe(catalogs) for table in self.union)
        return catalogs.recipes.build(self.kind, **changes)

    def placed(self, change: Callable[[str], str]) -> Self:
        """The same with every path in it changed."""
        union = tuple(table.placed(change) for table in self.union)
        models = self.models and tuple(respelled(source, change) for source in self.models)
        return self.model_copy(update={"models": models, "union": union})


class Judge(Table):
    """How points are scored."""

    draws: int = Field(default=20, ge=1, description="fresh draws an image and cell")
    every: int = Field(
        default=0, ge=0, description="judge the point of every n-th step too; 0 for never"
    )
    step_draws: int = Field(default=4, ge=1, description="draws an image for that")


class Keep(Table):
    """What is kept beside the rows."""

    images: NonNegativeInt | Literal["all"] = Field(
        default=4, description='of how many examples the images, or "all"'
    )
    traces: bool = Field(default=True, description="whether the figures of each step")


class EngineTable(Table):
    """How the work is cut up and where it is done; none of it but micro_batch changes a row."""

    kind: Literal["local", "ray"] = Field(
        default="local", description="this machine, or [Ray](engines.md)"
    )
    address: str | None = Field(
        default=None, description='of a Ray cluster, HOST:PORT or "auto"; else Ray starts here'
    )
    batch: int = Field(default=64, ge=1, description="images attacked together")
    micro_batch: int = Field(
        default=32, ge=1, description="rows that the network sees at once, always"
    )
    workers: int = Field(default=1, ge=1, description="processes; a cluster has its own number")
    threads: int = Field(default=1, ge=1, description="threads a process")
    device: str = "cpu"


class CellSpec(NamedTuple):
    """One cell of the grid."""

    defense: DefenseTable
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

    @property
    def guards(self) -> tuple[_Guard, ...]:
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
        recipes = [(r.defenses, r.recipe(catalogs)) for r in self.recipe]
        return tuple(
            CellSpec(defense, threat.threat(), recipe)
            for defense in self.defense
            for threat in self.threat
            if not threat.defenses or defense.name in threat.defenses
            for only, recipe in recipes
            if not only or defense.name in only
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
        if defense.member and any(getattr(defense, k) != v for k, v in _PLAIN.items()):
            raise BadSetting(
                f"{where}, defense[{i}]: {', '.join(_PLAIN)} belong to the members of an ensemble: "
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
    seen: dict[str, list[str]] = {}
    for i, table in enumerate(experiment.recipe):
        with _at(where, f"recipe[{i}]"):
            _known(table.defenses, links)
            recipe = table.recipe(catalogs)
            _unique(recipe.name, seen)
            seen[recipe.name] = []
            for search in recipe.searches:
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
        if link not in (known := (*links, STAGES)):
            error = unknown("link", link, known, where=f'view (of the defense "{defense}")')
            raise type(error)(f"{error} Name other defenses under `defenses` if this is not meant.")
