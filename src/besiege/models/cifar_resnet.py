"""Residual networks for small images (He et al. 2015, arXiv:1512.03385).

ResNet-20 and -56 are those of its section 4.2, made for 32 x 32 pixels; ResNet-18 is that of table
1 with the stem that small images need: a 3 x 3 convolution of stride 1, and no pool (or one: its
weights look the same, so it must be named).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from besiege.data.assets import CIFAR10
from besiege.models.classifier import Classifier
from besiege.models.sources import CIFAR_MEAN, CIFAR_STD, IMAGENET_MEAN, IMAGENET_STD, Layout, load


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


def resnet18(weights: str, normalised: bool = True) -> Classifier:
    """ResNet-18 for 32 x 32 pixels (11.2 M parameters) from a safetensors file.

    weights: keys conv1, bn1, layer1..4 with shortcut.0 and .1, linear, as most public code for
    CIFAR-10 has them. normalised: whether they were trained on normalised pixels, mean (0.4914,
    0.4822, 0.4465) and std (0.2023, 0.1994, 0.2010); adversarially trained ones often were not.
    The file's metadata may name other constants.
    """
    return load(RESNET18 if normalised else replace(RESNET18, mean=0.0, std=1.0), weights)


def resnet18_64(weights: str, normalised: bool = True) -> Classifier:
    """ResNet-18 for 64 x 64 pixels, as for Tiny ImageNet (11.3 M parameters), from a file.

    weights: torchvision's keys (conv1, bn1, layer1..4 with downsample.0 and .1, fc), but conv1 is
    3 x 3 with stride 1 and no pool follows. normalised: by ImageNet's mean and std; see resnet18.
    """
    return load(RESNET18_64 if normalised else replace(RESNET18_64, mean=0.0, std=1.0), weights)


def resnet18_64_pool(weights: str, normalised: bool = True) -> Classifier:
    """resnet18-64 with torchvision's max-pool after conv1: 3 x 3, stride 2.

    weights, normalised: as for resnet18-64, whose files look the same: a pool has no weights.
    """
    layout = RESNET18_64_POOL
    return load(layout if normalised else replace(layout, mean=0.0, std=1.0), weights)


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


class ResNet(nn.Module):
    """A 3 x 3 convolution, stages of `blocks` blocks each, a global average, a linear layer.

    widths: channels of the stages; each but the first halves height and width.
    shortcut: that of a stage's first block where the width grows, (width in, width) -> module.
    pool: whether a 3 x 3 max-pool of stride 2 follows the first convolution.
    """

    def __init__(
        self,
        classes: int,
        widths: Sequence[int],
        blocks: int,
        shortcut: Callable[[int, int], nn.Module],
        pool: bool = False,
    ) -> None:
        super().__init__()
        self.pool = pool
        self.conv1 = nn.Conv2d(3, widths[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        before = (widths[0], *widths)
        self.stages = [f"layer{i + 1}" for i in range(len(widths))]
        for name, width_in, width in zip(self.stages, before, widths, strict=False):
            first = nn.Identity() if width == width_in else shortcut(width_in, width)
            self.add_module(name, _stage(width_in, width, blocks, first))
        self.linear = nn.Linear(widths[-1], classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, classes) of normalised images (B, 3, H, W)."""
        y = F.relu(self.bn1(self.conv1(x)))
        if self.pool:
            y = F.max_pool2d(y, 3, stride=2, padding=1)
        for name in self.stages:
            y = self.get_submodule(name)(y)
        logits: Tensor = self.linear(torch.mean(y, dim=(2, 3)))
        return logits


def _stage(width_in: int, width: int, blocks: int, shortcut: nn.Module) -> nn.Sequential:
    first = Block(width_in, width, width // width_in, shortcut)
    return nn.Sequential(first, *(Block(width, width, 1, nn.Identity()) for _ in range(1, blocks)))


def _both_sides(width_in: int, width: int) -> nn.Module:
    """Option A as most public code has it."""
    return Shortcut((width - width_in) // 2, (width - width_in) // 2)


def _at_the_end(width_in: int, width: int) -> nn.Module:
    """Option A as the code of parametric noise injection has it."""
    return Shortcut(0, width - width_in)


def _projection(width_in: int, width: int) -> nn.Module:
    """Option B of the paper: a 1 x 1 convolution of stride 2 with batch norm."""
    return nn.Sequential(nn.Conv2d(width_in, width, 1, 2, bias=False), nn.BatchNorm2d(width))


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


def _torchvision_key(key: str) -> str:
    """Our key -> torchvision's.

    >>> _torchvision_key("layer2.0.shortcut.1.weight"), _torchvision_key("linear.bias")
    ('layer2.0.downsample.1.weight', 'fc.bias')
    """
    return re.sub("^linear", "fc", key.replace("shortcut", "downsample"))


NARROW, WIDE = (16, 32, 64), (64, 128, 256, 512)

RESNET20 = Layout(
    "resnet20",
    partial(ResNet, widths=NARROW, blocks=3, shortcut=_both_sides),
    head="linear.weight",
    classes=CIFAR10,
    mean=IMAGENET_MEAN,
    std=IMAGENET_STD,
)
RESNET56 = Layout(
    "resnet56",
    partial(ResNet, widths=NARROW, blocks=9, shortcut=_both_sides),
    head="linear.weight",
    classes=CIFAR10,
    mean=IMAGENET_MEAN,
    std=IMAGENET_STD,
)
RESNET20_PNI = Layout(
    "resnet20-pni",
    partial(ResNet, widths=NARROW, blocks=3, shortcut=_at_the_end),
    head="linear.weight",
    classes=CIFAR10,
    rename=_pni_key,
)
RESNET18 = Layout(
    "resnet18",
    partial(ResNet, widths=WIDE, blocks=2, shortcut=_projection),
    head="linear.weight",
    classes=CIFAR10,
    mean=CIFAR_MEAN,
    std=CIFAR_STD,
)
RESNET18_64 = Layout(
    "resnet18-64",
    partial(ResNet, widths=WIDE, blocks=2, shortcut=_projection),
    head="linear.weight",
    classes=tuple(str(i) for i in range(200)),
    mean=IMAGENET_MEAN,
    std=IMAGENET_STD,
    rename=_torchvision_key,
)
RESNET18_64_POOL = replace(
    RESNET18_64,
    name="resnet18-64-pool",
    network=partial(ResNet, widths=WIDE, blocks=2, shortcut=_projection, pool=True),
)
