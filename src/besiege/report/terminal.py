"""The summary as a table of text: with lines and colours in a terminal, plain elsewhere."""

from __future__ import annotations

import io
from typing import Literal, TextIO

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from besiege.checks.finding import NOTE, STOP, WARN, Finding
from besiege.core.stats import Interval
from besiege.report.curve import Curve, by_threat, spelt_radius, telling
from besiege.report.lines import Figures, Line, touching

PLAIN_WIDTH = 150
STYLES = {STOP: "bold red", WARN: "yellow"}
LONG = "defense"  # the column that is folded where a table has no room


def show(summary: Figures, stream: TextIO) -> None:
    """Print to `stream`; no colours and no box-drawing characters where it is no terminal."""
    live = stream.isatty()
    width = None if live else PLAIN_WIDTH
    _print(Console(file=stream, width=width, no_color=not live, highlight=False), summary, live)


def as_text(summary: Figures) -> str:
    """The summary as plain text."""
    buffer = io.StringIO()
    show(summary, buffer)
    return buffer.getvalue()


def _print(console: Console, summary: Figures, live: bool) -> None:
    groups: dict[tuple[str, str], list[Line]] = {}
    for line in summary.lines:
        groups.setdefault((line.threat, line.goal), []).append(line)
    for (threat, goal), lines in groups.items():
        console.print(_table(f"{threat}, {goal}", lines, live))
        _findings(console, touching(summary.findings, lines), live)
    for curves in by_threat(summary.curves).values():
        console.print(_nearest(curves, live))
    for worst in summary.worst:
        console.print(Text(str(worst)))
    for flag in sorted({f for line in summary.lines for f in line.flags}):
        rows = sum(line.flags.get(flag, 0) for line in summary.lines)
        console.print(Text(f"note: {flag} ({rows} rows)"))
    for cell in summary.unfinished:
        console.print(Text(f"unfinished: {cell}"))
    for note in summary.notes:
        console.print(Text(f"note: {note}"))


def _findings(console: Console, findings: list[Finding], live: bool) -> None:
    """What may make the table above mean less; notes are counted."""
    grave = [f for f in findings if f.level != NOTE]
    for finding in grave:
        console.print(Text(str(finding), style=STYLES[finding.level] if live else ""))
    if notes := len(findings) - len(grave):
        counted = ", ".join(sorted({f"{f.number} {f.name}" for f in findings if f.level == NOTE}))
        text = f"{notes} note{'s' if notes > 1 else ''} of checks ({counted}): besiege check RUN"
        console.print(Text(text))


def _table(title: str, lines: list[Line], live: bool) -> Table:
    table = Table(title=title, box=box.SIMPLE_HEAD if live else box.ASCII2, title_justify="left")
    for name, right in (
        (LONG, False),
        ("attacker", False),
        ("accuracy % [95 %]", True),
        ("attack success % [95 %]", True),
        ("claim - verdict", True),
        ("passes", True),
        ("n", True),
    ):
        justify: Literal["right", "left"] = "right" if right else "left"
        table.add_column(name, justify=justify, no_wrap=name != LONG, overflow="fold")
    before = None
    for line in lines:
        if before not in (None, line.defense):
            table.add_section()
        table.add_row(
            line.defense if line.defense != before else "",
            line.recipe,
            Text(_percent(line.accuracy), style=_tint(line) if live else ""),
            _percent(line.success),
            "" if line.gap is None else f"{100 * line.gap:+.1f}",
            f"{line.forwards + line.backwards:,.0f}",
            str(line.n) if line.n == line.expected else f"{line.n}/{line.expected}",
        )
        before = line.defense
    return table


def _nearest(curves: list[Curve], live: bool) -> Table:
    """Median distances, and what stands at a few radii."""
    first, radii = curves[0], telling(curves)
    goal, kept = ("targeted", "target missed") if first.targeted else ("untargeted", "accuracy")
    title = f"nearest points within {first.threat}, {goal}"
    table = Table(title=title, box=box.SIMPLE_HEAD if live else box.ASCII2, title_justify="left")
    table.add_column(LONG, overflow="fold")
    table.add_column("attacker", no_wrap=True)
    table.add_column("median distance [95 %]", justify="right", no_wrap=True)
    for i, radius in enumerate(radii):
        head = (
            f"{kept} % at {spelt_radius(first, radius)}" if i == 0 else spelt_radius(first, radius)
        )
        table.add_column(head, justify="right", no_wrap=True)
    table.add_column("n", justify="right", no_wrap=True)
    before = None
    for curve in curves:
        if before not in (None, curve.defense):
            table.add_section()
        name = curve.defense if curve.defense != before else ""
        shares = [_percent(curve.at(radius)) for radius in radii]
        table.add_row(name, curve.recipe, curve.spelt_median, *shares, str(curve.n))
        before = curve.defense
    return table


def _percent(share: Interval) -> str:
    return f"{100 * share.estimate:5.1f} [{100 * share.low:4.1f}, {100 * share.high:5.1f}]"


def _tint(line: Line) -> str:
    if line.control:
        return "bold"
    return "red" if line.accuracy.high < 0.1 else "yellow" if line.accuracy.high < 0.5 else "green"
