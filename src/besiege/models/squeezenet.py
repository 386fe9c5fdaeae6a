"""SqueezeNet 1.1 (Iandola et al. 2016, arXiv:1602.07360, and the authors' later release)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from besiege.data.assets import IMAGENET
from besiege.models.classifier import Classifier
from besiege.models.sources import Layout, load


def squeezenet(weights: str) -> Classifier:
    """SqueezeNet 1.1 for ImageNet (1.24 M parameters) from a safetensors file.

    weights: keys features.0..12, classifier.1. Images of any size are resized to 227 and become
    255 x - (123, 117, 104).
    """
    return load(LAYOUT, weights)


class Fire(nn.Module):
    """Squeeze by 1 x 1, then expand by 1 x 1 and 3 x 3 side by side."""

    def __init__(self, width_in: int, squeeze: int, expand: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(width_in, squeeze, 1)
        self.expand1x1 = nn.Conv2d(squeeze, expand, 1)
        self.expand3x3 = nn.Conv2d(squeeze, expand, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, width_in, H, W) -> (B, 2 expand, H, W)."""
        y = F.relu(self.squeeze(x))
        return F.relu(torch.cat([self.expand1x1(y), self.expand3x3(y)], dim=1))


class SqueezeNet(nn.Module):
    """A convolution, eight fire modules, three pools; the logits are a global average."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 64, 3, stride=2),
            nn.ReLU(),
            _pool(),
            Fire(64, 16, 64),
            Fire(128, 16, 64),
            _pool(),
            Fire(128, 32, 128),
            Fire(256, 32, 128),
            _pool(),
            Fire(256, 48, 192),
            Fire(384, 48, 192),
            Fire(384, 64, 256),
            Fire(512, 64, 256),
        )
        # The convolution is number 1, after a dropout in the released layout; its padding of 1 is
        # the released network's too.
        self.classifier = nn.Sequential(
            nn.Identity(), nn.Conv2d(512, classes, 1, padding=1), nn.ReLU()
        )

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, classes) of images (B, 3, 227, 227) in units of 1/255, less the mean."""
        return torch.mean(self.classifier(self.features(x)), dim=(2, 3))


def _pool() -> nn.Module:
    return nn.MaxPool2d(3, stride=2, ceil_mode=True)


LAYOUT = Layout(
    "squeezenet1.1",
    SqueezeNet,
    head="classifier.1.weight",
    classes=IMAGENET,
    mean=(123 / 255, 117 / 255, 104 / 255),
    std=1 / 255,
    size=227,
)
