"""`besiege gate RUN`: requirements for continuous integration."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from besiege.cli import options

if TYPE_CHECKING:
    from besiege.study.gate.gate import Gate


Require: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        help='"robust@linf:8/255>=30%", "clean>=85%", "corrupted>=70%", "latency<=50ms", '
        '"overhead<=2x", "gap<=5%" or "findings<=0"; see the docs\' page on the gate. '
        "Repeatable; all must be met."
    ),
]
Undecided: TypeAlias = Annotated[
    bool, typer.Option("--allow-undecided", help="Pass where the interval holds the bound.")
]
Despite: TypeAlias = Annotated[
    bool, typer.Option("--despite-findings", help="Pass what a check says STOP of.")
]
Severity: TypeAlias = Annotated[
    list[int] | None, typer.Option(help="Of corruptions, 1 to 5. Repeatable. Default: 3.")
]
Latency: TypeAlias = Annotated[
    list[int] | None,
    typer.Option(metavar="BATCH", help="Tell the latency at this batch too. Repeatable."),
]


NoProduct: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--no-product", help="Do not measure latency and corruptions that nobody asks for."
    ),
]


def gate(
    run: Annotated[
        Path, typer.Argument(help="A run folder, or an experiment (.toml), which is run first.")
    ],
    require: Require = None,
    defense: Annotated[
        list[str] | None, typer.Option(help="Only this one, by its name. Repeatable.")
    ] = None,
    on: Annotated[
        str, typer.Option(help="What decides: the whole 95 % interval, or the estimate alone.")
    ] = "interval",
    allow_undecided: Undecided = False,
    despite_findings: Despite = False,
    severity: Severity = None,
    latency: Latency = None,
    no_product: NoProduct = False,
    calls: Annotated[int, typer.Option(help="How many calls are timed.")] = 30,
    junit: Annotated[Path | None, typer.Option(help="An .xml file for test reports.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="A .json file.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Run folder of an experiment. Default: runs/NAME.")
    ] = None,
    change: options.Change = None,
) -> None:
    """Check that a run's defenses meet requirements.

    Exit 0: all are met. 1: one is not. 3: none is known to be missed, some are not decided.
    2: bad input.
    """
    from besiege.cli.verdicts import show
    from besiege.study.gate.corruptions import SEVERITY
    from besiege.study.gate.gate import asking
    from besiege.study.gate.gate import gate as ask
    from besiege.study.progress import Display

    severities = severity or (SEVERITY,)
    asked = asking(require or (), on, severities, calls)  # before hours of attacks
    folder = _run(run, out, change or []) if run.suffix == ".toml" else run
    with Display(sys.stderr) as display:
        found = ask(
            folder,
            asked,
            defenses=defense or (),
            on=on,
            allow_undecided=allow_undecided,
            despite_findings=despite_findings,
            severities=severities,
            calls=calls,
            batches=latency or (),
            measure=not no_product,
            overrides=() if run.suffix == ".toml" else change or (),
            on_event=display,
        )
    show(found)
    _write(found, junit, json_file)
    if found.exit_code:
        raise typer.Exit(found.exit_code)


def _write(found: Gate, junit: Path | None, json_file: Path | None) -> None:
    """The files that are asked for."""
    import json

    from besiege.cli.junit import junit as as_junit
    from besiege.core.files import write_whole

    if junit is not None:
        write_whole(junit, as_junit(found))
    if json_file is not None:
        write_whole(json_file, json.dumps(found.record(), indent=1, allow_nan=False).encode())


def _run(experiment: Path, out: Path | None, changes: list[str]) -> Path:
    """Run an experiment, as `besiege run` does; its run folder."""
    from besiege.cli.siege import siege
    from besiege.study.experiment.experiment import load_experiment

    folder = out or Path("runs") / experiment.stem
    siege(load_experiment(experiment, changes), folder)
    return folder
