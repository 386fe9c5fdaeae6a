"""`besiege evaluate`: a defense, a model and images as they are, against the usual attackers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from besiege.cli import options

RECIPES = ("none", "adaptive")  # as of besiege.evaluate


def evaluate(
    defense: options.Chain,
    model: options.Network,
    images: Annotated[
        Path | None, typer.Option(help="Folder of your images: class folders, or labels.csv.")
    ] = None,
    size: options.Size = 0,
    channels: options.Channels = 3,
    order: options.Order = "",
    data: Annotated[
        str | None, typer.Option(help="Instead of --images: see `besiege list data`.")
    ] = None,
    threat: options.Goal = "linf:eps=8/255",
    targeted: Annotated[
        bool, typer.Option(help="Towards targets: random ones, or as data.targets says.")
    ] = False,
    recipe: Annotated[
        list[str] | None,
        typer.Option(help=f"Attackers. Repeatable. Default: {', '.join(RECIPES)}."),
    ] = None,
    budget: options.Budget = None,
    claim: options.Claim = None,
    n: Annotated[int, typer.Option(help="How many images; 0 for all.")] = 100,
    steps: Annotated[
        int | None, typer.Option(help="Steps of every attacker of --recipe that makes steps. [50]")
    ] = None,
    until: options.Until = None,
    out: options.Out = Path("runs/evaluate"),
    save_images: options.SaveImages = False,
    change: options.Change = None,
) -> None:
    """Evaluate a defense of your own: clean, and against an attacker that adapts to it."""
    from besiege.cli.single import besiege_one
    from besiege.core.errors import BadSetting
    from besiege.study.budget import parse_budget

    if steps is not None and not recipe:
        raise BadSetting(
            "--steps are of the attackers that --recipe names; the adaptive one has a --budget."
        )
    if (images is None) == (data is None):
        raise BadSetting("give either --images FOLDER or --data SPEC: one of them is needed.")
    source = data if images is None else options.folder_spec(images, size, channels, order)
    assert source is not None
    besiege_one(
        "evaluate",
        defense=defense,
        model=model,
        data=source,
        threat=threat,
        targeted=targeted,
        recipes=recipe or RECIPES,
        steps=50 if steps is None else steps,
        budget=None if budget is None else parse_budget(budget),
        claim=claim,
        until=until,
        changes=[f"data.n={n}", *options.changes(change, save_images)],
        out=out,
    )
