"""Defenses inside a network: modules to put in front of its layers or between them.

A random stage says `draws = True` and takes its numbers from `core.passes.stage_key`, so that an
image's draws depend on its key alone and every answer of a defense draws afresh:
`Classifier(nn.Sequential(Noise(0.2), network), classes=10)`. Attackers differentiate through
stages as they are; a view can freeze their draws.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from besiege.core.batch import rows
from besiege.core.errors import BadSetting
from besiege.core.passes import pass_key, passing, stage_key
from besiege.models.classifier import Classifier


class _Stage(nn.Module):
    """A module without modes that keeps one number, which is part of what weights are hashed over.

    Weights that were saved without it load with strict=False.
    """

    setting: Tensor

    def __init__(self, setting: float) -> None:
        super().__init__()
        self.training = False
        self.register_buffer("setting", torch.tensor(float(setting)))


class Thermometer(_Stage):
    """Thermometer code: L channels for every one, of which those up to its level are 1.

    x float (B, C, H, W) in [0, 1] -> (B, C L, H, W), channels c L + j: 1 where floor(0.99999 x L)
    >= j, computed in float32, so that j = 0 is 1 everywhere. The network behind must be trained on
    it. Gradient: that of the soft code clip((255 x - w (j - 1)) / w, 0, 1) with w = 256 / L, as the
    code itself has none; it is 0 in the highest level, x >= (L - 1) w / 255.

    levels: L, at least 2.
    Source: Buckman et al. 2018 (ICLR); soft code of Athalye et al. 2018 (arXiv:1802.00420), whose
    code with L = 16 these formulas are.

    >>> Thermometer(4)(torch.tensor([[[[0.6]]]])).flatten()
    tensor([1., 1., 1., 0.])
    """

    def __init__(self, levels: int = 16) -> None:
        if not (isinstance(levels, int) and levels >= 2):
            raise BadSetting(f"Thermometer: levels is a whole number of at least 2, got {levels}.")
        super().__init__(levels)
        self.levels = levels

    def forward(self, x: Tensor) -> Tensor:
        """The code (B, C L, H, W) in the dtype of x, with the gradient of the soft one."""
        level = torch.arange(self.levels, device=x.device)[:, None, None]
        index = (0.99999 * x.detach().clamp(0, 1).float() * self.levels).long()
        code = (index[:, :, None] >= level).to(x.dtype).flatten(1, 2)
        if not (x.requires_grad and torch.is_grad_enabled()):
            return code
        soft = self.soft(x)
        return code + (soft - soft.detach())

    def soft(self, x: Tensor) -> Tensor:
        """The soft code, (B, C L, H, W)."""
        level = torch.arange(self.levels, device=x.device)[:, None, None]
        width = 256 / self.levels
        return ((255 * x[:, :, None] - width * (level - 1)) / width).clamp(0, 1).flatten(1, 2)


class Noise(_Stage):
    """Gaussian noise on activations, in evaluation too: the layer of random self-ensembles.

    x (B, ...) -> x + std z, another z in every call; x itself stays (the released layer wrote into
    it, and so changed its caller's images).

    std: 0.2 before the first convolution and 0.1 before the others in the paper, whose ensemble is
    a mean of the probabilities of 10 draws: vote `mean:draws=10`.
    Source: Liu et al. 2018 (arXiv:1712.00673).
    """

    draws = True

    def __init__(self, std: float = 0.1) -> None:
        if not 0 < std < math.inf:
            raise BadSetting(f"Noise: std is a number above 0, got {std}.")
        super().__init__(std)
        self.std = std

    def forward(self, x: Tensor) -> Tensor:
        """x of any shape (B, ...) with noise."""
        return x + self.std * stage_key(x).normal(*x.shape[1:]).to(x.dtype)


class ActivationPruning(_Stage):
    """Stochastic activation pruning: few activations survive, the large ones rather, scaled up.

    h (B, ...): n of an image's activations are drawn with replacement, with p_j = |h_j| / sum |h|;
    those drawn become h_j / (1 - (1 - p_j)^n), the others 0, so that the mean over draws is h. The
    gradient holds fixed what was drawn and its scale, and so has the identity as its mean.

    share: n over the number of an image's activations.
    Source: Dhillon et al. 2018 (arXiv:1803.01442), algorithm 1. Cost: n draws an image and call.
    """

    draws = True

    def __init__(self, share: float = 1.0) -> None:
        if not 0 < share < math.inf:
            raise BadSetting(f"ActivationPruning: share is a number above 0, got {share}.")
        super().__init__(share)
        self.share = share

    def forward(self, h: Tensor) -> Tensor:
        """The activations (B, ...) that survive, scaled up."""
        return h * self._scale(h.detach()).to(h.dtype)

    def _scale(self, h: Tensor) -> Tensor:
        """1 over the probability to survive, or 0; of the shape of h."""
        size = h.flatten(1).abs().double()
        up_to = size.cumsum(1)
        total = up_to[:, -1:]
        n = max(1, round(self.share * size.shape[1]))
        u = stage_key(h).uniform(n, dtype=torch.float64)
        drawn = torch.searchsorted(up_to, u * total, right=True).clamp_max(size.shape[1] - 1)
        kept = torch.zeros_like(size).scatter(1, drawn, 1.0)
        # log1p and expm1: p is often so small that 1 - p is 1 in float32.
        chance = -torch.expm1(n * torch.log1p(-(size / rows(total[:, 0], size).clamp_min(1e-300))))
        return torch.where((kept > 0) & (chance > 0), 1 / chance, 0.0).reshape(h.shape)


def frozen(classifier: Classifier) -> Classifier:
    """The same network, whose random stages keep one draw per example for all that is asked.

    The draw comes from the key's origin, as that of `defenses.transform.Frozen`.
    """
    return classifier.through(_Frozen(classifier))


class _Frozen(nn.Module):
    """`whole` in a pass of its own."""

    def __init__(self, whole: Classifier) -> None:
        super().__init__()
        self.training = whole.training
        self.whole = whole

    def forward(self, x: Tensor) -> Tensor:
        with passing(pass_key().origin().fold("frozen", "stages")):
            logits: Tensor = self.whole(x)
        return logits
