"""Networks of 3 x 3 convolutions and pools (Simonyan and Zisserman 2015, arXiv:1409.1556).

For 32 x 32 pixels, with batch norm after every convolution.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from torch import Tensor, nn

from besiege.data.assets import CIFAR10
from besiege.models.classifier import Classifier
from besiege.models.sources import CIFAR_MEAN, CIFAR_STD, Layout, load

POOL = 0  # in a plan: a 2 x 2 max-pool; other numbers are the widths of convolutions
SMALL = (64, POOL, 128, POOL, 64, 64, POOL, 128, 128, POOL)
SIXTEEN = (
    *(64, 64, POOL),
    *(128, 128, POOL),
    *(256, 256, 256, POOL),
    *(512, 512, 512, POOL),
    *(512, 512, 512, POOL),
)


def vgg0(weights: str) -> Classifier:
    """The small VGG of Xiao and Zheng, their f_b (0.94 M parameters), from a safetensors file.

    weights: keys features.0..19, classifier.1, .4, .6; no normalisation. Images of any
    size are resized to 32.
    """
    return load(VGG0, weights)


def vgg16_bn(weights: str, normalised: bool = True) -> Classifier:
    """VGG-16 with batch norm for 32 x 32 pixels (14.7 M parameters) from a safetensors file.

    weights: keys features.0..41 and one linear layer, `classifier`, as most public code for
    CIFAR-10 has it. normalised: whether they were trained on normalised pixels, mean (0.4914,
    0.4822, 0.4465) and std (0.2023, 0.1994, 0.2010). The file's metadata may name other constants.
    Images of any size are resized to 32.
    """
    return load(VGG16_BN if normalised else replace(VGG16_BN, mean=0.0, std=1.0), weights)


class VGG(nn.Module):
    """Convolutions and pools by `plan`, then `head`."""

    def __init__(self, plan: Sequence[int], head: nn.Module) -> None:
        super().__init__()
        self.features = nn.Sequential(*_layers(plan))
        self.classifier = head

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, classes) of images (B, 3, 32, 32)."""
        logits: Tensor = self.classifier(self.features(x).flatten(1))
        return logits


def _layers(plan: Sequence[int]) -> Iterator[nn.Module]:
    width_in = 3
    for width in plan:
        if width == POOL:
            yield nn.MaxPool2d(2)
        else:
            yield nn.Conv2d(width_in, width, 3, padding=1)
            yield nn.BatchNorm2d(width)
            yield nn.ReLU()
            width_in = width


def _small(classes: int) -> nn.Module:
    """Three linear layers on 128 x 2 x 2; the identities stand where training has dropout."""
    head = nn.Sequential(
        nn.Identity(),
        nn.Linear(512, 512),
        nn.ReLU(),
        nn.Identity(),
        nn.Linear(512, 512),
        nn.ReLU(),
        nn.Linear(512, classes),
    )
    return VGG(SMALL, head)


def _sixteen(classes: int) -> nn.Module:
    """One linear layer on 512 x 1 x 1."""
    return VGG(SIXTEEN, nn.Linear(512, classes))


VGG0 = Layout("vgg0", _small, head="classifier.6.weight", classes=CIFAR10, size=32)
VGG16_BN = Layout(
    "vgg16-bn",
    _sixteen,
    head="classifier.weight",
    classes=CIFAR10,
    mean=CIFAR_MEAN,
    std=CIFAR_STD,
    size=32,
)
