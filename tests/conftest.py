"""Fixtures that several test files use."""

import sys
from pathlib import Path

import pytest

from besiege.cli.main import main


@pytest.fixture(scope="session")
def shared() -> Path:
    """The authors' reference data and goldens, which lie beside the checkout and are optional."""
    folder = Path(__file__).parents[1].parent / "shared"
    if not folder.is_dir():
        pytest.skip("no folder `shared` beside the checkout: reference data and goldens are absent")
    return folder


@pytest.fixture
def command_line(monkeypatch, capsys):
    """Run the command line here: its exit code, stdout and stderr."""

    def run(*args):
        monkeypatch.setattr(sys, "argv", ["besiege", *map(str, args)])
        code = 0
        try:
            main()
        except SystemExit as end:
            code = end.code or 0
        out = capsys.readouterr()
        return code, out.out, out.err

    return run
