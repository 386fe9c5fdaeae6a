"""A small network with keyed weights, for images of any size and any number of channels."""

from __future__ import annotations

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
