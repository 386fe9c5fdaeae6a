"""Figures as SVG text: the same bytes from the same rows, readable in light and dark."""

from __future__ import annotations

import io
import re
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from besiege.core.stats import Interval, share_interval
from besiege.report.curve import LEVELS, Curve
from besiege.report.effort import Effort
from besiege.report.lines import Line

# Colour-blind safe (Okabe and Ito 2008), in an order that keeps neighbours apart.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6bb1", "#7f7f7f")
STEPS = 400  # of a curve that are drawn, at most
STYLE: Any = {
    "svg.hashsalt": "besiege",
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def curves(title: str, cells: Sequence[tuple[Line, Sequence[Mapping[str, Any]]]]) -> str:
    """The siege after each step, for the recipes of one defense and threat.

    cells: (line, its traces). Untargeted: accuracy; targeted: attack success. Solid with a 95 %
    band: judged on fresh draws at some steps. Dashed: what the attacker reads on its own draws
    through its own view; the distance between the two is what a recipe that leaves links out, or
    trusts few draws, fools itself by.
    """
    targeted = cells[0][0].targeted
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(4.4, 2.7), layout="constrained")
        axes = figure.subplots()
        for (line, traces), colour in zip(cells, COLOURS * 4, strict=False):
            _own(axes, line, traces, colour)
            _judged(axes, targeted, traces, colour)
        _title(axes, title)
        axes.set_xlabel("step")
        axes.set_ylabel("attack success %" if targeted else "accuracy %")
        axes.set_ylim(-3, 103)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=5, steps=[1, 2, 5, 10]))
        if axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False, fontsize=7.5, loc="best")
        return svg(figure)


def _own(axes: Any, line: Line, traces: Sequence[Mapping[str, Any]], colour: str) -> None:
    won = [t["won"] for t in traces if t["won"]]
    if not won:
        return
    met = np.nanmean(np.array(won, dtype=float), axis=0)
    share = met if line.targeted else 1 - met
    axes.plot(100 * share, color=colour, linewidth=1, linestyle="--", label=line.recipe)


def _judged(axes: Any, targeted: bool, traces: Sequence[Mapping[str, Any]], colour: str) -> None:
    steps = traces[0]["judged_step"] if traces else []
    if not steps:
        return
    shares = np.array([t["judged_won" if targeted else "judged"] for t in traces], dtype=float)
    bands = [share_interval(shares[:, i]) for i in range(len(steps))]
    axes.plot(steps, [100 * b.estimate for b in bands], color=colour, linewidth=1.8)
    axes.fill_between(
        steps,
        [100 * b.low for b in bands],
        [100 * b.high for b in bands],
        color=colour,
        alpha=0.15,
        linewidth=0,
    )


def by_radius(title: str, found: Sequence[Curve], reach: float) -> str:
    """The share that stands at every radius up to `reach`, for the attackers of one defense.

    Untargeted: accuracy; targeted: attack success. With 95 % bands; dots are median distances.
    """
    first = found[0]
    unit = 255 if first.ball in LEVELS else 1
    radii = np.linspace(0, reach, 241)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(4.4, 2.7), layout="constrained")
        axes = figure.subplots()
        for curve, colour in zip(found, COLOURS * 4, strict=False):
            middle = curve.median.estimate
            at = np.append(radii, min(middle, reach))
            shares = 100 * np.array([curve.at(radius) for radius in at])
            shares = 100 - shares if curve.targeted else shares
            line, *edges = shares[:-1].T
            axes.plot(unit * radii, line, color=colour, linewidth=1.8, label=curve.recipe)
            axes.fill_between(unit * radii, *edges, color=colour, alpha=0.13, linewidth=0)
            if middle <= reach:
                axes.plot(unit * middle, shares[-1, 0], "o", color=colour, markersize=4)
        _title(axes, title)
        axes.set_xlabel(f"{first.ball} distance{' in 255ths' if unit > 1 else ''}")
        axes.set_ylabel("attack success %" if first.targeted else "accuracy %")
        axes.set_xlim(0, unit * reach)
        axes.set_ylim(-3, 103)
        axes.legend(frameon=False, fontsize=7.5, loc="best")
        return svg(figure)


