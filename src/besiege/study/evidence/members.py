"""What the searches of a union show beside each other, each of which got what the former left.

No two of them met the same examples, so that none is compared with another as cells of a run are.
What can be asked is whether a search broke examples that those before it, as strong as itself, had
left, and what that says of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from besiege.checks.opponents import Nearer
from besiege.checks.optimisation import Iterates
from besiege.checks.pair import Survivors
from besiege.core.stats import wilson
from besiege.core.store import FOUND_BY
from besiege.study.evidence.evidence import Cell, Shares

Mask: TypeAlias = NDArray[np.bool_]
Asked: TypeAlias = tuple[int, object]  # number of a check, and its evidence

FROZEN = "frozen"  # how a link is seen of which one draw is kept: 30 speaks of it


@dataclass(frozen=True)
class Member:
    """One search of a union, (n,) over the rows of its cell.

    cell: as if it were alone. before: share of fresh draws won by the best point that others had
    left it. given: it spent passes. broken: its point is the one handed over, that one clearly
    wins, and the one before it clearly did not.
    """

    cell: Cell
    number: int
    before: Shares
    given: Mask
    broken: Mask

    @property
    def view(self) -> str:
        """How it sees the links."""
        return repr(sorted(self.cell.links.items()))

    def survivors(self, factor: float = 1.0) -> Survivors:
        """What it did to those that the former left."""
        names = ("the searches before it", self.cell.recipe)
        return Survivors(self.broken, names, factor, self.cell.ids)


def members(cell: Cell) -> list[Member]:
    """The searches of a union; none of another cell, or without its traces."""
    rows = [cell.traces.get(i, {}) for i in cell.ids.tolist()]
    number = len(cell.members)
    if not number or any(
        len(row.get(k) or ()) != number for row in rows for k in ("won", "passes")
    ):
        return []
    won, passes = (np.array([row[k] for row in rows], float) for k in ("won", "passes"))
    by, sure = _found_by(cell), _clearly(cell.won, cell.predicted.shape[1], True)
    found = []
    for k, one in enumerate(cell.members):
        if k == 0:
            given, before, broken = passes[:, 0] > 0, np.zeros(len(rows)), np.zeros(len(rows), bool)
        else:
            given, before = passes[:, k] > passes[:, k - 1], won[:, k - 1]
            broken = given & (by == k) & sure & _clearly(before, _draws(cell), False)
        found.append(Member(one, k, before, given, broken))
    return found


def _draws(cell: Cell) -> int:
    """Fresh draws on which a union compares its points."""
    return int(cell.settings["confirm"]) if cell.drawn else 1


def _clearly(won: Shares, draws: int, high: bool) -> Mask:
    """Whether so many draws won say that more than half do, or (not `high`) that less do."""
    if draws == 1:
        return won >= 1 if high else won <= 0
    limits = {v: wilson(v * draws, draws) for v in set(won.tolist())}
    told = {v: limit.low > 0.5 if high else limit.high < 0.5 for v, limit in limits.items()}
    return np.array([told[v] for v in won.tolist()], bool)


def _found_by(cell: Cell) -> NDArray[np.int64]:
    """(n,) number of the search whose point was handed over, -1 where nobody says."""
    number = {f"{FOUND_BY}{one.recipe}": k for k, one in enumerate(cell.members)}
    told = ([number[f] for f in row["flags"] if f in number] for row in cell.rows)
    return np.array([found[0] if found else -1 for found in told], np.int64)


def spent(cell: Cell) -> Mask:
    """(n,) whose point was found by a search on the worst point of the ball (42)."""
    worst = [one.made is not None and not one.made.nearest for one in cell.members]
    return np.array([by >= 0 and worst[by] for by in _found_by(cell)], bool)


def rank(cell: Cell) -> int:
    """The check that holds it against attackers by gradients; 0 for none."""
    if cell.transferred:
        return 23
    if cell.access in ("scores", "labels"):
        return 22
    return 26 if cell.left_out else 0


def united(cell: Cell) -> Iterator[Asked]:
    """What a union is asked; nothing of another cell."""
    found = members(cell)
    given = [one for one in found if one.given.any()]
    if not given:
        return
    if not cell.record.get("eight_bit"):
        won = np.array([cell.traces[i]["won"] for i in cell.ids.tolist()], float)
        final = cell.predicted.shape[1]
        yield 12, Iterates(won, _draws(cell), cell.won, final, cell.ids)
    if given[-1].number and (cell.won <= 0.5).any():
        yield 11, given[-1].survivors()
    for one in given:
        yield from _beside(one, found[: one.number])


def _beside(one: Member, before: Sequence[Member]) -> Iterator[Asked]:
    """A search beside those that had their turn before it."""
    rivals = [other for other in before if other.cell.by_gradients]
    if not rivals:
        return
    own = one.cell
    fair = max(other.cell.effort for other in rivals) >= own.effort
    number = rank(own)
    if number == 22 or (number and fair):
        yield number, one.survivors()
    if own.access == "labels" and not own.transferred:
        won, right = np.where(one.broken, own.won, 0), 1 - one.before
        yield 24, Nearer(won, right, own.drawn, own.ids)
    if own.by_gradients:
        yield from _otherwise(one, rivals, fair)


def _otherwise(one: Member, rivals: Sequence[Member], fair: bool) -> Iterator[Asked]:
    """By gradients too, with another view, another loss, or more restarts."""
    own, alike = one.cell, [other for other in rivals if other.view == one.view]
    kept = any(how.startswith(FROZEN) for how in own.links.values())
    if not alike and fair and not kept:
        yield 25, one.survivors()
    if not alike:
        return
    losses: set[Any] = {other.cell.settings["loss"] for other in alike}
    efforts = [other.cell.effort for other in alike]
    if own.settings["loss"] not in losses and max(efforts) >= own.effort:
        yield 20, one.survivors()
    restarts = own.settings["restarts"]
    if restarts > 1 and sum(efforts) >= own.effort:
        yield 16, one.survivors(restarts)
