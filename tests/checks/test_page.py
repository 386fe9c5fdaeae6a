"""docs/checks.md says what the functions say."""

import importlib
import sys
from pathlib import Path

from besiege.checks.catalog import CHECKS

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tools"))


def test_the_page_is_that_of_the_docstrings():
    text = (ROOT / "docs" / "checks.md").read_text("utf-8")
    assert text == importlib.import_module("checks_page").page(), "python tools/checks_page.py"
    for check in CHECKS.values():
        assert f"### {check.number}. {check.name.capitalize()}" in text
        section = text.partition(f"### {check.number}. ")[2].partition("\n### ")[0]
        assert "To do:" in section
        assert check.level in section
