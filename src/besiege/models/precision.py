"""A classifier in lower precision, as an attacker may run it to save time."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from besiege.models.classifier import Classifier

PRECISIONS = ("float32", "bfloat16")


def in_precision(classifier: Classifier, precision: str) -> Classifier:
    """The same network with `torch.autocast` to `precision`, one of PRECISIONS.

    Convolutions and matrix products run in it, the rest as torch decides; images and logits stay
    as they are, and so does float64, which autocast leaves alone. Weights are shared.
    Cost: where the processor computes in bfloat16 half the time of a pass (ResNet-20, 64 images,
    one thread, AVX-512 BF16: 84 ms forward and backward, 170 in float32). Elsewhere it is slower:
    1.7 times the time with AVX-512 alone, 20 times with AVX2 (oneDNN limited to these).

    >>> from besiege.laws.problems import linear_classifier
    >>> exact, x = linear_classifier(), torch.full((1, 1, 4, 4), 0.3)
    >>> rounded = in_precision(exact, "bfloat16")
    >>> rounded(x).dtype, 0 < float((rounded(x) - exact(x)).abs().max().detach()) < 0.1
    (torch.float32, True)
    """
    if precision == "float32":
        return classifier
    return classifier.through(_Autocast(classifier))


class _Autocast(nn.Module):
    """`whole` under autocast; its logits in the images' precision."""

    def __init__(self, whole: Classifier) -> None:
        super().__init__()
        self.whole = whole
        self.training = whole.training

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, torch.bfloat16):
            logits: Tensor = self.whole(x)
        return logits.to(x.dtype)
