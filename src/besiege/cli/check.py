"""`besiege check RUN`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def check(
    run: Annotated[Path, typer.Argument(help="A run folder, finished or not.")],
) -> None:
    """Ask the checks what may be wrong with a run; attacks nothing. Exit 1 where one says STOP."""
    from besiege.cli.findings import show
    from besiege.study.examine import examine_run

    if show(examine_run(run), str(run)):
        raise typer.Exit(1)
