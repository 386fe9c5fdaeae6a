"""The tables of an experiment file, one class each; see `study.experiment`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, Self

from pydantic import Field, NonNegativeInt

from besiege.attacks.threat import ACCESS, BALLS, Threat
from besiege.core.entry import Catalog
from besiege.core.errors import BadSetting
from besiege.defenses.catalog import parse_chain
from besiege.defenses.defense import VOTES, Defense, Deployed
from besiege.defenses.ensemble import AVERAGES, Ensemble, Member
from besiege.defenses.transform import Transform
from besiege.models.classifier import Classifier
from besiege.study.experiment.catalogs import Catalogs
from besiege.study.experiment.places import respelled, respelled_chain
from besiege.study.experiment.schema import Number, Sourced, Table
from besiege.study.recipe import Recipe

# What an ensemble leaves to its members.
PLAIN = {"chain": "none", "vote": "one", "model": None}


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


class Guard(Table):
    """What stands before one classifier: a defense, or a member of an ensemble."""

    chain: str = Field(default="none", description='links in order, "fd + rdg:limit=0.15"')
    vote: str = Field(default="one", description='"one", "mean:draws=10" or "majority:draws=16"')
    model: str | None = Field(default=None, description="its own classifier, not that of [model]")

    def placed(self, change: Callable[[str], str]) -> Self:
        """The same with every path in it changed."""
        chain = respelled_chain(self.chain, change)
        model = None if self.model is None else respelled(self.model, change)
        return self.model_copy(update={"chain": chain, "model": model})


class MemberTable(Guard):
    """One member of an ensemble, in place of chain, vote and model of the defense."""

    weight: Number = Field(default=1.0, gt=0, description="share of the sum of all weights")


class DefenseTable(Guard):
    """One defense: a chain of transforms and a vote over draws, or several that answer together."""

    name: str
    of: Literal[AVERAGES] = Field(  # type: ignore[valid-type]
        default="logits", description="what the mean over members is of"
    )
    member: tuple[MemberTable, ...] = Field(
        default=(), description="members of an [ensemble](ensembles.md); none for a plain defense"
    )
    claim: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="robust accuracy claimed for it, as a share; [verdicts](judging.md) are on it",
    )

    @property
    def guards(self) -> tuple[Guard, ...]:
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

        def built(guard: Guard) -> Defense:
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
    passes: int | None = Field(
        default=None,
        ge=1,
        description="limit of passes (forward and backward, draws counted) an image; the budget of "
        "the recipe adaptive, 3000 if not given",
    )
    minutes: float | None = Field(
        default=None,
        gt=0,
        description="instead of passes: for all attackers of this threat, by timing a pass when "
        "the run begins",
    )
    defenses: tuple[str, ...] = Field(default=(), description="only these defenses; empty for all")

    def threat(self) -> Threat:
        """The threat that this table describes."""
        if self.passes is not None and self.minutes is not None:
            raise BadSetting("a threat has a limit of passes or of minutes, and both came.")
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
    threats: tuple[NonNegativeInt, ...] = Field(
        default=(), description="only these threats, counted from 0; empty for all"
    )

    def recipe(self, catalogs: Catalogs) -> Recipe:
        """The recipe that this table describes."""
        changes = self.model_dump(
            exclude={"kind", "defenses", "threats", "union"}, exclude_none=True
        )
        if self.union:
            changes["union"] = tuple(table.recipe(catalogs) for table in self.union)
        return catalogs.recipes.build(self.kind, **changes)

    def placed(self, change: Callable[[str], str]) -> Self:
        """The same with every path in it changed."""
        union = tuple(table.placed(change) for table in self.union)
        models = self.models and tuple(respelled(source, change) for source in self.models)
        view = self.view and {link: respelled(how, change) for link, how in self.view.items()}
        return self.model_copy(update={"models": models, "view": view, "union": union})


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
