"""What every command that attacks does once it has an experiment."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from besiege.study.experiment import Experiment


def siege(experiment: Experiment, out: Path) -> None:
    """Run `experiment` into `out` with progress on stderr; print its table and write its page."""
    from besiege.cli.progress import Display
    from besiege.report.page import write_report
    from besiege.report.tables import summarise
    from besiege.report.terminal import show
    from besiege.study.run import run_experiment

    try:
        with Display(sys.stderr) as display:
            run_experiment(experiment, out, display)
    finally:
        if (out / "resolved.json").exists():
            show(summarise(out), sys.stdout)
            print(f"report: {write_report(out)}")
