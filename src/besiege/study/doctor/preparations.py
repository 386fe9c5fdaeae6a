"""Whether a model wants images prepared otherwise: asked with the common means and deviations."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from besiege.checks.deployed import Preparations
from besiege.core.key import Key
from besiege.core.passes import passing
from besiege.models.classifier import Classifier
from besiege.models.sources import CIFAR_MEAN, CIFAR_STD, IMAGENET_MEAN, IMAGENET_STD

# Channels -> name -> mean and std, as public networks have them.
COMMON: Mapping[int, Mapping[str, tuple[tuple[float, ...], tuple[float, ...]]]] = {
    1: {"MNIST's mean": ((0.1307,), (0.3081,)), "1/2": ((0.5,), (0.5,))},
    3: {
        "ImageNet's mean": (IMAGENET_MEAN, IMAGENET_STD),
        "CIFAR-10's mean": (CIFAR_MEAN, CIFAR_STD),
        "1/2": ((0.5,), (0.5,)),
    },
}
RGB = 3


def preparations(classifier: Classifier, x: Tensor, y: Tensor) -> Preparations:
    """Answers to x (B, C, H, W) with labels y (B,) as they are, and prepared in common ways.

    Normalised by a mean and std of COMMON, or by the inverse of that; by the inverse of the
    classifier's own; in grey levels; with red and blue exchanged.
    Cost: a forward an image and way, 6 to 10 of them.
    """
    ways = {"as they are": x}
    for name, (mean, std) in COMMON.get(x.shape[1], {}).items():
        m, s = (x.new_tensor(v).reshape(1, -1, 1, 1) for v in (mean, std))
        ways[f"normalised by {name}"] = (x - m) / s
        ways[f"freed of a normalisation by {name}"] = x * s + m
    ways["freed of the Classifier's own normalisation"] = x * classifier.std + classifier.mean
    ways["multiplied by 255"] = x * 255
    if x.shape[1] == RGB:
        ways["turned to BGR"] = x.flip(1)
    same = Key.root(0, [0] * len(x), x.device)
    logits = []
    for z in ways.values():
        with torch.no_grad(), passing(same):
            logits.append(classifier.unchecked(z).double())
    found = torch.stack(logits)  # (ways, B, K)
    own = found.gather(2, y.expand(len(found), -1)[:, :, None])
    other = found.scatter(2, y.expand(len(found), -1)[:, :, None], -torch.inf).amax(2)
    margin = (own[:, :, 0] - other) / found.std(2).clamp_min(1e-12)
    right = found.argmax(2) == y
    return Preparations(tuple(ways), right.cpu().numpy(), margin.nan_to_num(0).cpu().numpy())
