"""`besiege attack`: one experiment without a file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer


def attack(
    defense: Annotated[str, typer.Option(help='Links in order: "fd + rdg:limit=0.15".')] = "none",
    recipe: Annotated[
        list[str] | None,
        typer.Option(help="Attackers, see `besiege list recipes`. Repeatable. Default: bpda+eot."),
    ] = None,
    threat: Annotated[str, typer.Option(help='Ball and radius: "linf:eps=8/255".')] = (
        "linf:eps=8/255"
    ),
    targeted: Annotated[bool, typer.Option(help="Towards random targets.")] = False,
    data: Annotated[str, typer.Option(help="See `besiege list data`.")] = "digits",
    model: Annotated[str, typer.Option(help="See `besiege list models`.")] = "digits-cnn",
    steps: Annotated[int, typer.Option(help="Steps of every attacker.")] = 50,
    out: Annotated[Path, typer.Option(help="Run folder, made or resumed.")] = Path("runs/attack"),
    change: Annotated[
        list[str] | None,
        typer.Option("--set", help="Any other setting of the file format, as in data.n=20."),
    ] = None,
) -> None:
    """Attack one defense and judge what is found; the clean figure comes first."""
    from besiege.cli.siege import siege
    from besiege.core.entry import parse_spec
    from besiege.study.experiment import experiment_from

    ball, size = parse_spec(threat)
    attackers = [{"kind": kind, "steps": steps} for kind in recipe or ["bpda+eot"]]
    settings: dict[str, Any] = {
        "name": f"attack on {defense}",
        "data": data,
        "model": model,
        "defense": [{"name": defense, "chain": defense}],
        "threat": [{"ball": ball, "targeted": targeted, **size}],
        "recipe": [{"kind": "none"}, *attackers],
    }
    siege(experiment_from(settings, change or [], home=Path(), where="besiege attack"), out)
