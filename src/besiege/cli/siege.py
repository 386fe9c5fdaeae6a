"""What every command that attacks does once it has an experiment."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from besiege.study.experiment.experiment import Experiment
    from besiege.study.part import Part


def siege(experiment: Experiment, out: Path, part: Part | None = None) -> None:
    """Run `experiment` into `out` with progress on stderr; print its table and write its page.

    part: only that part of it. The last part to be done prints the table of all.
    """
    from besiege.core.store import RunFolder
    from besiege.study.progress import Display
    from besiege.study.run import run_experiment

    def run() -> None:
        with Display(sys.stderr) as display:
            run_experiment(experiment, out, display, part=part)

    if part is None or part.parts == 1:
        try:
            run()
        finally:
            if (out / "resolved.json").exists():
                _report(out)
        return
    run()
    if lacking := RunFolder(out).lacking():
        print(f"part {part.number} of {part.parts} is done; {lacking} rows of others are missing")
    else:
        _report(out)


def siege_until(experiment: Experiment, out: Path, threshold: float) -> None:
    """Run `experiment` until each defense is told from `threshold`; print what is known."""
    from besiege.study.progress import Display
    from besiege.study.until import run_until

    with Display(sys.stderr) as display:
        found = run_until(experiment, out, threshold, display)
    _report(out)
    for told in found:
        print(told)


def _report(out: Path) -> None:
    from besiege.report.page import write_report
    from besiege.report.tables import summarise
    from besiege.report.terminal import show

    show(summarise(out), sys.stdout)
    print(f"report: {write_report(out)}")
