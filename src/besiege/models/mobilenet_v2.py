"""MobileNetV2 with batch norm folded into its convolutions (Sandler et al. 2018)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from besiege.data.assets import IMAGENET
from besiege.models.classifier import Classifier
from besiege.models.sources import Layout, load

# Table 2 of arXiv:1801.04381: (expansion, width, repeats, stride of the first).
STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


def mobilenet_v2(weights: str) -> Classifier:
    """MobileNetV2 1.0 for ImageNet (3.5 M parameters) from a safetensors file.

    weights: keys stem, blocks.0..16, head, classifier, with batch norm folded in. Images of any
    size are resized to 224 and become (255 x - 128) / 128.
    """
    return load(LAYOUT, weights)


class Convolution(nn.Conv2d):
    """Convolution with bias and the padding that TensorFlow calls SAME, for even sizes.

    At stride 2 the bottom and right are padded by one, so that windows sit on pixels 2i .. 2i + 2.
    """

    def __init__(self, width_in: int, width: int, side: int, stride: int = 1, groups: int = 1):
        padding = side // 2 if stride == 1 else 0
        super().__init__(width_in, width, side, stride, padding, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        """(B, width_in, H, W) -> (B, width, H / stride, W / stride)."""
        return super().forward(x if self.stride == (1, 1) else F.pad(x, (0, 1, 0, 1)))


class Block(nn.Module):
    """Inverted residual: expand (not where expansion is 1), depthwise 3 x 3, linear projection."""

    def __init__(self, width_in: int, width: int, expansion: int, stride: int) -> None:
        super().__init__()
        inner = width_in * expansion
        self.expand = Convolution(width_in, inner, 1) if expansion > 1 else None
        self.depthwise = Convolution(inner, inner, 3, stride, groups=inner)
        self.project = Convolution(inner, width, 1)
        self.residual = stride == 1 and width_in == width

    def forward(self, x: Tensor) -> Tensor:
        """(B, width_in, H, W) -> (B, width, H / stride, W / stride)."""
        y = x if self.expand is None else F.relu6(self.expand(x))
        out: Tensor = self.project(F.relu6(self.depthwise(y)))
        return x + out if self.residual else out


class MobileNetV2(nn.Module):
    """Stem, 17 blocks, head, global average, linear."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.stem = Convolution(3, 32, 3, stride=2)
        blocks, width_in = [], 32
        for expansion, width, repeats, stride in STAGES:
            for i in range(repeats):
                blocks.append(Block(width_in, width, expansion, stride if i == 0 else 1))
                width_in = width
        self.blocks = nn.Sequential(*blocks)
        self.head = Convolution(width_in, 1280, 1)
        self.classifier = nn.Linear(1280, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, classes) of normalised images (B, 3, 224, 224)."""
        y = F.relu6(self.head(self.blocks(F.relu6(self.stem(x)))))
        logits: Tensor = self.classifier(torch.mean(y, dim=(2, 3)))
        return logits


LAYOUT = Layout(
    "mobilenet-v2",
    MobileNetV2,
    head="classifier.weight",
    classes=IMAGENET,
    mean=128 / 255,
    std=128 / 255,
    size=224,
)
