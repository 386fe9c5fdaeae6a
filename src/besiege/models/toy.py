"""A small network with keyed weights, for images of any size and any number of channels."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from besiege.core.key import Key


class Toy(nn.Module):
    """Mean over channels, 3 x 3 convolution, softplus, mean over pixels of squares, linear layer.

    Not trained: its answers mean nothing, its gradients are alive everywhere. It computes in the
    precision of its input, and needs no file; laws and examples are run on it.

    >>> Toy(classes=4)(torch.zeros(2, 1, 9, 40)).shape
    torch.Size([2, 4])
    """

    def __init__(self, classes: int = 5, width: int = 4, seed: int = 0) -> None:
        super().__init__()
        key = Key.root(seed, [0])
        self.kernel = key.fold("kernel").normal(width, 1, 3, 3)[0]
        self.head = key.fold("head").normal(classes, width)[0]
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """x (B, C, H, W) -> (B, classes)."""
        grey = x.mean(1, keepdim=True) - 0.5
        features = F.softplus(F.conv2d(grey, self.kernel.to(x), padding=1))
        logits: Tensor = 20 * F.linear((features**2).mean((2, 3)), self.head.to(x))
        return logits


class ToyFilter(nn.Module):
    """Each channel blurred by a fixed 3 x 3 filter: a linear map from image to image.

    >>> ToyFilter()(torch.ones(1, 2, 5, 5))[0, 0, 2, 2]
    tensor(1.)
    """

    def __init__(self) -> None:
        super().__init__()
        self.kernel = torch.tensor([[0.0, 1, 0], [1, 4, 1], [0, 1, 0]]) / 8
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """x (B, C, H, W) -> (B, C, H, W), the border repeated."""
        weight = self.kernel.to(x).expand(x.shape[1], 1, 3, 3)
        return F.conv2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), weight, groups=x.shape[1])


@dataclass(frozen=True)
class ToyDensity:
    """A density of images in which a value is the likelier the nearer it is to that on its left."""

    def __call__(self, levels: Tensor, c: int, i: int, j: int) -> Tensor:
        """Logits (B, 256) of the value at [:, c, i, j].

        levels (B, C, H, W) int64; 128 stands left of the first column. It looks at nothing that
        comes later in raster order, as a density of images must not.
        """
        before = levels[:, c, i, j - 1 : j] if j else torch.full_like(levels[:, c, i, :1], 128)
        return -(torch.arange(256, device=levels.device) - before).abs().float()
