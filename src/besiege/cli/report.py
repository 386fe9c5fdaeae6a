"""`besiege report DIR`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer


def report(
    folder: Annotated[Path, typer.Argument(help="A run folder, finished or not.")],
) -> None:
    """Print the table of a run and write its page again; attacks nothing."""
    from besiege.report.page import write_report
    from besiege.report.tables import summarise
    from besiege.report.terminal import show

    show(summarise(folder), sys.stdout)
    print(f"report: {write_report(folder)}")
