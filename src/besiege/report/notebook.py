"""The summary as a small HTML table, as a notebook shows it."""

from __future__ import annotations

from html import escape

from besiege.checks.finding import NOTE
from besiege.report.lines import Figures, Worst, touching
from besiege.report.terminal import PLANNED, notes_counted

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
                line.spent,
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
    under = f"{_planned(summary)}{_findings(summary)}{_searches(summary)}"
    return f"{table}{under}{near}{verdicts}{_plans(summary)}"


def _planned(summary: Figures) -> str:
    return f"<p>{escape(PLANNED)}</p>" if any(line.planning for line in summary.lines) else ""


def _findings(summary: Figures) -> str:
    """What may make the table mean less: in full what warns, and notes by their number."""
    known = touching(summary.findings, summary.lines)
    items = "".join(f"<li>{escape(str(f))}</li>" for f in known if f.level != NOTE)
    notes = notes_counted(known)
    return (f"<ul>{items}</ul>" if items else "") + (f"<p>{escape(notes)}</p>" if notes else "")


def _verdict(worst: Worst) -> str:
    reasons = (*worst.verdict.why, *filter(None, [worst.reason]))
    why = "".join(f"<li>{escape(one)}</li>" for one in reasons)
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
        f"<details><summary>{escape(plan.title)}"
        + (f" (passes: {escape(plan.cost)})" if plan.cost else "")
        + "</summary><ul>"
        + "".join(f"<li>{escape(note)}</li>" for note in plan.notes)
        + "</ul></details>"
        for plan in summary.plans
    )
    return plans + "".join(f"<p>{escape(note)}</p>" for note in summary.notes)
