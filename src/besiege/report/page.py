"""One offline HTML file that says what a run found, and shows it."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from besiege.checks.finding import NOTE
from besiege.core.stats import Interval
from besiege.core.store import RunFolder
from besiege.report.cells import by_goal, is_control
from besiege.report.certified import proof_figure
from besiege.report.curve import Curve, reach, spelt_radius, telling
from besiege.report.effort import MILESTONES, Effort, as_csv
from besiege.report.figures import COLOURS, by_passes, by_radius, curves, dots
from besiege.report.lines import Line, touching
from besiege.report.pictures import Strip, strip
from besiege.report.proofs import radii
from besiege.report.tables import Summary, summarise
from besiege.report.verdict import WORDS

Shown = TypeVar("Shown", Curve, Effort)
STRIPS = 60  # the most image strips on a page


def write_report(folder: Path) -> Path:
    """Write `folder`/report.html from the run that is there, finished or not; returns its path.

    Raises BadRun if the folder holds no run. The same run gives the same bytes.
    """
    run = RunFolder(Path(folder))
    summary = summarise(run.path)
    resolved = run.resolved()
    engine = Environment(
        loader=PackageLoader("besiege.report"),
        autoescape=select_autoescape(["html", "css"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    engine.filters["share"] = _share
    engine.filters["tint"] = _tint
    page = engine.get_template("page.html").render(
        summary=summary,
        words=WORDS,
        grids=_grids(summary),
        nearest=_nearest(summary),
        efforts=_efforts(summary),
        efforts_csv=_inline(as_csv(summary.efforts)),
        milestones=MILESTONES,
        proofs=_proofs(summary, resolved["cells"]),
        panels=_panels(summary, run, frozenset(resolved["ids"])),
        strips=_strips(resolved, run),
        settings=json.dumps(resolved.get("experiment", {}), indent=2),
        environment=run.environment(),
        given=(run.path / "experiment.toml").read_text(),
        records={r["cell"]: r for r in resolved["cells"]},
    )
    return run.write_report(page)


def _grids(summary: Summary) -> list[dict[str, Any]]:
    """One matrix a threat and goal: defenses down, recipes across."""
    return [
        {
            "title": f"{threat}, {goal}",
            "targeted": lines[0].targeted,
            "recipes": list(dict.fromkeys(line.recipe for line in lines)),
            "rows": _by_defense(lines),
            "worst": {
                w.defense: w
                for w in summary.worst
                if (w.threat, w.targeted) == (threat, lines[0].targeted)
            },
            "dots": Markup(dots(lines)),
            "searches": [line for line in lines if line.searches],
            "scores": [line for line in lines if line.scores.differ],
            "grave": [f for f in touching(summary.findings, lines) if f.level != NOTE],
            "notes": [f for f in touching(summary.findings, lines) if f.level == NOTE],
        }
        for (threat, goal), lines in by_goal(summary.lines).items()
    ]


def _by_defense(lines: list[Line]) -> dict[str, dict[str, Line]]:
    table: dict[str, dict[str, Line]] = {}
    for line in lines:
        table.setdefault(line.defense, {})[line.recipe] = line
    return table


def _nearest(summary: Summary) -> list[dict[str, Any]]:
    """Of each threat and goal: a plot a defense, and what stands at a few radii."""
    return [
        {
            "title": f"Nearest points within {threat}, {goal}",
            "targeted": found[0].targeted,
            "radii": {spelt_radius(found[0], radius): radius for radius in telling(found)},
            "rows": found,
            "plots": [
                Markup(by_radius(defense, own, reach(found)))
                for defense, own in _by_name(found).items()
            ],
        }
        for (threat, goal), found in by_goal(summary.curves).items()
    ]


def _efforts(summary: Summary) -> list[dict[str, Any]]:
    """Of each threat and goal: one plot, or one a defense where lines would be too many."""
    found = []
    for (threat, goal), group in by_goal(summary.efforts).items():
        whole = len(group) <= len(COLOURS)
        plots = (
            [by_passes("", group, wide=True)]
            if whole
            else [by_passes(defense, own) for defense, own in _by_name(group).items()]
        )
        title = f"Accuracy against passes, {threat}, {goal}"
        found.append({"title": title, "rows": group, "plots": [*map(Markup, plots)], "wide": whole})
    return found


def _proofs(summary: Summary, records: list[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Of each certificate: its curve, and what is proved and left at the radii of the run."""
    found = []
    for proof in summary.proofs:
        at = radii(proof, records)
        left = {
            w.threat: w
            for w in summary.worst
            if w.defense == proof.defense and w.threat in at and not w.targeted
        }
        shares = [(at[threat], w.accuracy) for threat, w in left.items()]
        clean = [(0.0, w.clean) for w in left.values() if w.clean][:1]
        near = {
            curve.recipe: curve  # of those of one attacker the one that reaches farthest
            for curve in sorted(summary.curves, key=lambda curve: curve.eps)
            if (curve.defense, curve.ball, curve.targeted) == (proof.defense, proof.norm, False)
        }
        rows = [
            (threat, proof.at(at[threat]), left[threat].accuracy) for threat in at if threat in left
        ]
        plot = Markup(proof_figure(proof, dict(clean + shares), [*near.values()]))
        found.append({"proof": proof, "plot": plot, "rows": rows})
    return found


def _inline(text: str) -> str:
    """A text file as a data URI."""
    return f"data:text/csv;base64,{base64.b64encode(text.encode()).decode()}"


def _by_name(found: Sequence[Shown]) -> dict[str, list[Shown]]:
    table: dict[str, list[Shown]] = {}
    for curve in found:
        table.setdefault(curve.defense, []).append(curve)
    return table


def _panels(summary: Summary, run: RunFolder, ids: frozenset[int]) -> list[Markup]:
    """Curves of every defense and threat that has traces of some steps.

    Attacks for the nearest point are left out: they walk along the border, step after step. So are
    unions, whose traces have a figure a search.
    """
    nearest = {curve.cell for curve in summary.curves}
    traces: dict[str, list[Mapping[str, Any]]] = {}
    for trace in run.traces():
        if trace["id"] in ids:
            traces.setdefault(trace["cell"], []).append(trace)
    groups: dict[str, list[tuple[Line, list[Mapping[str, Any]]]]] = {}
    for line in summary.lines:
        shown = line.cell in traces and line.cell not in nearest and not line.searches
        if shown and not line.control:
            title = f"{line.defense}, {line.threat} {line.goal}"
            groups.setdefault(title, []).append((line, traces[line.cell]))
    return [Markup(curves(title, cells)) for title, cells in groups.items()]


def _strips(resolved: Mapping[str, Any], run: RunFolder) -> list[Strip]:
    """Images of attacked cells, those of one example side by side."""
    records = {r["cell"]: r for r in resolved["cells"]}
    order = {cell: i for i, cell in enumerate(records)}
    attacked = (
        (image_id, order[cell], cell)
        for cell, image_id in run.kept()
        if cell in records and not is_control(records[cell])
    )
    return [
        strip(records[cell], image_id, run.image(cell, image_id))
        for image_id, _, cell in sorted(attacked)[:STRIPS]
    ]


def _share(share: Interval) -> str:
    return f"{100 * share.estimate:.1f}"


def _tint(share: Interval) -> str:
    """Position of a share on the page's scale from broken to sound."""
    return f"{share.estimate:.2f}"
