"""One defense against several attackers, as the options of a command describe it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from besiege.study.budget import Budget


def besiege_one(
    command: str,
    *,
    defense: str,
    model: str,
    data: str,
    threat: str,
    targeted: bool,
    recipes: Sequence[str],
    steps: int,
    changes: Sequence[str],
    out: Path,
    more: Mapping[str, Any] | None = None,
    budget: Budget | None = None,
    claim: float | None = None,
    until: float | None = None,
) -> None:
    """Run the experiment of one defense and threat into `out`; the clean figure comes first.

    more: settings of every recipe but the clean one. budget: the threat's. claim: the defense's.
    until: the robust accuracy from which it is to be told; the run then ends early.
    """
    from besiege.cli.siege import siege, siege_until
    from besiege.core.entry import parse_spec
    from besiege.study.experiment.experiment import experiment_from

    ball, size = parse_spec(threat)
    attackers = [
        {"kind": kind, **_steps(kind, steps), **(more or {})} for kind in recipes if kind != "none"
    ]
    limit = {} if budget is None else budget._asdict()
    settings: dict[str, Any] = {
        "name": f"{command} of {defense}",
        "data": data,
        "model": model,
        "defense": [{"name": _title(defense), "chain": defense, "claim": claim}],
        "threat": [{"ball": ball, "targeted": targeted, **size, **limit}],
        "recipe": [{"kind": "none"}, *attackers],
    }
    experiment = experiment_from(settings, changes, home=Path(), where=f"besiege {command}")
    if until is None:
        siege(experiment, out)
    else:
        siege_until(experiment, out, until)


def _steps(kind: str, steps: int) -> dict[str, int]:
    """Of a recipe that makes some: one that is others, or is yet to be worked out, has none."""
    from besiege.study.recipes import RECIPES

    return {"steps": steps} if kind not in RECIPES or RECIPES.build(kind).steps else {}


def _title(chain: str) -> str:
    """The chain as tables call it: links of one's own by their names alone."""
    from besiege.core.foreign import foreign_in
    from besiege.defenses.catalog import split_chain

    links = split_chain(chain)
    return " + ".join(own.name if (own := foreign_in(link)) else link for link in links)
