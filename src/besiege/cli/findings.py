"""Findings of checks as a table."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from besiege.checks.finding import Answer, Finding


def show_answers(answers: Sequence[Answer]) -> None:
    """Print a line for each question: its figure beside the threshold, or why it was not asked."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from besiege.checks.catalog import CHECKS

    live = sys.stdout.isatty()
    table = Table(box=box.SIMPLE_HEAD if live else None)
    for heading in ("check", "of", "came of it", "figure", "threshold", "because"):
        table.add_column(heading, overflow="fold")
    for one in answers:
        figures = ["" if v is None else f"{v:.3g}" for v in (one.figure, one.threshold)]
        name = f"{one.number} {CHECKS[one.number].name}"
        table.add_row(name, one.about, one.state, *figures, one.because)
    Console(width=None if live else 150, highlight=False).print(table)


def show(findings: Sequence[Finding], title: str) -> bool:
    """Print them; returns whether one of them says STOP."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from besiege.checks.finding import STOP, WARN

    live = sys.stdout.isatty()
    console = Console(width=None if live else 150, highlight=False)
    styles = {STOP: "bold red", WARN: "yellow"}
    table = Table(
        title=title,
        title_justify="left",
        box=box.SIMPLE_HEAD if live else box.ASCII2,
        show_lines=not live,
    )
    for heading in ("level", "check", "where", "figure", "threshold", "what, and what to do"):
        table.add_column(heading, overflow="fold")
    for f in findings:
        examples = f" Examples {', '.join(map(str, f.examples))}." if f.examples else ""
        table.add_row(
            Text(f.level, style=styles.get(f.level, "") if live else ""),
            f"{f.number} {f.name}",
            f.about,
            f"{f.figure:.3g}",
            f"{f.threshold:.3g}",
            f"{f.what} {f.next}{examples}",
        )
    if findings:
        console.print(table)
    levels = [f.level for f in findings]
    counts = ", ".join(f"{levels.count(v)} {v}" for v in dict.fromkeys(levels))
    print(f"{title}: {counts or 'nothing found'}")
    return STOP in levels
