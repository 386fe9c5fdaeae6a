"""The summary as a table of text: with lines and colours in a terminal, plain elsewhere."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from typing import Literal, TextIO

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from besiege.checks.finding import NOTE, STOP, WARN, Finding
from besiege.core.stats import Interval
from besiege.report.cells import by_goal
from besiege.report.curve import Curve, spelt_radius, telling
from besiege.report.effort import MILESTONES, Effort
from besiege.report.lines import Figures, Line, Worst, touching
from besiege.report.verdict import BROKEN, CERTIFIED

PLAIN_WIDTH = 150
STYLES = {STOP: "bold red", WARN: "yellow"}
TINTS = {BROKEN: "bold red", CERTIFIED: "bold green"}
PLANS = 2  # of adaptive attackers that are printed; the page has all
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
    for (threat, goal), lines in by_goal(summary.lines).items():
        console.print(_table(f"{threat}, {goal}", lines, live))
        _findings(console, touching(summary.findings, lines), live)
        cells = {line.cell for line in lines}
        efforts = [one for one in summary.efforts if one.cell in cells]
        for table in (_scores(lines, live), _searches(lines, live), _efforts(efforts, live)):
            if table.row_count:
                console.print(table)
    for curves in by_goal(summary.curves).values():
        console.print(_nearest(curves, live))
    _plans(console, summary)
    for worst in summary.worst:
        _headline(console, worst, live)
    for flag in sorted({f for line in summary.lines for f in line.flags}):
        rows = sum(line.flags.get(flag, 0) for line in summary.lines)
        console.print(Text(f"note: {flag} ({rows} rows)"))
    for cell in summary.unfinished:
        console.print(Text(f"unfinished: {cell}"))
    for note in summary.notes:
        console.print(Text(f"note: {note}"))


def _headline(console: Console, worst: Worst, live: bool) -> None:
    """The verdict, and why under it."""
    told = Text(str(worst))
    if live:
        start = len(worst.defense) + 2
        style = TINTS.get(worst.verdict.word, "bold")
        told.stylize(style, start, start + len(str(worst.verdict)))
    console.print(told)
    for why in worst.verdict.why:
        console.print(Text(f"  - {why}"))


def _plans(console: Console, summary: Figures) -> None:
    """How adaptive attackers came to what they did, of the first few."""
    told = [plan for plan in summary.plans if plan.notes]
    for plan in told[:PLANS]:
        console.print(Text(f"{plan.title} ({plan.passes:,} passes a pilot image):"))
        for note in plan.notes:
            console.print(Text(f"  - {note}"))
    if (more := len(told) - PLANS) > 0:
        console.print(Text(f"{more} more such plans: the page of the run has them"))


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


def _scores(lines: list[Line], live: bool) -> Table:
    """Attack success by other rules, where they differ; without rows where they do not."""
    draws = max(line.scores.draws for line in lines)
    title = f"attack success % [95 %] by other rules, k = {draws} draws"
    columns = ("expected", "any of k", "majority of k", "as published")
    table = _titled(title, ("attacker",), columns, live)
    for name, own in _named([line for line in lines if line.scores.differ]):
        table.add_row(
            name,
            own.recipe,
            *("" if score is None else _percent(score) for score in own.scores[:4]),
        )
    return table


def _searches(lines: list[Line], live: bool) -> Table:
    """Who of a union found what; without rows where there is none."""
    columns = ("points", "broken", "passes so far")
    table = _titled("which search found the point", ("attacker", "search"), columns, live)
    for name, own in _named([line for line in lines if line.searches]):
        for i, one in enumerate(own.searches):
            table.add_row(
                name if i == 0 else "",
                own.recipe if i == 0 else "",
                one.name,
                str(one.points),
                str(one.broken),
                f"{one.passes:,.0f}",
            )
    return table


def _efforts(efforts: Sequence[Effort], live: bool) -> Table:
    """Passes after which so many images stood no more; without rows where no union attacked."""
    columns = (*MILESTONES, "left % by its claim", "judged % [95 %]")
    table = _titled("passes an image until broken", ("attacker",), columns, live)
    before = None
    for one in efforts:
        reached = (f"> {one.most:,}" if p is None else f"{p:,}" for p in one.milestones.values())
        table.add_row(
            one.defense if one.defense != before else "",
            one.recipe,
            *reached,
            f"{100 * one.left.estimate:.1f}",
            _percent(one.judged),
        )
        before = one.defense
    if any(not one.kept for one in efforts):
        table.caption = "passes were not kept by search: an image counts at its last"
    return table


def _titled(title: str, names: Sequence[str], figures: Sequence[str], live: bool) -> Table:
    """A table of a defense, names and figures."""
    form = box.SIMPLE_HEAD if live else box.ASCII2
    table = Table(title=title, box=form, title_justify="left")
    table.add_column(LONG, overflow="fold")
    for name in names:
        table.add_column(name, overflow="fold")
    for figure in figures:
        table.add_column(figure, justify="right", no_wrap=True)
    return table


def _named(lines: Sequence[Line]) -> Iterator[tuple[str, Line]]:
    """Each line, with the defense's name where it is another than before."""
    before = None
    for line in lines:
        yield (line.defense if line.defense != before else ""), line
        before = line.defense


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
