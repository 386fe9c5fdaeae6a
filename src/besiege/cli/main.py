"""The command `besiege`.

Exit codes: 0 done, 1 an expectation failed, 2 bad input, 3 a gate is undecided, 130 Ctrl-C.
"""

from __future__ import annotations

import sys

import typer

from besiege.cli import (
    attack,
    certify,
    check,
    compare,
    demo,
    doctor,
    evaluate,
    explain,
    gate,
    judge,
    listing,
    protect,
    quilt,
    report,
    reproduce,
    run,
)
from besiege.core.errors import BesiegeError

INTERRUPTED = 130

app = typer.Typer(
    name="besiege",
    help="Lays siege to an image classifier that is guarded by input transformations.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("demo")(demo.demo)
app.command("run")(run.run)
app.command("attack")(attack.attack)
app.command("evaluate")(evaluate.evaluate)
app.command("judge")(judge.judge)
app.command("protect")(protect.protect)
app.command("list")(listing.listing)
app.command("explain")(explain.explain)
app.command("check")(check.check)
app.command("doctor")(doctor.doctor)
app.command("report")(report.report)
app.command("gate")(gate.gate)
app.command("compare")(compare.compare)
app.command("reproduce")(reproduce.reproduce)
app.command("certify")(certify.certify)
app.add_typer(quilt.app, name="quilt")


def main() -> None:
    """Run the command line; an error that a user can meet is one message, not a traceback."""
    try:
        app()
    except BesiegeError as error:
        print(f"besiege: {error}", file=sys.stderr)
        sys.exit(2)
    except (KeyboardInterrupt, SystemExit) as stop:  # typer makes the second of the first
        if isinstance(stop, SystemExit) and stop.code != INTERRUPTED:
            raise
        print(
            "besiege: stopped. What is finished is kept; the same command resumes.", file=sys.stderr
        )
        sys.exit(INTERRUPTED)
