"""`besiege list`."""

from __future__ import annotations

import sys
from typing import Annotated

import typer


def listing(
    shelf: Annotated[
        str | None,
        typer.Argument(
            help="transforms, votes, recipes, attacks, wrappers, losses, gradients, balls, models "
            "or data."
        ),
    ] = None,
) -> None:
    """List what there is, all of it or one kind."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from besiege.cli.shelves import shelves, traits
    from besiege.core.errors import unknown

    known = shelves()
    if shelf is not None and shelf not in known:
        raise unknown("kind", shelf, known, where="besiege list")
    live = sys.stdout.isatty()
    console = Console(width=None if live else 160, highlight=False)
    for name in [shelf] if shelf else known:
        table = Table(title=name, box=box.SIMPLE_HEAD if live else None, title_justify="left")
        found = [(entry, traits(name, entry)) for entry in known[name].values()]
        more = list(dict.fromkeys(trait for _, own in found for trait in own))
        for column in ("name", "what it is", *more, "source"):
            table.add_column(column, no_wrap=column in ("name", "access"))
        for entry, own in found:
            cells = [own.get(trait, "") for trait in more]
            table.add_row(entry.name, entry.summary, *cells, entry.source)
        console.print(table)
