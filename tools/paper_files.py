"""The docs' list of published tables that can be reproduced, written from their files."""

from __future__ import annotations

from besiege.papers.load import load_paper, shipped
from besiege.papers.schema import Claim, PaperFile

SENSES = {">=": "≥", "<=": "≤"}


def papers() -> str:
    """A section for each file: what it is of, its faults and its claims."""
    return "\n\n".join(_section(name, load_paper(name).file) for name in shipped())


def _section(name: str, file: PaperFile) -> str:
    faults = "\n".join(f"- {fault}" for fault in file.as_published.faults)
    notes = "\n".join(f"- {note}" for note in (file.read, *file.notes))
    claims = "\n".join(f"| {c.says} | {_tested(c)} |" for c in file.claim)
    return "\n\n".join(
        [
            f"### `{name}`",
            f"{file.title}: {file.paper}, {file.part}, with {file.on}.",
            f"**{file.as_published.heading}.** {file.as_published.says} Its faults:",
            faults,
            f"**{file.correct.heading}.** {file.correct.says}",
            "Where the published figures are from:",
            notes,
            f"| claim | tested as |\n|---|---|\n{claims}",
        ]
    )


def _tested(claim: Claim) -> str:
    what = f"{claim.quantity} of {claim.row}"
    if claim.than:
        what += f" less that of {claim.than}"
    where = f", at {claim.side} px" if claim.side else ""
    return claim.untestable or f"{what} {SENSES[claim.sense]} {claim.value:g}{where}"


if __name__ == "__main__":
    print(papers())
