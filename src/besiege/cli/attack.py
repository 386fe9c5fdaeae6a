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
    method: Annotated[
        str | None,
        typer.Option("--attack", help="Run by every attacker in place of its own; `list attacks`."),
    ] = None,
    other_model: Annotated[
        list[str] | None,
        typer.Option(help="Attack these models, and try the points on the defense. Repeatable."),
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
    given = {"attack": method, "models": other_model}
    from besiege.cli.single import besiege_one

    besiege_one(
        "attack",
        defense=defense,
        model=model,
        data=data,
        threat=threat,
        targeted=targeted,
        recipes=recipe or ["transfer" if other_model else "bpda+eot"],
        steps=steps,
        more={key: value for key, value in given.items() if value},
        changes=options.changes(change, save_images),
        out=out,
    )
