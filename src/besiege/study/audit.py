"""Whether points that somebody made lie where the threat allows, and how far from their images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from besiege.attacks.threat import Threat
from besiege.core.errors import BadImages


@dataclass(frozen=True)
class Audit:
    """How far points lie from their clean images."""

    threat: str
    sizes: Mapping[str, tuple[float, float]]  # norm -> mean and largest
    outside: tuple[int, ...]  # rows that the threat does not admit

    def __str__(self) -> str:
        sizes = "; ".join(
            f"{k} {mean:.4g}, at most {top:.4g}" for k, (mean, top) in self.sizes.items()
        )
        first = ", ".join(map(str, self.outside[:5])) + (" ..." if len(self.outside) > 5 else "")
        outside = f"{len(self.outside)} ({first})" if self.outside else "none"
        return f"distance (mean, largest): {sizes}\noutside {self.threat}: {outside}"


def audit_points(x: Tensor, x0: Tensor, threat: Threat) -> Audit:
    """Sizes of x - x0 in every norm, and the rows that `threat` does not admit.

    x, x0: (B, C, H, W) in [0, 1]. Raises BadImages for other shapes and for NaN.
    """
    if x.shape != x0.shape:
        raise BadImages(
            f"points {tuple(x.shape)} and clean images {tuple(x0.shape)} must have one shape, and "
            "row i of the one must belong to row i of the other."
        )
    shift = (x - x0).double()
    flat = shift.flatten(1)
    found = {
        "linf": flat.abs().amax(1),
        "l2": flat.norm(dim=1),
        "rms": flat.norm(dim=1) / flat.shape[1] ** 0.5,
        "l1": flat.abs().sum(1),
        "l0": (flat != 0).double().mean(1),
    }
    outside = ~threat.admits(threat.submitted(x, x0), x0)
    return Audit(
        threat.name,
        {name: (float(size.mean()), float(size.max())) for name, size in found.items()},
        tuple(outside.nonzero()[:, 0].tolist()),
    )
