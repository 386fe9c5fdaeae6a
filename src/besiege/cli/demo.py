"""`besiege demo`: from nothing to a judged report in two minutes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def demo(
    imagenet: Annotated[
        bool, typer.Option(help="One photograph and EfficientNet-Lite0 (extra: imagenet).")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="Run folder. Default: runs/demo.")] = None,
    change: Annotated[
        list[str] | None, typer.Option("--set", help="A setting changed, as in data.n=20.")
    ] = None,
) -> None:
    """Handwritten digits, six defenses, four attackers, two goals, one report."""
    from besiege.cli.siege import siege
    from besiege.study.experiment import load_experiment

    name = "demo_imagenet" if imagenet else "demo"
    file = Path(__file__).parent / "assets" / f"{name}.toml"
    siege(load_experiment(file, change or []), out or Path("runs") / name)
