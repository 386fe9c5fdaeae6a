"""What a run tells while it goes on."""

from __future__ import annotations

from typing import NamedTuple


class Event(NamedTuple):
    """A batch is finished (or, at first, none yet)."""

    cell: str  # its hash; "" before the first
    title: str  # defense, recipe, threat
    done: int  # examples x cells
    total: int
    seconds: float  # since the run began
