"""`besiege attack`: one experiment without a file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from besiege.cli import options


def attack(
    defense: options.Chain = "none",
    recipe: Annotated[
        list[str] | None,
        typer.Option(help="Attackers, see `besiege list recipes`. Repeatable. Default: bpda+eot."),
    ] = None,
    threat: options.Goal = "linf:eps=8/255",
    targeted: Annotated[bool, typer.Option(help="Towards random targets.")] = False,
    data: Annotated[str, typer.Option(help="See `besiege list data`.")] = "digits",
    model: options.Network = "digits-cnn",
    steps: options.Steps = 50,
    out: options.Out = Path("runs/attack"),
    save_images: options.SaveImages = False,
    change: options.Change = None,
) -> None:
    """Attack one defense and judge what is found; the clean figure comes first."""
    from besiege.cli.single import besiege_one

    besiege_one(
        "attack",
        defense=defense,
        model=model,
        data=data,
        threat=threat,
        targeted=targeted,
        recipes=recipe or ["bpda+eot"],
        steps=steps,
        changes=options.changes(change, save_images),
        out=out,
    )
