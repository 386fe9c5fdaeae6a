"""`besiege run EXPERIMENT`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from besiege.cli import options


def run(
    experiment: Annotated[
        Path, typer.Argument(help="A TOML file; see the docs' experiments page.")
    ],
    out: Annotated[
        Path | None, typer.Option(help="Run folder, made or resumed. Default: runs/NAME.")
    ] = None,
    save_images: options.SaveImages = False,
    change: options.Change = None,
) -> None:
    """Attack and judge everything in EXPERIMENT; running again resumes."""
    from besiege.cli.siege import siege
    from besiege.study.experiment import load_experiment

    spec = load_experiment(experiment, options.changes(change, save_images))
    siege(spec, out or Path("runs") / experiment.stem)
