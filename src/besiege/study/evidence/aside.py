"""What checks want to know of a row beside its verdict: asked by the way, and never attacked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import Tensor

from besiege.core.errors import BesiegeError
from besiege.core.key import Key
from besiege.defenses.transform import Chain
from besiege.study.judge import answers
from besiege.study.recipe import GIVEN, NONE
from besiege.study.siege import Siege

DRAWS = 8  # of another seed, on which the points of random defenses are judged again
FIRST = 32  # images of a run on which attackers are asked what they claim where nothing may change
PASSES = 100  # an image for that


class Clean(Protocol):
    """Images that were attacked, first axis B; see `shard.Examples`."""

    @property
    def ids(self) -> Sequence[int]:
        """Of the images."""
        ...

    @property
    def x(self) -> Tensor:
        """(B, C, H, W) in [0, 1]."""
        ...

    @property
    def label(self) -> Tensor:
        """(B,) int64."""
        ...

    @property
    def target(self) -> Tensor:
        """(B,) int64."""
        ...


def aside(
    siege: Siege, clean: Clean, x: Tensor, seed: int, first: Sequence[int], micro_batch: int
) -> dict[str, list[float | None]]:
    """Columns of rows for checks 28, 32 and 38, None where nothing was asked.

    again: share of draws right at the points x (B, C, H, W), of a seed that is not the run's.
    idle: what the attacker claims of the images `first` where eps is 0 and it may spend PASSES.
    bare: of a control, whether the model alone is right.
    Both former are asked of random defenses under attack. Cost: DRAWS forwards an image, and PASSES
    of the first; one of a control.
    """
    n = len(clean.ids)
    columns: dict[str, list[float | None]] = {k: [None] * n for k in ("again", "idle", "bare")}
    defense = siege.defense
    if siege.recipe.attack == NONE:
        columns["bare"] = _bare(siege, clean, seed, micro_batch)
    elif defense.is_random((x.shape[1], x.shape[2], x.shape[3])):
        key = Key.root(seed + 1, list(clean.ids), x.device).fold("judge")
        draws = max(2, DRAWS // defense.passes)
        points = siege.threat.submitted(x, clean.x)
        right = answers(defense, points, key, draws, micro_batch) == clean.label[:, None]
        columns["again"] = right.double().mean(1).tolist()
        if siege.recipe.attack != GIVEN:
            columns["idle"] = _idle(siege, clean, seed, first)
    return columns


def _bare(siege: Siege, clean: Clean, seed: int, micro_batch: int) -> list[float | None]:
    """Whether the first model, without links or votes, is right."""
    part = siege.defense.parts[0]
    alone = replace(part, chain=Chain(), vote=type(part.vote)()) if part.links else part
    key = Key.root(seed, list(clean.ids), clean.x.device).fold("bare")
    right = answers(alone, clean.x, key, 1, micro_batch)[:, 0] == clean.label
    return list(right.double().tolist())


def _idle(siege: Siege, clean: Clean, seed: int, first: Sequence[int]) -> list[float | None]:
    """Claims at eps = 0; of an attack that cannot be asked so, none."""
    wanted = set(first)
    at = [i for i, one in enumerate(clean.ids) if one in wanted]
    found: list[float | None] = [None] * len(clean.ids)
    ball: Any = siege.threat.ball
    if not at or siege.made.nearest or not hasattr(ball, "eps"):
        return found
    try:
        still = replace(siege.threat, ball=replace(ball, eps=0.0), passes=PASSES)
        index = torch.tensor(at, device=clean.x.device)
        goal = (clean.target if siege.threat.targeted else clean.label)[index]
        key = Key.root(seed, list(clean.ids), clean.x.device)[index]
        x0 = clean.x[index]
        points = replace(siege, threat=still).attack(x0, goal, key)
        kept = still.admits(still.submitted(points.x, x0), x0).tolist()  # else 36 speaks of it
    except (BesiegeError, TypeError):  # a ball without such a radius, pilots that cost more
        return found
    for i, one, ok in zip(at, points.claim.double().tolist(), kept, strict=True):
        found[i] = one if ok and math.isfinite(one) else None
    return found
