"""The checks of a run: evidence from its rows, findings into its folder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from besiege.checks.catalog import CHECKS
from besiege.checks.finding import LEVELS, Answer, Finding, Fine, answered
from besiege.core.store import RunFolder
from besiege.study.evidence.evidence import Cell, cells_of
from besiege.study.evidence.exhibits import exhibits

NONE: Mapping[str, Sequence[int]] = {}


@dataclass(frozen=True)
class Examination:
    """findings: gravest first. answers: what became of each of the checks, by number."""

    findings: tuple[Finding, ...]
    answers: tuple[Answer, ...]


def examine_run(path: Path) -> list[Finding]:
    """Findings of the run folder at `path`, gravest first; see `examined_run`."""
    return list(examined_run(path).findings)


def examined_run(path: Path) -> Examination:
    """What the checks say of the run folder at `path`; written into it.

    findings.json has the findings, checks.json what became of every check.
    Raises BadRun if it holds no run. Cost: one reading of the folder; nothing is attacked.
    """
    folder = RunFolder(Path(path))
    resolved = folder.described()
    cells = cells_of(resolved["cells"], folder.rows(), folder.traces(), resolved["ids"])
    experiment = resolved.get("experiment", {})
    data = experiment.get("data", {})
    pilots = dict(_pilots(cells, resolved))
    chosen = data.get("select", "all")
    found = examined(cells, select=chosen, pilots=pilots, proofs=folder.standing())
    folder.write_findings(
        [finding.record() for finding in found.findings],
        [answer.record() for answer in found.answers],
    )
    return found


def _pilots(
    cells: Sequence[Cell], resolved: Mapping[str, Any]
) -> Iterator[tuple[str, Sequence[int]]]:
    """Cells whose attack was worked out by trials, and the ids of the images of these trials."""
    from besiege.study.adaptive.planner import BUDGET, pilots_for

    for plan in resolved.get("plans", {}).values():
        own = {k: plan[k] for k in ("defense", "threat", "targeted") if k in plan}
        own["recipe"] = plan["recipe"]["name"]
        for cell in cells:
            if all(cell.record[k] == v for k, v in own.items()):
                budget = cell.record.get("passes") or BUDGET
                yield cell.hash, resolved["ids"][: pilots_for(budget)]


def examine(
    cells: Sequence[Cell],
    *,
    select: str = "all",
    pilots: Mapping[str, Sequence[int]] = NONE,
    proofs: Sequence[Mapping[str, Any]] = (),
) -> list[Finding]:
    """Findings of some cells, gravest first; settings as of `examined`."""
    return list(examined(cells, select=select, pilots=pilots, proofs=proofs).findings)


def examined(
    cells: Sequence[Cell],
    *,
    select: str = "all",
    pilots: Mapping[str, Sequence[int]] = NONE,
    proofs: Sequence[Mapping[str, Any]] = (),
) -> Examination:
    """What the checks say of some cells.

    select: how images were chosen, "all" or "correct". pilots: for the hash of a cell the ids that
    its attack was tuned on. proofs: certificates of their images, as a run folder keeps them.
    """
    found: dict[int, list[tuple[Finding | Fine, str]]] = {number: [] for number in CHECKS}
    for number, evidence, about, touched in exhibits(cells, select, pilots, proofs):
        said = CHECKS[number].asked(evidence, about, [cell.hash for cell in touched])
        if said is not None:
            found[number].append((said, about))
    findings = [f for said in found.values() for f, _ in said if isinstance(f, Finding)]
    rank = list(LEVELS)
    findings.sort(key=lambda f: (rank.index(f.level), f.number))
    return Examination(
        tuple(findings), tuple(answered(CHECKS[number], said) for number, said in found.items())
    )
