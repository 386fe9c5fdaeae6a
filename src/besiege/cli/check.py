"""`besiege check RUN`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from besiege.checks.finding import Answer


def check(
    run: Annotated[Path, typer.Argument(help="A run folder, finished or not.")],
    every: Annotated[
        bool, typer.Option("--all", help="What became of each of the 46, not findings alone.")
    ] = False,
) -> None:
    """Ask the checks what may be wrong with a run; attacks nothing. Exit 1 where one says STOP."""
    from besiege.checks.finding import number_asked
    from besiege.cli.findings import show
    from besiege.study.evidence.examine import examined_run

    found = examined_run(run)
    if every:
        _list(found.answers)
    grave = show(found.findings, str(run))
    asked = f"{number_asked(found.answers)} of {len(found.answers)} checks could be asked"
    print(asked if every else f"{asked}; --all says which, and why not the others")
    if grave:
        raise typer.Exit(1)


def _list(answers: Sequence[Answer]) -> None:
    """A line for each check: what became of it, its figure and threshold, or why there is none."""
    from besiege.checks.catalog import CHECKS

    for one in answers:
        name = f"{one.number:>2} {CHECKS[one.number].name}"
        if one.times == 0:
            print(f"{name:32} {one.state}: {one.because}")
            continue
        times = f", the nearest of {one.times}" if one.times > 1 else ""
        about = f" ({one.about}{times})" if one.about else ""
        figure, threshold = ("-" if v is None else f"{v:.3g}" for v in (one.figure, one.threshold))
        print(f"{name:32} {one.state}: {figure}, threshold {threshold}{about}")
