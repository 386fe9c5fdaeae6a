"""What was proved of the defenses of a run, from the certificates that its folder keeps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from besiege.core.stats import Interval, share_interval


@dataclass(frozen=True, eq=False)
class Proof:
    """Radii of a defense that no attack can cross, but for a chance of alpha an image."""

    defense: str
    norm: str  # in whose unit radii are
    right: NDArray[np.bool_]  # (n,) whether the answer that is proved is the label
    answering: NDArray[np.float64]  # (n,) within it that answer is given
    radius: NDArray[np.float64]  # (n,) within it that answer is given, or none
    samples: int  # draws an image
    alpha: float

    @property
    def n(self) -> int:
        """Images."""
        return len(self.right)

    @property
    def reach(self) -> float:
        """The largest radius of an image that is right, 0 without one."""
        return float(np.max(self.radius, initial=0.0, where=self.right))

    def at(self, radius: float) -> Interval:
        """The share of images proved right within `radius`; an abstention is not right."""
        return share_interval((self.right & (self.answering >= radius)).astype(float))

    def unless_silent(self, radius: float) -> Interval:
        """The share whose answer, where one is given within `radius`, is proved right."""
        return share_interval((self.right & (self.radius >= radius)).astype(float))


def proofs_of(certificates: Sequence[Mapping[str, Any]]) -> list[Proof]:
    """The certificates of a run folder, those that are `standing`, in figures."""
    return [
        Proof(
            defense=proof["defense"],
            norm=proof["norm"],
            right=np.asarray(proof["answer"]) == np.asarray(proof["label"]),
            answering=np.asarray(proof["answering"], dtype=float),
            radius=np.asarray(proof["radius"], dtype=float),
            samples=proof["samples"],
            alpha=proof["alpha"],
        )
        for proof in certificates
    ]


def radii(proof: Proof, records: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Threats of the proof's defense whose norm is its own, and their radii, ascending."""
    found = {
        record["threat"]: float(record["eps"])
        for record in records
        if record["defense"] == proof.defense and record["ball"] == proof.norm
    }
    return dict(sorted(found.items(), key=lambda one: one[1]))


def proved(
    proofs: Sequence[Proof], records: Sequence[Mapping[str, Any]]
) -> dict[tuple[str, str], tuple[Interval, str]]:
    """Share of images proved right within the radius of a threat, by defense and threat."""
    return {
        (proof.defense, threat): (proof.at(radius), threat)
        for proof in proofs
        for threat, radius in radii(proof, records).items()
    }
