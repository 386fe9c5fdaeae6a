"""Fixtures that several test files use."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared() -> Path:
    """The authors' reference data and goldens, which lie beside the checkout and are optional."""
    folder = Path(__file__).parents[1].parent / "shared"
    if not folder.is_dir():
        pytest.skip("no folder `shared` beside the checkout: reference data and goldens are absent")
    return folder
