"""Structural similarity of pairs of images."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import avg_pool2d

from besiege.core.errors import BadImages

K1, K2 = 0.01, 0.03


def structural_similarity(x: Tensor, y: Tensor, window: int = 7) -> Tensor:
    """The mean structural similarity of each pair, (B,) float64 in [-1, 1].

    x, y: (B, C, H, W) in [0, 1]. Means, variances and covariance are those of every square of
    `window` x `window` pixels inside the image, each as likely, unbiased; the mean is over squares
    and channels. That is scikit-image's default, which most papers report.
    Source: Wang et al. 2004, IEEE TIP 13(4), equation 13. Raises BadImages for smaller images.
    """
    if min(x.shape[-2:]) < window:
        raise BadImages(f"similarity looks at {window} x {window} pixels, got {tuple(x.shape)}.")
    a, b, n = x.double(), y.double(), window * window

    def mean(z: Tensor) -> Tensor:
        return avg_pool2d(z, window, stride=1)

    mean_a, mean_b = mean(a), mean(b)
    fair = n / (n - 1)
    var_a, var_b = fair * (mean(a * a) - mean_a**2), fair * (mean(b * b) - mean_b**2)
    shared = fair * (mean(a * b) - mean_a * mean_b)
    c1, c2 = K1**2, K2**2
    above = (2 * mean_a * mean_b + c1) * (2 * shared + c2)
    below = (mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2)
    return (above / below).flatten(1).mean(1)
