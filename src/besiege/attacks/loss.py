"""What an attacker ascends: functions of logits, label (or target) and goal."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn import functional

from besiege.core.batch import fold_sum
from besiege.core.entry import Catalog, Entry, parse_value
from besiege.core.errors import BadModel, BadSetting

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


def dlr(published: bool = False) -> Loss:
    """Difference of logits ratio: the margin over the spread of the largest logits.

    With z sorted, z1 the largest: untargeted (max of the others - z_y) / (z1 - z3), equation 6;
    targeted (z_t - max of the others) / (z1 - (z3 + z4) / 2), equation 7, which has the true label
    where the best rival of the target stands here, also if `published`: who has a target is not
    told the label, and while a third class wins the printed ratio rises without meeting the goal.
    The value does not change when the logits are shifted or scaled. What is mended:
    - The gradient takes the denominator as a constant: that of the margin, rescaled. The printed
      one is 0 along z, and 0 altogether where the ratio is stuck: at 1 if the label is third, at -1
      if the target is last of three, at +-1 with two classes.
    - Two classes have no third logit, and no other scale-free loss than a sign: this is the margin.
      Of three, the third stands for the fourth.
    - Where the largest logits tie, the denominator is at least 1e-6 of the spread of all logits,
      and 1 where all are equal: gradients are finite.
    published: the printed gradient, through the denominator; of these mends only the last.
        Raises BadModel for fewer classes than the equation needs.
    """

    def loss(logits: Tensor, label: Tensor, targeted: bool) -> Tensor:
        classes = logits.shape[1]
        gap = margin()(logits, label, targeted)
        if published and classes < (4 if targeted else 3):
            raise BadModel(
                f"loss dlr as published needs {4 if targeted else 3} classes for this goal, the "
                f"classifier has {classes}: leave `published` out or take the loss margin."
            )
        if classes < 3:
            return gap
        top = logits.topk(min(4, classes), 1).values
        low = (top[:, 2] + top[:, -1]) / 2 if targeted else top[:, 2]
        spread = top[:, 0] - logits.amin(1)
        floor = torch.where(spread > 0, 1e-6 * spread, 1)
        below = torch.maximum(top[:, 0] - low, floor.detach())
        return gap / (below if published else below.detach())

    return loss


LOSSES: Catalog[Loss] = Catalog(
    "loss",
    [
        Entry("cross-entropy", cross_entropy, "Goodfellow et al. 2015 (arXiv:1412.6572)"),
        Entry("margin", margin, "Carlini & Wagner 2017 (arXiv:1608.04644), f6 without its clamp"),
        Entry(
            "dlr",
            dlr,
            "Croce & Hein 2020 (arXiv:2003.01690), equations 6 and 7, mended",
            cases=({}, {"published": True}),
        ),
    ],
)


def load_loss(spec: str, catalog: Catalog[Loss] = LOSSES) -> Loss:
    """The loss that `spec` names, "dlr", or a sum, "cross-entropy + 0.1*margin".

    Each term is in its own units; a factor before * brings them to one scale.
    Raises UnknownName or BadSetting.

    >>> z, y = torch.tensor([[2.0, 0.0]]), torch.tensor([0])
    >>> load_loss("margin + 2*margin")(z, y, False)
    tensor([-6.])
    """
    factors, losses = [], []
    for term in spec.split(" + "):
        factor, _, name = term.rpartition("*")
        losses.append(catalog.build(name))
        weight = parse_value(factor.strip()) if factor else 1
        if isinstance(weight, str | bool) or weight <= 0:
            raise BadSetting(f'loss "{spec}": "{factor}" is no factor > 0, as in 0.1*margin.')
        factors.append(float(weight))
    if len(losses) == 1 and factors == [1.0]:
        return losses[0]

    def loss(logits: Tensor, label: Tensor, targeted: bool) -> Tensor:
        terms = [f * one(logits, label, targeted) for f, one in zip(factors, losses, strict=True)]
        return fold_sum(torch.stack(terms, 1))

    return loss