def by_passes(title: str, found: Sequence[Effort], wide: bool = False) -> str:
    """What stands against the passes an image may cost, for attackers of one threat and goal.

    A line each, with its 95 % band: a colour a defense, dashes for its second attacker. Dots at
    the end: what the judge made of it.
    """
    defenses = list(dict.fromkeys(one.defense for one in found))
    recipes = list(dict.fromkeys(one.recipe for one in found))
    end = max(1, *(one.most for one in found))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(10.8, 3.3) if wide else (4.4, 2.7), layout="constrained")
        axes = figure.subplots()
        for i, one in enumerate(found):
            colour = COLOURS[defenses.index(one.defense) % len(COLOURS)]
            style = ("-", "--", ":", "-.")[recipes.index(one.recipe) % 4]
            name = one.recipe if not wide else one.defense
            if wide and len(recipes) > 1:
                name = f"{name}, {one.recipe}"
            passes = _drawn(one, end)
            middle, low, high = 100 * np.array([one.at(p) for p in passes]).T
            passes = np.maximum(passes, 1)  # on a scale without 0
            label = wrapped(name)
            axes.step(passes, middle, style, where="post", color=colour, linewidth=1.8, label=label)
            axes.fill_between(passes, low, high, step="post", color=colour, alpha=0.12, linewidth=0)
            _dot(axes, end * 1.12 * 1.09**i, one.judged, colour)
        _title(axes, title)
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda p, _: f"{p:,.0f}"))
        axes.set_xlim(_begin(found), end * 1.2 * 1.09 ** len(found))
        axes.set_xlabel("forward and backward passes an image")
        axes.set_ylabel("target missed %" if found[0].targeted else "accuracy %")
        axes.set_ylim(-3, 103)
        if wide:
            axes.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0))
        elif len(found) > 1:
            axes.legend(frameon=False, fontsize=7.5, loc="best")
        return svg(figure)


def _drawn(one: Effort, end: int) -> Any:
    """Passes at which a curve is drawn: all of its steps, or as many as the eye can tell."""
    if len(one.passes) <= STEPS:
        return np.append(one.passes, end)
    return np.append(0, np.geomspace(max(1, one.passes[1]), end, STEPS))


def _begin(found: Sequence[Effort]) -> float:
    """Where the passes of a figure begin: some way before anything falls."""
    firsts = [one.passes[one.passes > 0][0] for one in found if one.most > 0]
    return max(1.0, 0.6 * min(firsts, default=1.0))


def _dot(axes: Any, x: float, share: Interval, colour: str) -> None:
    """A share with its limits."""
    middle, low, high = (100 * s for s in share)
    limits = [[middle - low], [high - middle]]
    axes.errorbar(
        x, middle, yerr=limits, fmt="o", color=colour, markersize=4, linewidth=1.2, clip_on=False
    )


def dots(lines: Sequence[Line]) -> str:
    """Accuracy of each cell of one threat with its interval: a row a defense, a colour a recipe."""
    defenses = list(dict.fromkeys(line.defense for line in lines))
    recipes = list(dict.fromkeys(line.recipe for line in lines))
    with mpl.rc_context(STYLE):
        height = 0.9 + len(defenses) * (0.16 * len(recipes) + 0.12)
        figure = Figure(figsize=(7.5, height), layout="constrained")
        axes = figure.subplots()
        for i, recipe in enumerate(recipes):
            own = [line for line in lines if line.recipe == recipe]
            y = [
                defenses.index(line.defense) + 0.8 * (i + 0.5) / len(recipes) - 0.4 for line in own
            ]
            x = np.array([100 * line.accuracy.estimate for line in own])
            low = x - [100 * line.accuracy.low for line in own]
            high = [100 * line.accuracy.high for line in own] - x
            colour = COLOURS[i % len(COLOURS)]
            axes.errorbar(
                x,
                y,
                xerr=[low, high],
                fmt="o",
                color=colour,
                markersize=4,
                linewidth=1.2,
                label=recipe,
            )
        axes.set_yticks(range(len(defenses)), [wrapped(name) for name in defenses])
        axes.invert_yaxis()
        axes.set_xlim(-2, 102)
        axes.set_xlabel("accuracy %, 95 % interval")
        axes.grid(axis="x", alpha=0.25)
        axes.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0))
        return svg(figure)


def wrapped(name: str, width: int = 30) -> str:
    """A name in lines of so many letters, as chains can be long."""
    return textwrap.fill(name, width)


def _title(axes: Any, title: str) -> None:
    axes.set_title(wrapped(title, 56), loc="left", fontsize=9, fontweight="bold")


def svg(figure: Figure) -> str:
    """The figure's SVG element, with ink in the page's own colour."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"#000000", "currentColor", text)
    return re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
