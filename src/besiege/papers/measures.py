"""What can be measured of one cell of a run: a number for each of its images.

A measure takes the `Evidence` of a cell and returns (n,) float64, in the order of its ids. Here is
the one place where measures are listed; files name them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from besiege.core.batch import l2
from besiege.core.errors import BadSetting
from besiege.core.stats import any_right, right_shares
from besiege.ops.similarity import structural_similarity

Values: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True)
class Evidence:
    """What is known of one cell: a defense under one attacker.

    rows: of the run folder, in the order of their ids.
    pairs: gives batches of clean images and of what the classifier is shown of them, both
        (B, C, H, W), in the same order; under the judge's first draw of each.
    """

    rows: Sequence[Mapping[str, Any]]
    targeted: bool
    pairs: Callable[[], Iterator[tuple[Tensor, Tensor]]]


Measure: TypeAlias = Callable[[Evidence], Values]


def _predicted(evidence: Evidence) -> list[list[int]]:
    return [row["predicted"] for row in evidence.rows]


def _column(evidence: Evidence, name: str) -> list[int]:
    return [row[name] for row in evidence.rows]


def accuracy(evidence: Evidence) -> Values:
    """Share of the judge's draws with the right label."""
    return right_shares(_predicted(evidence), _column(evidence, "label"))


def success(evidence: Evidence) -> Values:
    """Share of the judge's draws that meet the attacker's goal."""
    if evidence.targeted:
        return right_shares(_predicted(evidence), _column(evidence, "target"))
    return np.asarray(1 - accuracy(evidence))


def lucky(evidence: Evidence) -> Values:
    """1 where any one of the judge's draws meets the goal, however many do not."""
    if evidence.targeted:
        return any_right(_predicted(evidence), _column(evidence, "target"))
    return np.asarray(1.0 * (accuracy(evidence) < 1))


def claimed(evidence: Evidence) -> Values:
    """The attacker's own share of success, tested by nobody else; 0 where nothing is claimed."""
    return np.array([row["claim"] or 0.0 for row in evidence.rows], dtype=np.float64)


def change(evidence: Evidence) -> Values:
    """Root mean square change of the clean image by the defense, on the [0, 1] scale."""
    return _of_pairs(evidence, lambda x, y: l2(y.double() - x.double()) / x[0].numel() ** 0.5)


def similarity(evidence: Evidence) -> Values:
    """Structural similarity of the clean image with what the defense makes of it."""
    return _of_pairs(evidence, structural_similarity)


def _of_pairs(evidence: Evidence, compare: Callable[[Tensor, Tensor], Tensor]) -> Values:
    found = []
    for clean, seen in evidence.pairs():
        if clean.shape != seen.shape:
            raise BadSetting(
                f"images of {tuple(clean.shape[1:])} become {tuple(seen.shape[1:])} behind this "
                "defense: their change has no measure."
            )
        found.append(compare(clean, seen).double().cpu().numpy())
    return np.concatenate(found)


MEASURES: Mapping[str, Measure] = {
    "accuracy": accuracy,
    "success": success,
    "lucky": lucky,
    "claimed": claimed,
    "change": change,
    "similarity": similarity,
}
