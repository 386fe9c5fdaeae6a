"""Residual networks for 32 x 32 images (He et al. 2015, arXiv:1512.03385, section 4.2)."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from besiege.models.classifier import Classifier
from besiege.models.sources import Layout, load

CIFAR10 = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def resnet20(weights: str) -> Classifier:
    """ResNet-20 for CIFAR-10 (0.27 M parameters) from a safetensors file.

    weights: keys conv1, bn1, layer1..3, linear; made for ImageNet's mean and std.
    """
    return load(RESNET20, weights)


def resnet56(weights: str) -> Classifier:
    """ResNet-56 for CIFAR-10 (0.85 M parameters) from a safetensors file.

    weights: as for resnet20.
    """
    return load(RESNET56, weights)


def resnet20_pni(weights: str) -> Classifier:
    """ResNet-20 as the code of parametric noise injection has it: no normalisation.

    weights: keys conv_1_3x3, bn_1, stage_1..3, classifier; shortcuts padded at the end only
    (He et al. 2019, arXiv:1811.09310).
    """
    return load(RESNET20_PNI, weights)


class Shortcut(nn.Module):
    """Option A of the paper, without parameters: every second pixel, new channels zero.

    (B, C, H, W) -> (B, before + C + after, H / 2, W / 2).
    """

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.pad = (0, 0, 0, 0, before, after)

    def forward(self, x: Tensor) -> Tensor:
        """Subsampled and padded."""
        return F.pad(x[:, :, ::2, ::2], self.pad)


class Block(nn.Module):
    """Two 3 x 3 convolutions with batch norm around a shortcut."""

    def __init__(self, width_in: int, width: int, stride: int, shortcut: nn.Module) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width_in, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        """(B, width_in, H, W) -> (B, width, H / stride, W / stride)."""
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + self.shortcut(x))


class CifarResNet(nn.Module):
    """6n + 2 layers: three stages of n blocks, 16, 32 and 64 channels wide.

    padding: new channels of a shortcut, width entering the stage -> (before, after).
    """

    def __init__(
        self, classes: int, blocks: int, padding: Callable[[int], tuple[int, int]]
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = _stage(16, 16, blocks, nn.Identity())
        self.layer2 = _stage(16, 32, blocks, Shortcut(*padding(16)))
        self.layer3 = _stage(32, 64, blocks, Shortcut(*padding(32)))
        self.linear = nn.Linear(64, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, classes) of normalised images (B, 3, H, W)."""
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.layer3(self.layer2(self.layer1(y)))
        logits: Tensor = self.linear(torch.mean(y, dim=(2, 3)))
        return logits


def _stage(width_in: int, width: int, blocks: int, shortcut: nn.Module) -> nn.Sequential:
    first = Block(width_in, width, width // width_in, shortcut)
    return nn.Sequential(first, *(Block(width, width, 1, nn.Identity()) for _ in range(1, blocks)))


def _both_sides(width: int) -> tuple[int, int]:
    return width // 2, width // 2


def _at_the_end(width: int) -> tuple[int, int]:
    return 0, width


def _pni_key(key: str) -> str:
    """Our key -> the key in the files of parametric noise injection.

    >>> _pni_key("layer2.0.bn1.weight"), _pni_key("conv1.weight")
    ('stage_2.0.bn_a.weight', 'conv_1_3x3.weight')
    """
    head, _, rest = key.partition(".")
    outside = {"conv1": "conv_1_3x3", "bn1": "bn_1", "linear": "classifier"}
    if head in outside:
        return f"{outside[head]}.{rest}"
    rest = re.sub(r"(conv|bn)([12])", lambda m: f"{m[1]}_{'ab'[int(m[2]) - 1]}", rest)
    return f"{head.replace('layer', 'stage_')}.{rest}"


RESNET20 = Layout(
    "resnet20",
    partial(CifarResNet, blocks=3, padding=_both_sides),
    head="linear.weight",
    classes=CIFAR10,
    mean=IMAGENET_MEAN,
    std=IMAGENET_STD,
)
RESNET56 = Layout(
    "resnet56",
    partial(CifarResNet, blocks=9, padding=_both_sides),
    head="linear.weight",
    classes=CIFAR10,
    mean=IMAGENET_MEAN,
    std=IMAGENET_STD,
)
RESNET20_PNI = Layout(
    "resnet20-pni",
    partial(CifarResNet, blocks=3, padding=_at_the_end),
    head="linear.weight",
    classes=CIFAR10,
    rename=_pni_key,
)
