"""`besiege explain NAME`."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Annotated, Any

import typer

from besiege.core.entry import Entry


def explain(
    name: Annotated[str, typer.Argument(help="A name that `besiege list` prints.")],
) -> None:
    """Formula, parameters, surrogates and source of one component."""
    from besiege.cli.shelves import shelves
    from besiege.core.errors import unknown

    known = shelves()
    found = [(shelf, catalog[name]) for shelf, catalog in known.items() if name in catalog]
    if not found:
        raise unknown("name", name, [n for catalog in known.values() for n in catalog])
    for shelf, entry in found:
        print("\n".join(_lines(shelf, entry)))


def _lines(shelf: str, entry: Entry[Any]) -> Iterator[str]:
    yield f"{entry.name}  ({shelf})"
    yield ""
    yield inspect.getdoc(entry.factory) or ""
    yield ""
    yield f"source: {entry.source}"
    if entry.parameters:
        yield "parameters:"
    for key, default in entry.parameters.items():
        given = "must be given" if default is inspect.Parameter.empty else repr(default)
        yield f"  {key} = {given}"
    if shelf == "transforms":
        link = entry.factory(**entry.cases[0])
        yield f"surrogates, best first: {', '.join(link.surrogates) or 'identity'}"
    for law, reason in entry.known_failures.items():
        yield f"known failure of the law {law}: {reason}"
