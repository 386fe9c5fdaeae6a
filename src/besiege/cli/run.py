"""`besiege run EXPERIMENT`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def run(
    experiment: Annotated[
        Path, typer.Argument(help="A TOML file; see the docs' experiments page.")
    ],
    out: Annotated[
        Path | None, typer.Option(help="Run folder, made or resumed. Default: runs/NAME.")
    ] = None,
    change: Annotated[
        list[str] | None,
        typer.Option("--set", help="A setting changed, as in engine.workers=4. Repeatable."),
    ] = None,
) -> None:
    """Attack and judge everything in EXPERIMENT; running again resumes."""
    from besiege.cli.siege import siege
    from besiege.study.experiment import load_experiment

    spec = load_experiment(experiment, change or [])
    siege(spec, out or Path("runs") / experiment.stem)
