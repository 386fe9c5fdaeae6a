"""What an attacker ascends: functions of logits, label (or target) and goal."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn import functional

from besiege.core.entry import Catalog, Entry

# (logits (B, K), label or target (B,), targeted) -> (B,), larger is better for the attacker.
Loss: TypeAlias = Callable[[Tensor, Tensor, bool], Tensor]


def cross_entropy() -> Loss:
    """Cross-entropy: of the true label, ascended; of the target, descended."""

    def loss(logits: Tensor, label: Tensor, targeted: bool) -> Tensor:
        value = functional.cross_entropy(logits, label, reduction="none")
        return -value if targeted else value

    return loss


def margin() -> Loss:
    """Difference of the wanted logit and its best rival: positive exactly when the goal is met."""

    def loss(logits: Tensor, label: Tensor, targeted: bool) -> Tensor:
        own = logits.gather(1, label[:, None])[:, 0]
        hidden = functional.one_hot(label, logits.shape[1]).bool()
        rival = logits.masked_fill(hidden, -torch.inf).amax(1)
        return own - rival if targeted else rival - own

    return loss


LOSSES: Catalog[Loss] = Catalog(
    "loss",
    [
        Entry("cross-entropy", cross_entropy, "Goodfellow et al. 2015 (arXiv:1412.6572)"),
        Entry("margin", margin, "Carlini & Wagner 2017 (arXiv:1608.04644), f6 without its clamp"),
    ],
)
