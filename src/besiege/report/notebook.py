"""The summary as a small HTML table, as a notebook shows it."""

from __future__ import annotations

from html import escape

from besiege.report.lines import Figures, Worst

HEADINGS = ("defense", "attacker", "threat", "accuracy", "attack success", "passes", "n")


def as_html(summary: Figures) -> str:
    """A table of all cells, and under it verdicts with their reasons, and plans."""
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
    told = (*summary.efforts, *summary.curves)
    near = "".join(f"<p>{escape(str(curve))}</p>" for curve in told)
    verdicts = "".join(_verdict(worst) for worst in summary.worst)
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return f"{table}{_searches(summary)}{near}{verdicts}{_plans(summary)}"


def _verdict(worst: Worst) -> str:
    why = "".join(f"<li>{escape(one)}</li>" for one in worst.verdict.why)
    return f"<p>{escape(str(worst))}</p><ul>{why}</ul>"


def _searches(summary: Figures) -> str:
    """Who of a union found what, as a sentence each."""
    return "".join(
        f"<p>{escape(f'{line.recipe} against {line.defense}, points by: ')}"
        + escape("; ".join(f"{s.name}: {s.points}, {s.broken} broken" for s in line.searches))
        + "</p>"
        for line in summary.lines
        if line.searches
    )


def _plans(summary: Figures) -> str:
    """How adaptive attackers came to what they did, folded; and the notes of the run."""
    plans = "".join(
        f"<details><summary>{escape(plan.title)}</summary><ul>"
        + "".join(f"<li>{escape(note)}</li>" for note in plan.notes)
        + "</ul></details>"
        for plan in summary.plans
    )
    return plans + "".join(f"<p>{escape(note)}</p>" for note in summary.notes)
