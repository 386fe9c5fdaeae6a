"""`besiege compare RUN [RUN2]`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer


def compare(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    other: Annotated[
        Path | None, typer.Argument(metavar="[RUN2]", help="Another one, of the same images.")
    ] = None,
) -> None:
    """Which attackers and defenses differ, pair by pair on the same images; attacks nothing."""
    from besiege.report.pairs import findings_of, pairs, show

    show(pairs(run, other), sys.stdout, findings_of(run, other))
