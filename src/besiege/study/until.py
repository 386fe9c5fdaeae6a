"""A run that ends as soon as it is known on which side of a threshold each defense lies."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from besiege.core.errors import BadSetting
from besiege.core.sequential import Stop, first_stop
from besiege.core.stats import worst_each
from besiege.core.store import RunFolder
from besiege.study.experiment.experiment import Experiment
from besiege.study.progress import Event
from besiege.study.run import run_experiment

IN_ORDER = 20  # so many labels are not in order by chance
STEP = 32  # images between two looks


@dataclass(frozen=True)
class Told:
    """What is known of a defense under a threat: None in `stop` where nothing is, yet."""

    defense: str
    threat: str
    threshold: float
    n: int
    stop: Stop | None

    def __str__(self) -> str:
        at = f"{self.defense}, {self.threat}: robust accuracy"
        if self.stop is None:
            return f"{at} not told from {100 * self.threshold:g} % by {self.n} images"
        side = "above" if self.stop.above else "below"
        return (
            f"{at} {side} {100 * self.threshold:g} %, known after {self.stop.n} images: "
            f"{self.stop.interval} whenever one looks"
        )


def run_until(
    experiment: Experiment,
    out: Path,
    threshold: float,
    on_event: Callable[[Event], None] | None = None,
    step: int = STEP,
) -> tuple[Told, ...]:
    """Run `experiment` on `step` more images at a time, until all defenses are told from threshold.

    At most on as many as it asks for. A defense is told once the confidence sequence of its
    accuracy, under the worst recipe for each image, excludes the threshold: with 95 %, however
    often that is looked at. The run in `out` is that of the same experiment with fewer images, and
    a longer one resumes it. Raises BadSetting for a threshold outside (0, 1), and for images in
    order of their labels, of which the first say nothing about the others.
    """
    check_until(threshold, step)
    n, most = 0, experiment.data.n
    while True:
        n = min(n + step, most) if most else n + step
        data = experiment.data.model_copy(update={"n": n})
        run_experiment(experiment.model_copy(update={"data": data}), out, on_event)
        found = told(out, threshold)
        there = len(RunFolder(out).resolved()["ids"])
        if all(one.stop for one in found) or there < n or n == most:
            return found


def check_until(threshold: float, step: int = STEP) -> None:
    """Raise BadSetting for a threshold or a step that no run can end by."""
    if not 0 < threshold < 1 or step < 1:
        raise BadSetting(f"a threshold lies in (0, 1), a step is >= 1: got {threshold} and {step}.")


def looks(ids: Sequence[int], threshold: float | None, step: int = STEP) -> Iterator[list[int]]:
    """The first of `ids`, `step` more each time; all at once where there is no threshold.

    >>> [len(some) for some in looks(range(70), 0.3)]
    [32, 64, 70]
    """
    if threshold is None:
        yield list(ids)
        return
    check_until(threshold, step)
    for end in range(step, len(ids) + step, step):
        yield list(ids[:end])


def told(out: Path, threshold: float) -> tuple[Told, ...]:
    """What a run folder says of each defense and threat that is attacked in it."""
    folder = RunFolder(out)
    resolved = folder.resolved()
    tables: dict[str, dict[int, dict[str, Any]]] = {r["cell"]: {} for r in resolved["cells"]}
    for row in folder.rows():
        if row["cell"] in tables:
            tables[row["cell"]][row["id"]] = row
    groups: dict[tuple[str, str], list[dict[int, dict[str, Any]]]] = {}
    attacked = set()
    for record in resolved["cells"]:
        goal = "targeted" if record["targeted"] else "untargeted"
        group = (record["defense"], f"{record['threat']} {goal}")
        groups.setdefault(group, []).append(tables[record["cell"]])
        if record["recipe_settings"]["attack"] != "none":
            attacked.add(group)
    return tuple(
        _told(*group, threshold, resolved["ids"], cells)
        for group, cells in groups.items()
        if group in attacked
    )


def _told(
    defense: str,
    threat: str,
    threshold: float,
    order: list[int],
    cells: list[dict[int, dict[str, Any]]],
) -> Told:
    ids = [i for i in order if all(i in rows for rows in cells)]
    labels = [cells[0][i]["label"] for i in ids]
    if len(ids) >= IN_ORDER and labels == sorted(labels):
        raise BadSetting(
            "the images come in order of their labels, so that the first say nothing of the others "
            "and a run must not stop early: mix them, or run without a threshold."
        )
    right = [np.array([np.asarray(c[i]["predicted"]) == c[i]["label"] for i in ids]) for c in cells]
    stop = first_stop(worst_each(right), threshold) if ids else None
    return Told(defense, threat, threshold, len(ids), stop)
