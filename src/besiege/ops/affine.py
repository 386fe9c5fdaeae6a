"""Images turned and shifted as a whole."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional


def turned(x: Tensor, angle: Tensor, down: Tensor, right: Tensor) -> Tensor:
    """x (B, C, H, W) turned about its centre, then shifted; linear in between, 0 from outside.

    angle: (B,) degrees, clockwise on a screen, whose rows go down. down, right: (B,) pixels.

    >>> image = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
    >>> none, one = torch.zeros(1), torch.ones(1)
    >>> turned(image, 90 * one, none, none).round().long()
    tensor([[[[3, 1],
              [4, 2]]]])
    >>> turned(image, none, none, one).round().long()
    tensor([[[[0, 1],
              [0, 3]]]])
    """
    height, width = x.shape[-2:]
    turn = (angle.double() * (math.pi / 180))[:, None, None]
    i = torch.arange(height, device=x.device, dtype=torch.float64)[:, None] - (height - 1) / 2
    j = torch.arange(width, device=x.device, dtype=torch.float64)[None] - (width - 1) / 2
    i, j = i - down.double()[:, None, None], j - right.double()[:, None, None]
    # Where each pixel comes from: the way back.
    row, column = turn.cos() * i - turn.sin() * j, turn.sin() * i + turn.cos() * j
    grid = torch.stack([2 * column / width, 2 * row / height], -1).to(x.dtype)
    return functional.grid_sample(x, grid, "bilinear", "zeros", align_corners=False)
