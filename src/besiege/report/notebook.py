"""The summary as a small HTML table, as a notebook shows it."""

from __future__ import annotations

from html import escape

from besiege.report.lines import Figures

HEADINGS = ("defense", "attacker", "threat", "accuracy", "attack success", "passes", "n")


def as_html(summary: Figures) -> str:
    """A table of all cells, and the headlines under it."""
    head = "".join(f"<th>{h}</th>" for h in HEADINGS)
    body = "".join(
        "<tr>"
        + "".join(
            f"<td>{escape(cell)}</td>"
            for cell in (
                line.defense,
                line.recipe,
                f"{line.threat} {line.goal}",
                str(line.accuracy),
                str(line.success),
                f"{line.forwards + line.backwards:,.0f}",
                str(line.n),
            )
        )
        + "</tr>"
        for line in summary.lines
    )
    near = "".join(f"<p>{escape(str(curve))}</p>" for curve in summary.curves)
    notes = "".join(f"<p>{escape(str(worst))}</p>" for worst in summary.worst)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{near}{notes}"
