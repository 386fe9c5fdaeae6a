"""`besiege demo`: from nothing to a judged report in two minutes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from besiege.cli import options


def demo(
    imagenet: Annotated[
        bool, typer.Option(help="One photograph and EfficientNet-Lite0 (extra: imagenet).")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="Run folder. Default: runs/demo.")] = None,
    save_images: options.SaveImages = False,
    change: options.Change = None,
) -> None:
    """Handwritten digits, six defenses, four attackers, two goals, one report."""
    from besiege.cli.siege import siege
    from besiege.study.experiment.experiment import load_experiment

    name = "demo_imagenet" if imagenet else "demo"
    file = Path(__file__).parent / "assets" / f"{name}.toml"
    experiment = load_experiment(file, options.changes(change, save_images))
    siege(experiment, out or Path("runs") / name)
