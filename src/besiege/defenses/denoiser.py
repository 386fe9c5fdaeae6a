"""A denoising network in front of the classifier."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from besiege.core.errors import BadImages, one_of
from besiege.defenses.network import dtype_of, in_micro_batches, network_at, refuse_training
from besiege.defenses.transform import Surrogate, Transform, identity

FORMS = ("direct", "noise", "correction")


@dataclass(frozen=True)
class Denoiser(Transform):
    """A denoising network in front of the classifier, any that maps an image to one of its shape.

    network: a module in evaluation mode or a function of torch operations, (B, C, H, W) in [0, 1]
        -> (B, C, H, W), normalisation inside; "path.py:NAME" names one of your own. How it was
        trained (guided by the classifier's features or logits, or by pixels) is its own affair.
    form: what it returns. "direct", the image; "noise", what is to be taken from the image, x -
        network(x); "correction", what is to be added. The sum is cut to [0, 1].

    Exact: the gradient passes through the network. "identity" ignores it.
    Source: Liao et al. 2018 (arXiv:1712.02976), high-level guided denoiser. Cost: one forward of
    the network, 16 images at a time, and one backward for a gradient.
    """

    network: Any
    form: str = "direct"
    name: str = "denoiser"

    def __post_init__(self) -> None:
        one_of("form", self.form, FORMS, "transform denoiser")
        refuse_training(self._network("cpu"), "denoiser: network")

    def forward(self, x: Tensor, draw: Any) -> Tensor:
        """x float (B, C, H, W) in [0, 1], denoised."""
        if len(x) == 0:
            return x
        network = self._network(str(x.device))
        answer = in_micro_batches(network, x.to(dtype_of(network, x)))
        if answer.shape != x.shape:
            raise BadImages(
                f"denoiser: the network made {tuple(answer.shape)} of images {tuple(x.shape)}, "
                "where the same shape was expected."
            )
        y = answer.to(x.dtype)
        if self.form == "noise":
            y = x - y
        elif self.form == "correction":
            y = x + y
        return y.clamp(0, 1)

    @property
    def surrogates(self) -> Mapping[str, Surrogate]:
        """The true gradient, or the link ignored."""
        return {"exact": self.forward, "identity": identity}

    def _network(self, device: str) -> Any:
        if isinstance(self.network, str):
            return network_at(self.network, device, "denoiser: network")
        return self.network
