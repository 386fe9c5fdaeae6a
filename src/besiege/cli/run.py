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
    engine: Annotated[
        str | None, typer.Option(help="local or ray, as --set engine.kind; see the docs' engines.")
    ] = None,
    address: Annotated[
        str | None, typer.Option(help="Of a Ray cluster, HOST:PORT or auto.")
    ] = None,
    shard: Annotated[
        str | None,
        typer.Option(metavar="K/N", help="Only the K-th of N parts; all may share one run folder."),
    ] = None,
    until: options.Until = None,
    save_images: options.SaveImages = False,
    change: options.Change = None,
) -> None:
    """Attack and judge everything in EXPERIMENT; running again resumes."""
    from besiege.cli.siege import siege
    from besiege.study.experiment.experiment import load_experiment
    from besiege.study.part import Part

    changes = options.changes(change, save_images)
    changes += [f"engine.kind={engine}"] if engine else []
    changes += [f'engine.address="{address}"'] if address else []
    loaded, folder = load_experiment(experiment, changes), out or Path("runs") / experiment.stem
    if until is None:
        siege(loaded, folder, Part.parse(shard) if shard else Part())
        return
    from besiege.cli.siege import siege_until
    from besiege.core.errors import BadSetting

    if shard:
        raise BadSetting("--until looks at the run as a whole: leave out --shard.")
    siege_until(loaded, folder, until)
