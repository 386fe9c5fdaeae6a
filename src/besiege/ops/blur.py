"""Gaussian blur with a width of its own for every image."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from besiege.core.batch import rows
from besiege.ops.border import mirror
from besiege.ops.fourier import filtered


def gaussian_blur(x: Tensor, sigma: Tensor) -> Tensor:
    """x (B, C, H, W) convolved with a Gaussian of sigma (B,) pixels, mirrored about its edges.

    The edge pixel is repeated, what SciPy calls "reflect". Such an image is periodic, and the
    Fourier transform of the Gaussian, exp(-sigma^2 w^2 / 2), is multiplied with its own.
    """
    height, width = x.shape[-2:]
    down = 2 * math.pi * torch.fft.fftfreq(2 * height, device=x.device, dtype=x.dtype)
    across = 2 * math.pi * torch.fft.rfftfreq(2 * width, device=x.device, dtype=x.dtype)
    square = down[:, None] ** 2 + across[None] ** 2
    mask = torch.exp(-0.5 * rows(sigma.to(x.dtype), x) ** 2 * square)
    planes = mask.expand(-1, x.shape[1], -1, -1).flatten(0, 1)
    return filtered(mirror(x, (0, 0), (height, width)), planes)[..., :height, :width]
