"""The docs page on checks, written from their docstrings: python tools/checks_page.py"""

from __future__ import annotations

import inspect
from pathlib import Path

from besiege.checks.catalog import CHECKS
from besiege.checks.finding import Check

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "checks.md"
MARK = "<!-- From here on written by tools/checks_page.py -->\n"
WHO = {"run": "`besiege check`", "doctor": "`besiege doctor`"}


def page() -> str:
    """What is written by hand, up to MARK, and a section for each check."""
    own = PAGE.read_text("utf-8").partition(MARK)[0]
    families = dict.fromkeys(check.family for check in CHECKS.values())
    parts = [own + MARK]
    for family in families:
        parts.append(f"\n## {family}\n")
        parts += [_section(check) for check in CHECKS.values() if check.family == family]
    return "".join(parts)


def _section(check: Check) -> str:
    """Heading, level, who gathers, and what its function says."""
    by = " and ".join(WHO[who] for who in check.gathered)
    asked = f"Asked by {by}." if by else f"Evidence not yet gathered: {check.missing}."
    told = inspect.cleandoc(check.function.__doc__ or "")
    return (
        f"\n### {check.number}. {check.name[0].upper()}{check.name[1:]}\n\n"
        f"**{check.level}.** {asked} Source: {check.source}.\n\n{told}\n"
    )


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
