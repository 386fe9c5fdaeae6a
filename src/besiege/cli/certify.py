"""`besiege certify`: radii that no attack can cross."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from besiege.cli import options

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from besiege.checks.finding import Finding
    from besiege.core.key import Key
    from besiege.defenses.defense import Defense
    from besiege.study.certify import Certificates


Predict: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--predict", help="Only ask what it answers, or that it abstains; certify no radius."
    ),
]


def certify(
    defense: options.Chain,
    model: options.Network,
    vote: Annotated[
        str, typer.Option(help="What is deployed; a majority that abstains without its quorum.")
    ] = "majority:draws=100,quorum=0.655",
    data: Annotated[str, typer.Option(help="See `besiege list data`.")] = "digits",
    n: Annotated[int, typer.Option(help="How many images, at random; 0 for all.", min=0)] = 100,
    samples: Annotated[int, typer.Option(help="Draws an image that bound its radius.")] = 1000,
    select: Annotated[int, typer.Option(help="Draws an image before, to choose its answer.")] = 100,
    alpha: Annotated[float, typer.Option(help="Chance that a certificate is wrong.")] = 0.001,
    radius: Annotated[
        float | None, typer.Option(help="One that shall be certifiable, and is on the curve.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of images and draws.")] = 0,
    micro_batch: Annotated[int, typer.Option(help="Rows that the network sees at once.")] = 128,
    into: Annotated[
        Path | None,
        typer.Option(help="A run folder with this defense: its images are certified, and kept."),
    ] = None,
    predict: Predict = False,
    figure: Annotated[Path | None, typer.Option(help="An .svg file for the curve.")] = None,
) -> None:
    """Certify a defense that begins with noise, by randomized smoothing; attacks nothing."""
    from besiege.core.key import Key
    from besiege.data.catalog import load_images
    from besiege.defenses.catalog import parse_chain
    from besiege.defenses.defense import VOTES, Defense
    from besiege.models.catalog import load_model
    from besiege.study.certified import certifiable, keep_certificates, on_curve
    from besiege.study.certify import certify as certify_images
    from besiege.study.judge import check_images
    from besiege.study.progress import Display

    _fitting(predict, into, radius, figure)
    run = certifiable(into, defense, vote, model) if into else None
    images = load_images(run["experiment"]["data"]["source"] if run else data)
    x, y, _ = images.take(ids := run["ids"] if run else _some(len(images), n, seed))
    network = load_model(model, shape=images.shape)
    check_images(x, y, network.num_classes, network.channels, ids)
    deployed = Defense(parse_chain(defense), network, VOTES.build(vote))
    key = Key.root(seed, ids)
    if predict:
        _predict(deployed, x, y, key, ids, samples, alpha, micro_batch)
        return
    with Display(sys.stderr) as display:
        found = certify_images(
            deployed,
            x,
            key,
            samples=samples,
            select=select,
            alpha=alpha,
            radius=radius,
            micro_batch=micro_batch,
            on_event=display,
        )
    if run and into:
        keep_certificates(into, run, y, found)
    _show(found, y, radius, defense, figure, on_curve(found, y, into, run), into)


def _fitting(predict: bool, into: Path | None, radius: float | None, figure: Path | None) -> None:
    """Refuse options that do not go together."""
    from besiege.core.errors import BadSetting

    if predict and (into or radius is not None or figure):
        raise BadSetting("--predict certifies nothing: leave out --into, --radius and --figure.")
    if figure is not None and figure.suffix.lower() != ".svg":
        raise BadSetting(f'a figure is an .svg file, not "{figure}".')


def _predict(
    deployed: Defense,
    x: Tensor,
    y: Tensor,
    key: Key,
    ids: Sequence[int],
    samples: int,
    alpha: float,
    micro_batch: int,
) -> None:
    """Print the answer to each image, and how many are right."""
    from besiege.core.stats import share_interval
    from besiege.defenses.defense import ABSTAIN
    from besiege.study.certify import predict

    found = predict(deployed, x, key, samples=samples, alpha=alpha, micro_batch=micro_batch)
    names = deployed.classifier.classes
    for i, answer, label in zip(ids, found.tolist(), y.tolist(), strict=True):
        said = "abstains" if answer == ABSTAIN else names[answer]
        print(f"{i}: {said}{'' if answer == label else f' (label {names[label]})'}")
    right, silent = (found == y).double().cpu().numpy(), int((found == ABSTAIN).sum())
    print(
        f"right: {share_interval(right)} of {len(y)}; {silent} without an answer. {samples:,} "
        f"samples an image; an answer is wrong with a chance of {alpha:g} at most."
    )


def _some(count: int, n: int, seed: int) -> list[int]:
    """Numbers of n images, or all of them, at random."""
    from besiege.core.key import Key

    order = Key.root(seed, [0]).fold("which images").permutation(count)[0]
    return sorted(order[: n or count].tolist())


def _show(
    found: Certificates,
    label: Tensor,
    radius: float | None,
    title: str,
    figure: Path | None,
    findings: list[Finding],
    kept: Path | None,
) -> None:
    """The curve, in figures and perhaps in a figure, with the findings that touch it, and what was
    certified in a line."""
    from besiege.report.certified import curve_figure, show_curve

    curve, norm = found.curve(label, radius), found.channel.norm
    show_curve(curve, norm, sys.stdout, findings)
    print(found.sentence(label))
    if figure is not None:
        figure.parent.mkdir(parents=True, exist_ok=True)
        figure.write_text(curve_figure(curve, norm, title), encoding="utf-8")
        print(f"figure: {figure}")
    if kept:
        print(f"kept: {kept}; `besiege report {kept}` has the verdict")
