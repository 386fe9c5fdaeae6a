"""Total-variation minimisation: some entries are dropped, and a smooth image fits the others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from besiege.core.errors import BadSetting, one_of, unknown
from besiege.core.key import Key
from besiege.defenses.transform import Shape, Surrogate, Transform, identity
from besiege.ops import bregman
from besiege.ops.total_variation import KINDS, minimise
from besiege.ops.variation_slope import attached


class _Form(NamedTuple):
    """What a form does unless it is told otherwise."""

    of: str
    kind: str
    tol: float


FORMS: Mapping[str, _Form] = {
    "paper": _Form("entries", "rows", 1e-4),
    "released": _Form("entries", "isotropic", 0.01),
    "obfuscated": _Form("pixels", "anisotropic", 1e-3),
}


@dataclass(frozen=True)
class TotalVariation(Transform):
    """Total-variation minimisation: some entries are dropped, and a smooth image fits the others.

    The output u has the least 1/2 sum kept (u - x)^2 + weight * TV(u), each channel by itself;
    differences are forward, and 0 at the last row and column.

    weight: of the total variation, above 0: 0.03 in paper and codes.
    drop: probability with which an entry is dropped, [0, 1); with 0 it is plain denoising.
    form: how it is solved, and what `of`, `kind` and `tol` are unless they are given:
        "paper": the minimiser (of="entries", kind="rows", tol=1e-4);
        "released": the solver of the paper's code, which stops at 1.5 to 2.4 times the least value
            (of="entries", kind="isotropic", tol=0.01): entries that are 0 are never dropped,
            dropped ones start from 0, are divided by 4 neighbours at the border too and so become
            dark there, and isotropic shrinkage is smoothed;
        "obfuscated": the solver of Athalye et al. 2018 and Qiu et al. 2020, scikit-image's with a
            mask (of="pixels", kind="anisotropic", tol=1e-3): half the weight, mirrored border,
            dropped pixels start from their value, which the attacker may exploit.
    of: "entries" are dropped one by one (equation 6: X(i, j, k)); "pixels" in all channels at once.
    kind: TV is a sum of norms of the two differences of an entry ("isotropic", "anisotropic"), or
        of the difference of whole rows and columns ("rows", equation 7 with p = 2; smooths less).
        Only "paper" has "rows".
    tol: where the solver stops. "paper": at a proven gap of this times the value; at least 1e-6.
        Others: at a root-mean-square change of this in one iteration, or after 100.

    What the paper's code means to solve is kind="isotropic". Equation 6 prints an unsquared norm
    and drops where X is 1; here, as in the code, it is squared and halved. Output in [0, 1].

    Surrogates: "implicit" is the derivative of the minimiser, from its optimality condition with
    norms smoothed below 0.001; against finite differences of the minimiser its cosine is 1.00 for
    "rows", 0.98 for "isotropic", 0.90 for "anisotropic", where "identity" has 0.61, 0.39 and 0.30.
    "exact", for the other forms, goes back through every sweep of their solvers.
    Cost: 40 to 100 iterations at kind="rows", 170 to 600 at others, with drop=0 a third of that;
    "implicit" adds 10 to 50. The sweeps of the other forms go by anti-diagonals, exactly as in
    reading order; at 299 px "exact" of "obfuscated" keeps some 100 MB an image.

    Source: Guo et al. 2018 (arXiv:1711.00117), equations 6 and 7, and the codes named.
    """

    weight: float = 0.03
    drop: float = 0.5
    form: str = "paper"
    of: str | None = None
    kind: str | None = None
    tol: float | None = None
    name: str = "tvm"

    def __post_init__(self) -> None:
        one_of("form", self.form, FORMS, "transform tvm")
        if self.of not in (None, "entries", "pixels"):
            raise unknown("of", self.of, ["entries", "pixels"], "transform tvm")
        if self.kind not in (None, *KINDS):
            raise unknown("kind", self.kind, KINDS, "transform tvm")
        if self.kind == "rows" and self.form != "paper":
            raise BadSetting(
                f'tvm: form="{self.form}" has kind "isotropic" or "anisotropic", got "rows", which '
                'is for form="paper".'
            )
        if not self.weight > 0:
            raise BadSetting(f"tvm: weight is of the total variation, above 0, got {self.weight}.")
        if not 0 <= self.drop < 1:
            raise BadSetting(f"tvm: drop is a probability in [0, 1), got {self.drop}.")
        least = 1e-6 if self.form == "paper" else 0.0
        if self.tol is not None and not (self.tol > 0 and self.tol >= least):
            raise BadSetting(
                f'tvm: tol is above 0, and at least 1e-6 for form="paper", got {self.tol}.'
            )

    def draw(self, key: Key, shape: Shape) -> Tensor | None:
        """Which entries are kept: bool (B, C, H, W), or (B, 1, H, W) for pixels."""
        if self.drop == 0:
            return None
        channels, height, width = shape
        each = (self.of or FORMS[self.form].of) == "entries"
        return key.fold("kept").bernoulli(1 - self.drop, channels if each else 1, height, width)

    def forward(self, x: Tensor, draw: Tensor | None) -> Tensor:
        """x float (B, C, H, W) in [0, 1], completed."""
        kept, kind = self._kept(x, draw), self._kind
        tol = self.tol or FORMS[self.form].tol
        if self.form == "paper":
            with torch.no_grad():
                return minimise(x, kept, self.weight, kind, tol).image
        if self.form == "released":
            given = torch.where(kept, x, 0)
            return bregman.nested(given, kept, self.weight, kind, tol).image.clamp(0, 1)
        return bregman.interleaved(x, kept, self.weight / 2, kind, tol).image.clamp(0, 1)

    @property
    def surrogates(self) -> Mapping[str, Surrogate]:
        """The solver's or the minimiser's derivative, or the link ignored."""
        best = {"implicit": self._implicit} if self.form == "paper" else {"exact": self.forward}
        return {**best, "identity": identity}

    @property
    def _kind(self) -> str:
        return self.kind or FORMS[self.form].kind

    def _kept(self, x: Tensor, draw: Tensor | None) -> Tensor:
        if draw is None:
            return torch.ones_like(x, dtype=torch.bool)
        return (draw | (x == 0) if self.form == "released" else draw).expand(x.shape)

    def _implicit(self, x: Tensor, draw: Tensor | None) -> Tensor:
        u = self.forward(x.detach(), draw)
        return attached(u, x, self._kept(x, draw), self.weight, self._kind)
