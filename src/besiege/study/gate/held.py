"""What a finished run folder holds, as a gate asks for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from besiege.checks.finding import Finding, from_record
from besiege.core.errors import BadRun, unknown
from besiege.core.store import RunFolder
from besiege.study.evidence.evidence import Cell, cells_of
from besiege.study.evidence.examine import examine_run
from besiege.study.gate.requirements import Requirement, ball_title


@dataclass(frozen=True)
class Held:
    """resolved: what resolved.json says; cells with their rows; findings of checks."""

    resolved: Mapping[str, Any]
    cells: Sequence[Cell]
    findings: Sequence[Finding]

    @classmethod
    def read(cls, path: Path) -> Held:
        """The run folder at `path`; runs the checks if nobody has. Raises BadRun if rows lack."""
        folder = RunFolder(path)
        resolved = folder.described()
        if lacking := folder.lacking():
            raise BadRun(
                f"{path} is not finished: {lacking} rows are missing. Run it again, which resumes."
            )
        cells = cells_of(resolved["cells"], folder.rows(), [], resolved["ids"])
        if not folder.examined():
            return cls(resolved, cells, examine_run(path))
        return cls(resolved, cells, [from_record(found) for found in folder.findings()])

    @property
    def names(self) -> tuple[str, ...]:
        """Those of the defenses."""
        return tuple(dict.fromkeys(str(cell.record["defense"]) for cell in self.cells))

    @property
    def chosen(self) -> bool:
        """Whether only images that the bare classifier gets right were attacked."""
        data = self.resolved.get("experiment", {}).get("data", {})
        return bool(data.get("select") == "correct")

    def check(self, requirement: Requirement) -> None:
        """Raise UnknownName for a threat that nothing in the run was attacked under."""
        if not (requirement.kind.aimed and requirement.where):
            return
        titles = [str(cell.record["threat"]) for cell in self.cells]
        if (title := ball_title(requirement.where)) not in titles:
            raise unknown("threat", title, titles, f'the run, asked for by "{requirement}"')

    def attacked(self, name: str, requirement: Requirement) -> list[list[Cell]]:
        """The attacked cells of a defense that a requirement is about, those of a threat and goal
        together with what they have without attack."""
        title = requirement.where and ball_title(requirement.where)
        found: dict[str, list[Cell]] = {}
        for cell in self.cells:
            own, goal = cell.record["defense"] == name, goal_of(cell)
            if own and title in ("", cell.record["threat"]) and requirement.goal in ("", goal):
                found.setdefault(threat_of(cell), []).append(cell)
        return [group for group in found.values() if not all(cell.control for cell in group)]

    def control(self, name: str) -> Cell | None:
        """A cell of a defense without attack."""
        own = (c for c in self.cells if c.control and c.record["defense"] == name)
        return next(own, None)

    def strong(self, cell: Cell) -> bool:
        """Whether its attacker is a union, or was worked out by measurement."""
        planned = {plan["recipe"]["name"] for plan in self.resolved.get("plans", {}).values()}
        return bool(cell.settings.get("union")) or cell.recipe in planned

    def plan(self, cell: Cell) -> Mapping[str, Any] | None:
        """That of its attacker, where one was made that took passes."""
        where = {k: cell.record[k] for k in ("defense", "threat", "targeted")}
        plans: Mapping[str, Mapping[str, Any]] = self.resolved.get("plans", {})
        own = (
            p
            for p in plans.values()
            if p["recipe"]["name"] == cell.recipe and all(p.get(k) == v for k, v in where.items())
        )
        found = next(own, None)
        return found if found and found["passes"] else None

    def touching(self, cells: Sequence[Cell]) -> list[Finding]:
        """Findings about some of the cells, or about the whole run; none where there is no cell."""
        hashes = {cell.hash for cell in cells}
        return [f for f in self.findings if cells and (not f.cells or hashes & set(f.cells))]


def goal_of(cell: Cell) -> str:
    """targeted or untargeted."""
    return "targeted" if cell.record["targeted"] else "untargeted"


def threat_of(cell: Cell) -> str:
    """Its threat and goal in words."""
    return f"{cell.record['threat']} {goal_of(cell)}"
