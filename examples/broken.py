"""The tables of docs/broken.md, from the run folders of the experiments beside this file.

besiege run examples/adaptive_cifar.toml --out runs/cifar
python examples/broken.py runs/cifar
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from besiege.core.stats import Interval
from besiege.report.lines import Line
from besiege.report.tables import Summary, summarise

ADAPTIVE, CLEAN = "adaptive", "none"


def found(summary: Summary) -> dict[str, dict[tuple[str, bool], Line]]:
    """Lines by defense, then by recipe and goal."""
    lines: dict[str, dict[tuple[str, bool], Line]] = {}
    for line in summary.lines:
        lines.setdefault(line.defense, {})[line.recipe, line.targeted] = line
    return lines


def percent(share: Interval | None) -> str:
    """Estimate and interval in percent."""
    if share is None:
        return "-"
    return f"{100 * share.estimate:.1f} [{100 * share.low:.1f}, {100 * share.high:.1f}]"


def row(defense: str, lines: Mapping[tuple[str, bool], Line], others: list[str]) -> str:
    """One defense: what is left of accuracy, and targets hit, by each attacker."""
    clean = lines.get((CLEAN, False))
    cells = [defense, percent(clean.accuracy if clean else None)]
    for recipe in (*others, ADAPTIVE):
        plain, aimed = lines.get((recipe, False)), lines.get((recipe, True))
        cells += [percent(plain and plain.accuracy), percent(aimed and aimed.success)]
    spent = [lines.get((ADAPTIVE, aimed)) for aimed in (False, True)]
    cells.append(" / ".join(f"{s.forwards + s.backwards:.0f}" if s else "-" for s in spent))
    cells.append(" / ".join(f"{s.seconds * s.n / 60:.1f}" if s else "-" for s in spent))
    return f"| {' | '.join(cells)} |"


def table(summary: Summary) -> Iterator[str]:
    """Lines of Markdown."""
    lines = found(summary)
    recipes = dict.fromkeys(line.recipe for line in summary.lines)
    others = [recipe for recipe in recipes if recipe not in (ADAPTIVE, CLEAN)]
    heads = [f"{r}: {what}" for r in (*others, ADAPTIVE) for what in ("left", "targets hit")]
    yield f"| defense | clean | {' | '.join(heads)} | passes | minutes |"
    yield f"|{'---|' * (len(heads) + 4)}"
    for defense, own in lines.items():
        yield row(defense, own, others)


def main() -> int:
    """Print a table for each folder that is named."""
    for path in sys.argv[1:]:
        print("\n".join(table(summarise(Path(path)))))
    return 0 if sys.argv[1:] else 2


if __name__ == "__main__":
    sys.exit(main())
