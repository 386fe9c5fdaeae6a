"""A gate's verdicts as a table of text."""

from __future__ import annotations

import sys
from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from besiege.study.gate.gate import Defended, Gate

PLAIN_WIDTH = 150


def show(gate: Gate) -> None:
    """Print a table a defense, its context below, and in the end the count."""
    from rich.console import Console
    from rich.text import Text

    live = sys.stdout.isatty()
    console = Console(width=None if live else PLAIN_WIDTH, highlight=False)
    for defense in gate.defenses:
        _table(console, defense, live)
        for one in defense.judged:
            if one.sentence:
                console.print(Text(f"{one.requirement} ({one.about}): {one.sentence}"))
        for why in dict.fromkeys(told.missing for told in defense.product if told.missing):
            names = ", ".join(told.quantity for told in defense.product if told.missing == why)
            console.print(Text(f"{names}: {why}"))
        for sentence in defense.context:
            console.print(Text(f"note: {sentence}"))
        console.print()
    counts = Counter(str(one.verdict) for one in gate.judged)
    told = ", ".join(f"{number} {verdict}" for verdict, number in counts.items())
    print(f"gate: {'passed' if gate.passed else 'not passed'}: {told}, decided on the {gate.on}")


def _table(console: Console, defense: Defended, live: bool) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from besiege.study.gate.requirements import Verdict

    tints = {
        Verdict.PASS: "green",
        Verdict.FAIL: "bold red",
        Verdict.UNDECIDED: "yellow",
        Verdict.REFUSED: "bold red",
    }
    table = Table(
        title=Text(defense.name), box=box.SIMPLE_HEAD if live else box.ASCII2, title_justify="left"
    )
    table.add_column("requirement", overflow="fold", min_width=16)
    table.add_column("of", min_width=16)
    table.add_column("measured [95 %]", justify="right", no_wrap=True)
    table.add_column("n", justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    for one in defense.judged:
        table.add_row(
            Text(str(one.requirement)),
            Text(one.about),
            Text(one.shown),
            str(one.measured.n),
            Text(str(one.verdict), style=tints[one.verdict] if live else ""),
        )
    if defense.product:
        table.add_section()
    for told in defense.product:
        about, n = Text(told.about), str(told.measured.n)
        table.add_row(Text(told.quantity), about, Text(told.shown), n, Text("told"))
    console.print(table)
