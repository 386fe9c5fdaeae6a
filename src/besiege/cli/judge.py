"""`besiege judge`: points that were found elsewhere, or those of a run once more."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from besiege.cli import options

if TYPE_CHECKING:
    from besiege.study.rejudge import Rejudged


def judge(
    run: Annotated[
        Path | None, typer.Argument(help="A run folder, to judge its saved images again.")
    ] = None,
    defense: options.Chain = "none",
    model: Annotated[
        str | None, typer.Option(help='See `besiege list models`; or "mine.py:make_model".')
    ] = None,
    images: Annotated[
        Path | None, typer.Option(help="Folder of adversarial images, without RUN.")
    ] = None,
    clean: Annotated[
        Path | None,
        typer.Option(help="Folder of the clean images: class folders, or labels.csv."),
    ] = None,
    size: options.Size = 0,
    channels: options.Channels = 3,
    order: options.Order = "",
    threat: options.Goal = "linf:eps=8/255",
    targeted: Annotated[
        bool, typer.Option(help="Towards the column target of labels.csv in --clean.")
    ] = False,
    draws: Annotated[
        int | None, typer.Option(help="Fresh draws an image. Default: 20, or those of RUN.", min=1)
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Of the draws. Default: 0, or that of RUN.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Run folder to keep, without RUN.")] = None,
    change: Annotated[
        list[str] | None, typer.Option("--set", help="A setting of RUN, as in engine.device=cuda.")
    ] = None,
) -> None:
    """Judge adversarial images of others, or those of RUN again; attacks nothing.

    With RUN, exit 1 if a saved image is missing or was changed, or if with the seed and the draws
    of the run an answer is not as recorded.
    """
    from besiege.core.errors import BadSetting

    if run is not None:
        if images or clean or model or out or defense != "none":
            raise BadSetting("RUN says what to judge: give --set, --draws and --seed with it only.")
        _run_again(run, change or [], draws, seed)
        return
    if images is None or clean is None or model is None:
        raise BadSetting("give RUN, or all of --images, --clean, --model (and --defense).")
    if change:
        raise BadSetting("--set changes settings of RUN, and none was given.")
    data = options.folder_spec(clean, size, channels, order)
    _images(defense, model, images, data, threat, targeted, draws or 20, seed or 0, out)


def _images(
    defense: str,
    model: str,
    images: Path,
    clean: str,
    threat: str,
    targeted: bool,
    draws: int,
    seed: int,
    out: Path | None,
) -> None:
    """Audit and judge a folder of images."""
    from besiege.attacks.threat import BALLS, Threat
    from besiege.core.errors import BadSetting
    from besiege.data.catalog import load_images
    from besiege.data.folder import counterparts, file_names
    from besiege.defenses.catalog import parse_chain
    from besiege.defenses.defense import Defense
    from besiege.evaluation import judge_images
    from besiege.models.catalog import load_model
    from besiege.report.terminal import show
    from besiege.study.audit import audit_points

    goal = Threat(BALLS.build(threat), targeted)
    chain = parse_chain(defense)
    originals = load_images(clean)
    points = counterparts(originals, str(images))
    ids = range(len(originals))
    x, y, targets = originals.take(ids)
    if targeted and targets is None:
        raise BadSetting('--targeted needs the column "target" in labels.csv of --clean.')
    found = points.take(ids).x
    whole = Defense(chain, load_model(model, shape=originals.shape))
    audit = audit_points(found, x, goal)
    print(audit)
    for row in audit.outside[:5]:
        print(f"  {row}: {images / file_names(points)[row]}")
    summary = judge_images(
        whole, found, x, y, goal, targets=targets, draws=draws, seed=seed, out=out
    )
    show(summary, sys.stdout)


def _run_again(run: Path, changes: list[str], draws: int | None, seed: int | None) -> None:
    """Judge the points of a run again; exit 1 if that contradicts the run."""
    from besiege.study.progress import Display
    from besiege.study.rejudge import rejudge

    with Display(sys.stderr) as display:
        found = rejudge(run, changes, draws=draws, seed=seed, on_event=display)
    _show(found)
    if not found.confirmed:
        raise typer.Exit(1)


def _show(found: Rejudged) -> None:
    """The table, a line a cell, and what is wrong."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    live = sys.stdout.isatty()
    console = Console(width=None if live else 150, highlight=False)
    table = Table(box=box.SIMPLE_HEAD if live else box.ASCII2)
    table.add_column("cell")
    for name in ("points", "accuracy recorded %", "accuracy now %", "answers as recorded"):
        table.add_column(name, justify="right")
    for cell in found.cells:
        same = f"{cell.same} of {cell.answers}" if found.repeats else "other draws"
        table.add_row(
            cell.title,
            str(cell.points) if cell.points == cell.rows else f"{cell.points}/{cell.rows}",
            f"{100 * cell.recorded:.1f}",
            f"{100 * cell.now:.1f}",
            f"{same} (unkeyed)" if cell.unkeyed else same,
        )
    console.print(table)
    if any(cell.unkeyed for cell in found.cells):
        print(
            "note: unkeyed: the defense draws from a generator of its own, so that its answers "
            "cannot be repeated; they are a fresh sample"
        )
    if any(cell.points < cell.rows for cell in found.cells):
        print("note: points whose images were not kept are left out (a run has --save-images)")
    for note in found.notes:
        print(f"note: {note}")
    for sentence in found.wrong:
        print(f"wrong: {sentence}")
    if found.repeats:
        print("as recorded" if found.confirmed else "NOT as recorded")
