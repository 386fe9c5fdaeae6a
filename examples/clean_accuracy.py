"""What the strength of a defense costs on clean images: python examples/clean_accuracy.py [NAME]

channels: the lossy channels of Dziedzic and Krishnan 2020, table 2 and figure 5, on 1,000 images of
CIFAR-10 under ResNet-20 and ResNet-56. photographs: size and value of the padding and the limit of
the distortion, tables V, IX and VI of Qiu et al. 2020, on 100 photographs of the NIPS 2017
development set at 299 px under MobileNetV2 and EfficientNet-Lite0 (data in `../shared/data`).

Each prints its rows as Markdown, with the intervals, and draws docs/images/clean_NAME.svg.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib as mpl
import torch
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import track

from besiege.core.key import Key
from besiege.core.stats import Interval, right_shares, share_interval
from besiege.data.catalog import load_images
from besiege.data.images import Images
from besiege.defenses.catalog import parse_chain
from besiege.defenses.defense import Defense
from besiege.models.catalog import load_model
from besiege.models.classifier import Classifier
from besiege.report.figures import COLOURS, STYLE

ROOT = Path(__file__).parents[1]
DATA = ROOT.parent / "shared" / "data"


class Point(NamedTuple):
    """One strength: its figure on the axis, the chain, and what the paper prints in per cent."""

    at: float
    chain: str
    published: float | None = None


class Panel(NamedTuple):
    """One plot: a defense against its strength."""

    title: str
    axis: str
    points: Sequence[Point]


class Study(NamedTuple):
    """Panels over the same images and networks; `draws` answers an image."""

    panels: Sequence[Panel]
    images: str
    n: int
    nets: Sequence[str]
    draws: int
    batch: int


def series(
    title: str,
    axis: str,
    spec: str,
    values: Iterable[float],
    published: Mapping[float, float] | None = None,
) -> Panel:
    """`spec` with each of the values in place of `{}`."""
    known = published or {}
    return Panel(title, axis, [Point(v, spec.format(f"{v:g}"), known.get(v)) for v in values])


REMOVED = (1, 10, 20, 30, 50, 75, 90)
SCALES = (0.009, 0.03, 0.07, 0.1)
FC = {1: 93.5, 10: 93.42, 50: 91.6, 75: 79.53}
DEPTH = {8: 93.4, 6: 93.3, 4: 91.9, 2: 87.4}
UNIFORM = {0.009: 93.52, 0.03: 92.59, 0.07: 85.2, 0.1: 70.67}
RELEASED = "convention=released,space=cifar10,clip=false"

CHANNELS = Study(
    [
        series("FC as released", "% removed", "fft:percent={},form=released", REMOVED, FC),
        series("FC", "% removed", "fft:percent={}", REMOVED, FC),
        series("colour depth", "bits", "bits:bits={}", range(8, 0, -1), DEPTH),
        series("SVD", "% removed", "svd:percent={}", (1, 10, 30, 50, 70, 80, 90)),
        series(
            "uniform noise as released",
            "scale",
            f"noise:kind=uniform,scale={{}},{RELEASED}",
            SCALES,
            UNIFORM,
        ),
        series(
            "Gaussian noise as released",
            "scale",
            f"noise:kind=gaussian,scale={{}},{RELEASED}",
            SCALES,
        ),
        series(
            "Laplace noise as released",
            "scale",
            f"noise:kind=laplace,scale={{}},{RELEASED}",
            SCALES,
        ),
        series("uniform noise in pixels", "scale", "noise:kind=uniform,scale={}", SCALES, UNIFORM),
    ],
    f"packed:path={DATA / 'cifar10_test_subset.npz'}",
    1000,
    [f"file:{DATA / f'cifar10_resnet{depth}.safetensors'}" for depth in (20, 56)],
    draws=1,
    batch=250,
)

LIMITS = (0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3)
PHOTOGRAPHS = Study(
    [
        series("Rand", "canvas, px", "pad:canvas={}", (330, 350, 400, 450, 500, 600)),
        series("FD + Rand", "canvas, px", "fd + pad:canvas={}", (330, 350, 400, 450, 500, 600)),
        series("Rand", "grey of the canvas", "pad:fill={}", (0, 0.25, 0.5, 0.75, 1)),
        series("FD + Rand", "grey of the canvas", "fd + pad:fill={}", (0, 0.25, 0.5, 0.75, 1)),
        series("RDG", "distortion limit", "rdg:limit={}", LIMITS),
        series("FD + RDG", "distortion limit", "fd + rdg:limit={}", LIMITS, {0.15: 95, 0.25: 93}),
    ],
    f"nips2017:path={DATA / 'imagenet_nips2017'}",
    100,
    [f"file:{DATA / 'imagenet_mobilenet_v2_fp16.safetensors'}", "efficientnet-lite0"],
    draws=4,
    batch=10,
)
STUDIES = {"channels": CHANNELS, "photographs": PHOTOGRAPHS}


def accuracy(defense: Defense, images: Images, draws: int, batch: int) -> Interval:
    """Of one defense on clean images: each counts by the share of its draws that are right."""
    answers = []
    for x, ids in zip(images.x.split(batch), torch.arange(len(images.x)).split(batch), strict=True):
        key = Key.root(0, ids).fold("clean")
        answers.append(torch.stack([defense.labels(x, key.fold(i)) for i in range(draws)], 1))
    return share_interval(right_shares(torch.cat(answers).tolist(), images.y.tolist()))


def measured(
    study: Study, images: Images, nets: Sequence[Classifier]
) -> list[list[list[Interval]]]:
    """Intervals by panel, point and network."""

    def of(point: Point) -> list[Interval]:
        defenses = [Defense(parse_chain(point.chain), net) for net in nets]
        draws = study.draws if defenses[0].is_random(images.x.shape[1:]) else 1
        return [accuracy(defense, images, draws, study.batch) for defense in defenses]

    every = [(i, point) for i, panel in enumerate(study.panels) for point in panel.points]
    found: list[list[list[Interval]]] = [[] for _ in study.panels]
    for i, point in track(every, "clean accuracy", console=Console(stderr=True)):
        found[i].append(of(point))
    return found


def markdown(
    study: Study, found: Sequence[Sequence[Sequence[Interval]]], names: Sequence[str]
) -> str:
    """A line a point: published, and what each network gets, with its interval."""
    lines = [f"| defense | published | {' | '.join(names)} |", "|---|---:|" + "---:|" * len(names)]
    for panel, rows in zip(study.panels, found, strict=True):
        for point, intervals in zip(panel.points, rows, strict=True):
            printed = "-" if point.published is None else f"{point.published:g}"
            cells = [
                f"{100 * i.estimate:.1f} [{100 * i.low:.1f}, {100 * i.high:.1f}]" for i in intervals
            ]
            lines.append(f"| `{point.chain}` | {printed} | {' | '.join(cells)} |")
    return "\n".join(lines)


def picture(
    study: Study, found: Sequence[Sequence[Sequence[Interval]]], names: Sequence[str]
) -> Figure:
    """A plot for each panel, with 95 % intervals, and crosses where the paper prints a figure."""
    across = 4 if len(study.panels) > 6 else 3
    down = -(-len(study.panels) // across)
    figure = Figure(figsize=(3.1 * across, 2.4 * down), layout="constrained")
    plots = figure.subplots(down, across, sharey=True, squeeze=False).flat
    for axes, panel, rows in zip(plots, study.panels, found, strict=True):
        at = [point.at for point in panel.points]
        for k, (name, colour) in enumerate(zip(names, COLOURS, strict=False)):
            low, middle, high = (
                [100 * getattr(row[k], part) for row in rows]
                for part in ("low", "estimate", "high")
            )
            axes.plot(at, middle, "o-", color=colour, markersize=3, linewidth=1.2, label=name)
            axes.fill_between(at, low, high, color=colour, alpha=0.15, linewidth=0)
        known = [point for point in panel.points if point.published is not None]
        if known:
            axes.plot([p.at for p in known], [p.published for p in known], "kx", label="published")
        axes.set_title(panel.title, fontsize=8, loc="left")
        axes.set_xlabel(panel.axis, fontsize=8)
        axes.tick_params(labelsize=8)
        axes.set_ylim(0, 101)
    figure.supylabel("accuracy on clean images, %", fontsize=8)
    figure.legend(
        *axes.get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=8
    )
    return figure


def main(*wanted: str) -> None:
    """Print the rows of each study and draw its picture."""
    for name in wanted or STUDIES:
        study = STUDIES[name]
        images = load_images(study.images).take(range(study.n))
        nets = [load_model(spec) for spec in study.nets]
        found, names = measured(study, images, nets), [net.name for net in nets]
        print(markdown(study, found, names))
        with mpl.rc_context(STYLE):
            file = ROOT / "docs" / "images" / f"clean_{name}.svg"
            picture(study, found, names).savefig(file, metadata={"Date": None})


if __name__ == "__main__":
    main(*sys.argv[1:])
