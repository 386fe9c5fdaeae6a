"""A reproduction as a table in a terminal, as Markdown and as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from besiege.checks.finding import NOTE
from besiege.core.stats import Interval
from besiege.papers.reproduce import FOLDERS, Figure, Judged, Reproduction
from besiege.papers.schema import COLUMNS, Quantity
from besiege.papers.verdicts import Ruling, Verdict

PLAIN_WIDTH = 160
TINTS = {Verdict.HOLDS: "green", Verdict.FALLS: "red", Verdict.UNDECIDED: "yellow"}
PAGE, FIGURES = "reproduction.md", "reproduction.json"
UNKNOWN = "-"


def write(found: Reproduction) -> Path:
    """Write reproduction.md and reproduction.json into its folder; returns the first."""
    (found.out / FIGURES).write_text(json.dumps(as_record(found), indent=2) + "\n", "utf-8")
    page = found.out / PAGE
    page.write_text(as_markdown(found), "utf-8")
    return page


def sentence(found: Reproduction) -> str:
    """What the published figures are of, and what those measured here are of."""
    images = "image" if found.n == 1 else "images"
    return (
        f"{found.paper.file.paper}, {found.paper.file.part}. Published with {found.paper.file.on}; "
        f"here {found.model} on {found.n} {images} of {found.images}. 95 % intervals."
        + (" NOT the paper's data: --quick shows the command at work." if found.paper.quick else "")
    )


def remarks(found: Reproduction) -> Iterator[tuple[str, list[str]]]:
    """Headings, and the sentences below each."""
    paper, file = found.paper, found.paper.file
    if paper.changes:
        yield "changed", ["; ".join(paper.changes)]
    if absent := len(file.claim) - len(paper.claims):
        rows = len(file.row) - len(paper.rows)
        yield "left out", [f"{rows} of {len(file.row)} rows, and {absent} claims about them."]
    for which in COLUMNS:
        column = file.column(which)
        yield column.heading, [*filter(None, [column.says, _cost(found, which)]), *column.faults]
    yield "published", [file.read, *file.notes]


def _cost(found: Reproduction, which: str) -> str:
    """How many passes a column took; empty where nobody attacked."""
    passes, plan = max(found.passes[which].values()), found.plans[which]
    if not passes:
        return ""
    pilots = f"each of {found.pilots[which]} pilot images" if found.pilots[which] else "each pilot"
    planned = f", after a plan of {plan:,} passes on {pilots}" if plan else ""
    return f"At most {passes:,.0f} passes an image and row, on the mean{planned}."


def findings(found: Reproduction) -> Iterator[tuple[str, list[str]]]:
    """Of each column, what checks warn of in its run, and how many notes there are."""
    for which in COLUMNS:
        own = found.findings[which]
        told = [str(f) for f in own if f.level != NOTE]
        folder = found.out / FOLDERS[which]
        notes = sum(f.level == NOTE for f in own)
        more = [f"{notes} note{'s' if notes > 1 else ''} of checks: besiege check {folder}"]
        yield found.paper.file.column(which).heading, [*told, *(more if notes else [])]


def heads(found: Reproduction) -> list[str]:
    """Of the table of figures."""
    return ["", "", "published", *(found.paper.file.column(which).heading for which in COLUMNS)]


def lines(found: Reproduction) -> Iterator[list[str]]:
    """Of the table of figures: row, quantity, published, and each column."""
    before = ""
    for figure in found.figures:
        name = figure.row if figure.row != before else ""
        here = [spelt(figure.here[which], figure.quantity) for which in COLUMNS]
        yield [name, _measured(figure.quantity), _published(figure), *here]
        before = figure.row


def claim_lines(found: Reproduction) -> Iterator[tuple[str, list[tuple[str, Verdict]]]]:
    """Each claim in words, and what both columns say of it; one reason is said once."""
    for judged in found.claims:
        rulings = [judged.rulings[which] for which in COLUMNS]
        cells = [(_ruled(r, judged.quantity), r.verdict) for r in rulings]
        if len(set(cells)) == 1 and rulings[0].interval is None:
            cells[0] = (str(rulings[0].verdict), rulings[0].verdict)
        yield judged.claim.says, cells


def _ruled(ruling: Ruling, quantity: Quantity) -> str:
    """A verdict, what it is of, and what is to be said of it."""
    of = f": {spelt(ruling.interval, quantity)}" if ruling.interval else ""
    return f"{ruling.verdict}{of}" + (f" ({ruling.why})" if ruling.why else "")


def _measured(quantity: Quantity) -> str:
    return f"{quantity.name} {quantity.unit}".strip()


def _published(figure: Figure) -> str:
    if figure.published is None:
        return UNKNOWN
    near = f" ± {figure.quantity.within:g}" if figure.quantity.within else ""
    return f"{figure.published:g}{near}"


def spelt(interval: Interval, quantity: Quantity) -> str:
    """An interval with the decimals of its quantity."""
    estimate, low, high = (
        f"{v:.{quantity.digits}f}" if math.isfinite(v) else "?" for v in interval
    )
    return f"{estimate} [{low}, {high}]"


def show(found: Reproduction, stream: TextIO) -> None:
    """Print the figures, the claims and the faults."""
    live = stream.isatty()
    width = None if live else PLAIN_WIDTH
    console = Console(file=stream, width=width, no_color=not live, highlight=False)
    style = box.SIMPLE_HEAD if live else box.ASCII2
    console.print(Text(sentence(found)))
    table = Table(title=found.paper.file.title, box=style, title_justify="left")
    for i, head in enumerate(heads(found)):
        table.add_column(head, justify="left" if i < 2 else "right", overflow="fold")
    for line in lines(found):
        if line[0] and table.row_count:
            table.add_section()
        table.add_row(*line)
    console.print(table)
    for heading, sentences in findings(found):
        for text in sentences:
            console.print(Text(f"{heading}: {text}"))
    if found.claims:
        claims = Table(title="what the paper says", box=style, title_justify="left")
        for head in ("claim", *heads(found)[-2:]):
            claims.add_column(head, overflow="fold")
        for says, rulings in claim_lines(found):
            tints = [TINTS.get(verdict, "") if live else "" for _, verdict in rulings]
            cells = [Text(text, style) for (text, _), style in zip(rulings, tints, strict=True)]
            claims.add_row(says, *cells)
        console.print(claims)
    for heading, sentences in remarks(found):
        for text in sentences:
            console.print(Text(f"{heading}: {text}"))


def as_markdown(found: Reproduction) -> str:
    """The same as a page."""
    figures = _markdown(heads(found), list(lines(found)))
    rows = [[says, *(text for text, _ in cells)] for says, cells in claim_lines(found)]
    parts = [f"# {found.paper.file.title}", sentence(found), figures]
    told = [f"- {heading}: {text}" for heading, each in findings(found) for text in each]
    parts += ["What checks say of the runs:", "\n".join(told)] if told else []
    if rows:
        parts += ["## What the paper says", _markdown(["claim", *heads(found)[-2:]], rows)]
    for heading, sentences in remarks(found):
        if sentences:
            items = "\n".join(f"- {sentence}" for sentence in sentences)
            parts += [f"## {heading[:1].upper()}{heading[1:]}", items]
    runs = ", ".join(f"`{folder}`" for folder in FOLDERS.values())
    parts.append(f"Run folders with every row: {runs}, beside this page.")
    return "\n\n".join(parts) + "\n"


def _markdown(names: list[str], rows: list[list[str]]) -> str:
    every = [names, ["---"] * len(names), *rows]
    return "\n".join(f"| {' | '.join(c.replace('|', '/') for c in row)} |" for row in every)


def as_record(found: Reproduction) -> dict[str, Any]:
    """The same for programs: nothing is rounded."""
    return {
        "name": found.paper.name,
        "title": found.paper.file.title,
        "paper": found.paper.file.paper,
        "part": found.paper.file.part,
        "published_on": found.paper.file.on,
        "model": found.model,
        "images": found.images,
        "n": found.n,
        "quick": found.paper.quick,
        "changes": list(found.paper.changes),
        "plans": dict(found.plans),
        "pilots": dict(found.pilots),
        "findings": {which: [f.record() for f in own] for which, own in found.findings.items()},
        "faults": list(found.paper.file.as_published.faults),
        "figures": [_figure_record(figure, found) for figure in found.figures],
        "claims": [_claim_record(judged) for judged in found.claims],
    }


def _figure_record(figure: Figure, found: Reproduction) -> dict[str, Any]:
    return {
        "row": figure.row,
        "quantity": figure.quantity.name,
        "unit": figure.quantity.unit,
        "published": figure.published,
        **{which: _limits(figure.here[which]) for which in COLUMNS},
        "passes": {which: found.passes[which][figure.row] for which in COLUMNS},
    }


def _claim_record(judged: Judged) -> dict[str, Any]:
    claim = judged.claim.model_dump(mode="json", exclude_unset=True)
    rulings = {
        which: {"verdict": str(r.verdict), "interval": _limits(r.interval), "why": r.why}
        for which, r in judged.rulings.items()
    }
    return {**claim, "unit": judged.quantity.unit, **rulings}


def _limits(interval: Interval | None) -> list[float | None] | None:
    if interval is None:
        return None
    return [float(v) if math.isfinite(v) else None for v in interval]
