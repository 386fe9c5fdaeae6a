"""The defenses of a run made once more from its folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from besiege.core.errors import BadRun
from besiege.core.store import GIVEN, PLANNED, RunFolder
from besiege.study.experiment.experiment import experiment_from
from besiege.study.prepared import Prepared, prepare


class Rebuilt(NamedTuple):
    """resolved: what the folder says; prepared: its experiment, cells in the order of the folder's.

    same: whether every cell has the name that it had, so that nothing of it was changed since.
    """

    resolved: dict[str, Any]
    prepared: Prepared
    same: bool


def rebuilt(path: Path, overrides: Sequence[str], purpose: str, instead: str) -> Rebuilt:
    """What the run folder at `path` ran.

    overrides: settings of the run changed, such as "engine.device=cuda".
    purpose: what cannot be done with a folder that does not say, as in "judged again"; instead:
    what to do with a run that was made in Python. Raises BadRun, and the errors of its parts.
    """
    resolved = RunFolder(path).resolved()
    if "data" not in resolved.get("experiment", {}):
        why = "it holds no run (no resolved.json in it)."
        if resolved:
            file = path / (PLANNED if (path / PLANNED).exists() else GIVEN)
            why = (
                "it was made in Python, and does not say from which model and images. With them in "
                f'memory, recipes=besiege.load_recipes("{file}") attack once more. '
                f"{instead}"
            )
        raise BadRun(f"{path} cannot be {purpose}: {why}")
    settings = resolved["experiment"]
    prepared = prepare(experiment_from(settings, overrides, where=f"{path}/resolved.json"))
    names = [record["cell"] for record in resolved["cells"]]
    if len(names) != len(prepared.records):
        raise BadRun(f"{path}: --set changed the grid: {len(prepared.records)} cells, not as run.")
    return Rebuilt(resolved, prepared, names == list(prepared.sieges))
