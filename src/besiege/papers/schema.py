"""The file of one published table or figure: what it says, how it was made, how it should be."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import BeforeValidator, Field

from besiege.core.errors import BadSetting, one_of
from besiege.study.experiment.schema import Number, Table
from besiege.study.experiment.tables import (
    Data,
    DefenseTable,
    EngineTable,
    Judge,
    Model,
    RecipeTable,
    ThreatTable,
)

AS_PUBLISHED, CORRECT = "as_published", "correct"
COLUMNS = (AS_PUBLISHED, CORRECT)
AT_LEAST, AT_MOST = ">=", "<="
PERCENT: Final = "%"


def _source(value: object) -> object:
    return {"source": value} if isinstance(value, str) else value


class WantedData(Data):
    """Which images; without a source the user has to name them."""

    source: str = ""


class WantedModel(Model):
    """Which classifier; without a source the user has to name it."""

    source: str = ""


class Quantity(Table):
    """What a column of the published table holds, and what is measured for it."""

    name: str
    unit: Literal["%", ""] = PERCENT
    digits: int = Field(default=1, ge=0, description="decimals shown")
    within: Number = Field(default=0, ge=0, description="how far a value may be off, as read")
    as_published: str = Field(description="the measure that the paper's protocol takes")
    correct: str = Field(description="the measure that is right")

    @property
    def scale(self) -> float:
        """What a measured value is multiplied by to be printed."""
        return 100.0 if self.unit else 1.0


class Column(Table):
    """One way to get the figures: an experiment without images and model."""

    heading: str = Field(description="its head in the table")
    says: str = Field(default="", description="what it is, in a sentence")
    faults: tuple[str, ...] = Field(
        default=(), description="what is wrong with it, a sentence each"
    )
    defense: tuple[DefenseTable, ...] = Field(
        default=(), description="none for those of as_published"
    )
    threat: ThreatTable = ThreatTable(eps=0.0)
    recipe: tuple[RecipeTable, ...] = Field(min_length=1)
    judge: Judge = Judge()


class Answers(Table):
    """Which recipe of each column answers a row, by its name."""

    as_published: str | None = None
    correct: str | None = None


class Row(Table):
    """One line of the published table."""

    name: str
    defense: str | None = Field(default=None, description="its name in the columns; `name` if none")
    recipe: Answers = Field(
        default=Answers(), description="where a column has several for the defense"
    )
    published: dict[str, Number] = Field(default_factory=dict, description="value by quantity")

    @property
    def guarded(self) -> str:
        """The name of its defense."""
        return self.defense or self.name


class Claim(Table):
    """What the paper says of a row, as an inequality."""

    says: str = Field(description="in a sentence")
    row: str
    quantity: str
    sense: Literal[">=", "<="] = Field(description='">=" at least, "<=" at most')
    value: Number = Field(default=0, description="in the unit of the quantity")
    than: str | None = Field(
        default=None, description="another row: the claim is of the difference to it"
    )
    side: int | None = Field(default=None, description="testable on images of this side only")
    untestable: str = Field(default="", description="why it cannot be tested here at all")


class Quick(Table):
    """What `--quick` changes, so that the command can be seen at work in a minute or two."""

    rows: tuple[str, ...] = Field(default=(), description="these rows only; none for all")
    set: tuple[str, ...] = Field(default=(), description="changes as for `--set`")


class PaperFile(Table):
    """One published table or figure."""

    title: str
    paper: str = Field(description="authors, year, where to find it")
    part: str = Field(description='"figure 3"')
    on: str = Field(description="the network and images that its figures are of")
    read: str = Field(description="how its figures were read, and how surely")
    notes: tuple[str, ...] = Field(
        default=(), description="what a reader must know, a sentence each"
    )
    needs: str = Field(default="", description="which images and model to give")
    seed: int = 0
    data: Annotated[WantedData, BeforeValidator(_source)] = WantedData()
    model: Annotated[WantedModel, BeforeValidator(_source)] = WantedModel()
    engine: EngineTable = EngineTable()
    quantity: tuple[Quantity, ...] = Field(min_length=1)
    as_published: Column
    correct: Column
    row: tuple[Row, ...] = Field(min_length=1)
    claim: tuple[Claim, ...] = ()
    quick: Quick = Quick()

    def column(self, which: str) -> Column:
        """The column `as_published` or `correct`."""
        found: Column = getattr(self, which)
        return found

    def defenses(self, which: str) -> tuple[DefenseTable, ...]:
        """Those of a column."""
        return self.column(which).defense or self.as_published.defense

    def answer(self, which: str, row: Row) -> str:
        """The name of the recipe that a column answers a row with.

        Raises BadSetting where it has several for the defense and the row names none.
        """
        meant = [
            recipe.name or recipe.kind
            for recipe in self.column(which).recipe
            if not recipe.defenses or row.guarded in recipe.defenses
        ]
        wanted: str | None = getattr(row.recipe, which)
        if wanted is not None:
            one_of("recipe", wanted, meant, f'row "{row.name}", {which}')
            return wanted
        if len(meant) != 1:
            raise BadSetting(
                f'row "{row.name}": {which} has {len(meant)} recipes for it ({", ".join(meant)}): '
                f'say recipe = {{ {which} = "NAME" }}.'
            )
        return meant[0]

    def settings(self, which: str, title: str, rows: tuple[Row, ...]) -> Mapping[str, Any]:
        """The experiment of a column as an experiment file has it, for these rows only."""
        column, asked = self.column(which), dict[str, set[str]]()
        for row in rows:
            asked.setdefault(self.answer(which, row), set()).add(row.guarded)
        wanted = set().union(*asked.values())
        return {
            "name": f"{title}, {column.heading}",
            "seed": self.seed,
            "data": _given(self.data),
            "model": _given(self.model),
            "defense": [_given(d) for d in self.defenses(which) if d.name in wanted],
            "threat": [_given(column.threat)],
            "recipe": [
                {**_given(recipe), "defenses": sorted(whom)}
                for recipe in column.recipe
                if (whom := _whom(recipe, asked))
            ],
            "judge": _given(column.judge),
            "keep": {"images": 0},
            "engine": _given(self.engine),
        }


def _whom(recipe: RecipeTable, asked: Mapping[str, set[str]]) -> set[str]:
    """The defenses that some row has attacked by this recipe."""
    whom = asked.get(recipe.name or recipe.kind, set())
    return whom & set(recipe.defenses) if recipe.defenses else whom


def _given(table: Table) -> dict[str, Any]:
    """The keys that were set."""
    return table.model_dump(mode="json", exclude_unset=True)
