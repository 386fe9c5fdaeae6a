"""A certified-accuracy curve as a table of text, and as a figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, TextIO

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from rich import box
from rich.console import Console
from rich.table import Table

from besiege.checks.finding import Finding
from besiege.core.stats import Interval
from besiege.report.curve import Curve
from besiege.report.figures import COLOURS, STYLE, svg
from besiege.report.proofs import Proof
from besiege.report.terminal import PLAIN_WIDTH, findings_under


class Point(Protocol):
    """See `core.smoothing.CurvePoint`."""

    @property
    def radius(self) -> float:
        """In the norm of the channel."""
        ...

    @property
    def of_all(self) -> Interval:
        """Share of all images."""
        ...

    @property
    def of_answered(self) -> Interval | None:
        """Share of those with an answer."""
        ...


def show_curve(
    curve: Sequence[Point], norm: str, stream: TextIO, findings: Sequence[Finding] = ()
) -> None:
    """Print certified accuracy at each radius, and below it the findings that touch it.

    Plain where `stream` is no terminal.
    """
    live = stream.isatty()
    table = Table(box=box.SIMPLE_HEAD if live else box.ASCII2)
    for name in (f"{norm} radius", "certified %, of all [95 %]", "of those answered [95 %]"):
        table.add_column(name, justify="right")
    for point in curve:
        table.add_row(f"{point.radius:.4g}", _percent(point.of_all), _percent(point.of_answered))
    width = None if live else PLAIN_WIDTH
    console = Console(file=stream, width=width, no_color=not live, highlight=False)
    console.print(table)
    findings_under(console, findings, live, whole=True)


def curve_figure(curve: Sequence[Point], norm: str, title: str) -> str:
    """Certified accuracy of all images against the radius, with its 95 % band, as SVG text."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(4.4, 2.7), layout="constrained")
        axes = figure.subplots()
        radii = [p.radius for p in curve]
        axes.plot(radii, [100 * p.of_all.estimate for p in curve], color=COLOURS[0])
        low, high = ([100 * p.of_all[i] for p in curve] for i in (1, 2))
        axes.fill_between(radii, low, high, color=COLOURS[0], alpha=0.15, linewidth=0)
        axes.set_title(title, loc="left", fontsize=9, fontweight="bold")
        axes.set_xlabel(f"{norm} radius")
        axes.set_ylabel("certified accuracy %")
        axes.set_ylim(-3, 103)
        return svg(figure)


def proof_figure(
    proof: Proof, attacked: Mapping[float, Interval], found: Sequence[Curve] = ()
) -> str:
    """What is proved of a run's defense at every radius, and what attackers leave of it.

    Solid with a 95 % band: proved right. Dashed: if abstentions are no error. attacked: by radius,
    dots; found: curves of attacks for the nearest point. The truth lies between the two.
    """
    end = max([proof.reach, *attacked]) * 1.05 or 1.0
    stops = np.unique(np.append(proof.answering[proof.right], [0.0, end]))
    silent = np.unique(np.append(proof.radius[proof.right], [0.0, end]))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(10.8, 3.3), layout="constrained")
        axes = figure.subplots()
        middle, low, high = 100 * np.array([proof.at(r) for r in stops]).T
        axes.step(stops, middle, where="pre", color=COLOURS[0], linewidth=1.8, label="proved")
        axes.fill_between(stops, low, high, step="pre", color=COLOURS[0], alpha=0.15, linewidth=0)
        most = [100 * proof.unless_silent(r).estimate for r in silent]
        label = "proved, if it may abstain"
        axes.step(silent, most, "--", where="pre", color=COLOURS[0], linewidth=1, label=label)
        for curve, colour in zip(found, COLOURS[2:], strict=False):
            radii = np.linspace(0, min(end, curve.eps), 241)
            left = [100 * curve.at(r).estimate for r in radii]
            axes.plot(radii, left, color=colour, linewidth=1.4, label=f"left by {curve.recipe}")
        if attacked:
            middle, low, high = 100 * np.array([*attacked.values()]).T
            axes.errorbar(
                [*attacked],
                middle,
                yerr=[middle - low, high - middle],
                fmt="o",
                color=COLOURS[1],
                markersize=4,
                linewidth=1.2,
                label="left by all attackers",
            )
        axes.set_xlabel(f"{proof.norm} radius")
        axes.set_ylabel("accuracy %")
        axes.set_xlim(-0.02 * end, end)
        axes.set_ylim(-3, 103)
        axes.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0))
        return svg(figure)


def _percent(share: Interval | None) -> str:
    if share is None:
        return "-"
    return f"{100 * share.estimate:.1f} [{100 * share.low:.1f}, {100 * share.high:.1f}]"
