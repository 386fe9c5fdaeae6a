"""The docs page on checks, written from their docstrings and advice: python tools/checks_page.py"""

from __future__ import annotations

import inspect
import textwrap
from pathlib import Path

from besiege.checks.catalog import CHECKS
from besiege.checks.finding import Check
from besiege.checks.needs import DOCTORS

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "checks.md"
MARK = "<!-- From here on written by tools/checks_page.py -->\n"
WIDTH = 100
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
    """Heading, level, who gathers, what its function says, and what to do."""
    by = " and ".join(WHO[who] for who in check.gathered)
    asked = f"Asked by {by}."
    if by == WHO["run"] and check.needs != DOCTORS:
        asked += f" In a run {check.needs}."
    told = inspect.cleandoc(check.function.__doc__ or "")
    to_do = textwrap.fill(f"To do: {check.to_do[0].lower()}{check.to_do[1:]}", WIDTH)
    return (
        f"\n### {check.number}. {check.name[0].upper()}{check.name[1:]}\n\n"
        f"**{check.level}.** {asked} Source: {check.source}.\n\n{told}\n\n{to_do}\n"
    )


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
