"""The cells of a run: the threat that each is of, what its judged rows say, and its control."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

Row = Mapping[str, Any]
Draws = NDArray[np.bool_]  # (n, draws)


class Aimed:
    """What is said of one threat and goal."""

    threat: str
    targeted: bool

    @property
    def goal(self) -> str:
        """targeted or untargeted."""
        return goal_of(self.targeted)


Shown = TypeVar("Shown", bound=Aimed)


def goal_of(targeted: bool) -> str:
    """The goal in words."""
    return "targeted" if targeted else "untargeted"


def by_goal(found: Iterable[Shown]) -> dict[tuple[str, str], list[Shown]]:
    """What is said of each (threat, goal)."""
    groups: dict[tuple[str, str], list[Shown]] = {}
    for one in found:
        groups.setdefault((one.threat, one.goal), []).append(one)
    return groups


def named(record: Mapping[str, Any]) -> dict[str, Any]:
    """By what a figure of the cell is known."""
    return {k: record[k] for k in ("cell", "defense", "recipe", "threat", "targeted")}


def is_control(record: Mapping[str, Any]) -> bool:
    """Whether nobody attacks in the cell."""
    return bool(record["recipe_settings"]["attack"] == "none")


def beside_control(
    records: Sequence[Mapping[str, Any]], by_cell: Mapping[str, Sequence[Row]]
) -> Iterator[tuple[Mapping[str, Any], Sequence[Row], Sequence[Row]]]:
    """Each cell with rows: its record, they, and those of its defense without attack, if any."""

    def place(record: Mapping[str, Any]) -> tuple[Any, ...]:
        return record["defense"], record["threat"], record["targeted"]

    controls = {place(r): by_cell[r["cell"]] for r in records if is_control(r)}
    for record in records:
        if rows := by_cell[record["cell"]]:
            yield record, rows, controls.get(place(record), ())


def answered(rows: Sequence[Row], wanted: str) -> Draws:
    """Whether each of the judge's draws gave the `wanted`: label or target; abstentions neither."""
    goal = np.array([row[wanted] for row in rows])[:, None]
    return np.asarray(np.array([row["predicted"] for row in rows]) == goal)


def stands(rows: Sequence[Row], targeted: bool) -> Draws:
    """Whether the goal is not met on each draw: the target missed, or else the label kept."""
    return ~answered(rows, "target") if targeted else answered(rows, "label")


def with_clean(
    rows: Sequence[Row], clean: Sequence[Row], targeted: bool
) -> tuple[Sequence[Row], Draws, Draws]:
    """The rows of images that `clean` has too, whether they stand, and did before the attack.

    Where no image is in both, all rows, and all stood before.
    """
    before = {row["id"]: row for row in clean}
    if own := [row for row in rows if row["id"] in before]:
        return own, stands(own, targeted), stands([before[row["id"]] for row in own], targeted)
    kept = stands(rows, targeted)
    return rows, kept, np.ones_like(kept)
