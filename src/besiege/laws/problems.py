"""Problems whose answer is known: a linear classifier, and one that is right with probability p."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from besiege.attacks.threat import L1, L2, Ball, Linf, RmsL2
from besiege.core.batch import row_sum
from besiege.core.key import Key
from besiege.defenses.defense import Defense
from besiege.defenses.transform import Chain, Shape, Surrogate, Transform, identity
from besiege.models.classifier import Classifier


def linear_classifier(
    classes: int = 3, shape: Shape = (1, 4, 4), seed: int = 0, dtype: torch.dtype = torch.float32
) -> Classifier:
    """Logits W x + b with keyed normal weights; its optima are in closed form.

    >>> linear_classifier()(torch.zeros(2, 1, 4, 4)).shape
    torch.Size([2, 3])
    """
    size = math.prod(shape)
    # By way of the meta device, so that no global random number initialises it.
    layer = nn.Linear(size, classes, device="meta", dtype=dtype).to_empty(device="cpu")
    key = Key.root(seed, [0])
    with torch.no_grad():
        layer.weight.copy_(key.fold("weight").normal(classes, size)[0])
        layer.bias.copy_(key.fold("bias").normal(classes)[0] * 0.1)
    network = nn.Sequential(nn.Flatten(), layer)
    return Classifier(network, classes, name="linear", channels=shape[0]).to(dtype).eval()


def weights_of(classifier: Classifier) -> Tensor:
    """W (K, C*H*W) of a linear classifier."""
    layer = classifier.network[1]  # type: ignore[index]
    weight: Tensor = layer.weight
    return weight.detach()


def largest_gain(classifier: Classifier, ball: Ball, own: Tensor, other: Tensor) -> Tensor:
    """The most by which logit `other` can gain on logit `own` in a ball, (B,), [0, 1] not binding.

    eps times the dual norm of w_other - w_own: l1 for linf, linf for l1, l2 for l2, sqrt(D) times
    that for the RMS ball.
    """
    w = weights_of(classifier)
    difference = w[other] - w[own]
    if isinstance(ball, Linf):
        dual = difference.abs().sum(1)
    elif isinstance(ball, L1):
        dual = difference.abs().amax(1)
    else:
        assert isinstance(ball, L2 | RmsL2)
        scale = math.sqrt(difference.shape[1]) if isinstance(ball, RmsL2) else 1.0
        dual = scale * (difference**2).sum(1).sqrt()
    return ball.eps * dual


def beside_border(classifier: Classifier, x: Tensor, share: float = 0.97) -> Tensor:
    """Images (B, C, H, W) that have gone a share of the l2 way to their nearest border.

    Of a linear classifier. From there no distance is so long that [0, 1] binds, for images that
    stay well inside.
    """
    w, scores = weights_of(classifier), classifier(x).detach()
    each, own = torch.arange(len(x)), scores.argmax(1)
    slope, short = w[None] - w[own][:, None], scores.amax(1, keepdim=True) - scores
    other = (short / slope.norm(dim=2)).scatter(1, own[:, None], torch.inf).argmin(1)
    way = slope[each, other] * (short[each, other] / (slope[each, other] ** 2).sum(1))[:, None]
    moved: Tensor = x + share * way.reshape(x.shape)
    return moved


def code_images(labels: Tensor, classes: int, shape: Shape = (1, 4, 4)) -> Tensor:
    """Flat grey images that spell their label: grey (label + 0.5) / classes, (B, *shape)."""
    grey = (labels.float() + 0.5) / classes
    return grey[:, None, None, None].expand(-1, *shape).clone()


def _spelt(x: Tensor, classes: int) -> Tensor:
    """The label that each image's mean grey spells, (B,) int64."""
    grey = row_sum(x) / x[0].numel()
    return (grey * classes).long().clamp(0, classes - 1)


@dataclass(frozen=True)
class Coin(Transform):
    """With probability 1 - p the image becomes that of the next label, whatever came in.

    Images are those of `code_images`; a perturbation that keeps the mean grey within half a class
    (0.5 / classes) changes nothing at all. Identity is its surrogate: gradients are alive.
    """

    p: float = 0.8
    classes: int = 10
    name: str = "coin"

    def draw(self, key: Key, shape: Shape) -> Tensor:
        """Whether each example is answered rightly, (B,) bool."""
        return key.bernoulli(self.p)

    def forward(self, x: Tensor, draw: Tensor) -> Tensor:
        """The code image of the label or of the next one."""
        label = _spelt(x, self.classes)
        told = torch.where(draw, label, (label + 1) % self.classes)
        shape = (x.shape[1], x.shape[2], x.shape[3])
        return code_images(told, self.classes, shape).to(x)

    @property
    def surrogates(self) -> Mapping[str, Surrogate]:
        """The identity."""
        return {"identity": identity}


class _Speller(nn.Module):
    """Logits by distance of the mean grey from each label's code; smooth, hence attackable."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes = classes

    def forward(self, x: Tensor) -> Tensor:
        grey = (row_sum(x) / x[0].numel())[:, None]
        codes = (torch.arange(self.classes, device=x.device, dtype=x.dtype) + 0.5) / self.classes
        return -((grey - codes) ** 2) * 100


def coin_defense(p: float, classes: int = 10) -> Defense:
    """A defense that is right with probability p on `code_images`, in any ball of eps < 0.05.

    Every attack must leave its score at p; AutoAttack's random mode reports 57.5 % where 83.4 % is
    true, because it looks for one lucky draw and never tests it again.
    """
    classifier = Classifier(_Speller(classes), classes, name="speller", channels=1).eval()
    return Defense(Chain((Coin(p, classes),)), classifier)
