"""What every table of an experiment file is made of."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Annotated, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict

from besiege.study.experiment.places import respelled


def number(value: object) -> object:
    """ "8/255" as a number; anything else as it is."""
    if isinstance(value, str):
        try:
            return float(Fraction(value.replace(" ", "")))
        except (ValueError, ZeroDivisionError):
            return value
    return value


Number = Annotated[float, BeforeValidator(number)]


class Table(BaseModel):
    """A table whose keys are all known."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=False)


class Sourced(Table):
    """A table that names where something comes from."""

    source: str

    def placed(self, change: Callable[[str], str]) -> Self:
        """The same with every path in it changed."""
        return self.model_copy(update={"source": respelled(self.source, change)})
