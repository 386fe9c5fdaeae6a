"""Three defenses as people have them: nothing here knows of besiege."""

import numpy as np
import torch
from PIL import ImageFilter


def make_median(size=3):
    """Pillow's median filter; takes and returns a picture."""
    return lambda picture: picture.filter(ImageFilter.MedianFilter(int(size)))


def make_blur(radius=1.0):
    """Pillow's Gaussian filter."""
    return lambda picture: picture.filter(ImageFilter.GaussianBlur(radius))


def make_tv(weight=0.1):
    """scikit-image's total variation denoising; takes and returns floats (H, W, C)."""
    from skimage.restoration import denoise_tv_chambolle

    def denoised(image: np.ndarray) -> np.ndarray:
        return denoise_tv_chambolle(image, weight=weight, channel_axis=-1)

    return denoised


class RandomContrast(torch.nn.Module):
    """Scale the contrast by a random factor and add noise; takes and returns (C, H, W)."""

    def __init__(self, spread: float = 0.4, noise: float = 0.1) -> None:
        super().__init__()
        self.spread, self.noise = spread, noise

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        factor = 1 + self.spread * (torch.rand(1) - 0.5)
        noisy = (image - 0.5) * factor + 0.5 + self.noise * torch.randn_like(image)
        return noisy.clamp(0, 1)


def make_random(spread=0.4, noise=0.1):
    return RandomContrast(spread, noise)
