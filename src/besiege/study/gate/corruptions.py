"""Ordinary corruptions, that no attacker chose: noise, blur, light, codec, coarse pixels.

Eight of the corruptions of Hendrycks and Dietterich 2019 (arXiv:1903.12261), with the strengths of
their released code (github.com/hendrycks/robustness) for images of 32, 64 and 224 pixels. What
differs: edges are mirrored by the blur, draws are keyed, and pictures are rounded to 8 bit where
theirs are cut off (and ImageNet-C is saved as JPEG of quality 85 once more).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from besiege.core.batch import fold_sum
from besiege.core.errors import BadSetting, one_of
from besiege.core.key import Key
from besiege.core.stats import Shares
from besiege.defenses.defense import Deployed
from besiege.defenses.jpeg import Jpeg
from besiege.defenses.noise import Noise
from besiege.defenses.salt_pepper import SaltPepper
from besiege.defenses.transform import Transform
from besiege.ops.blur import gaussian_blur
from besiege.ops.poisson import poisson_counts
from besiege.study.judge import answers

SEVERITIES = range(1, 6)
SEVERITY = 3
SIDES = (45, 120)  # up to which shorter sides the strengths are those for 32 and for 64 pixels

# Image (B, C, H, W) in [0, 1], strength, key -> image that may leave [0, 1].
Change: TypeAlias = Callable[[Tensor, float, Key], Tensor]
Strengths: TypeAlias = tuple[float, float, float, float, float]  # by severity


def _through(link: Transform, x: Tensor, key: Key) -> Tensor:
    return link.forward(x, link.draw(key, (x.shape[1], x.shape[2], x.shape[3])))


def _gaussian_noise(x: Tensor, deviation: float, key: Key) -> Tensor:
    return _through(Noise(scale=deviation), x, key)


def _shot_noise(x: Tensor, photons: float, key: Key) -> Tensor:
    """Photons counted, x * photons in the mean."""
    u = key.uniform(*x.shape[1:], dtype=torch.float64)
    return (poisson_counts(x.double() * photons, u) / photons).to(x)


def _impulse_noise(x: Tensor, share: float, key: Key) -> Tensor:
    return _through(SaltPepper(share=share, of="values"), x, key)


def _gaussian_blur(x: Tensor, sigma: float, key: Key) -> Tensor:
    return gaussian_blur(x, x.new_full((len(x),), sigma))


def _brightness(x: Tensor, more: float, key: Key) -> Tensor:
    """The largest channel, HSV's value, lifted by `more`; hue and saturation stay."""
    value = x.amax(1, keepdim=True)
    lifted = (value + more).clamp(max=1)
    return torch.where(value > 0, x * (lifted / value), lifted)


def _contrast(x: Tensor, share: float, key: Key) -> Tensor:
    """Each channel drawn towards its mean, of the contrast `share` is left."""
    mean = fold_sum(x.flatten(2).transpose(1, 2))[..., None, None] / x[0, 0].numel()
    return (x - mean) * share + mean


def _jpeg(x: Tensor, quality: float, key: Key) -> Tensor:
    return _through(Jpeg(quality=int(quality)), x, key)


def _pixelate(x: Tensor, share: float, key: Key) -> Tensor:
    """Resized to `share` of its sides and back, by Pillow's box filter."""
    return _coarse(_coarse(x, share).transpose(-1, -2), share).transpose(-1, -2)


def _coarse(x: Tensor, share: float) -> Tensor:
    """The last axis in int(share size) cells, each pixel the mean of those centred in its cell."""
    size = x.shape[-1]
    cells = max(1, int(size * share))
    # In integers; where a centre is on a border, which needs an odd side, Pillow's floats decide.
    cell = (2 * torch.arange(size, device=x.device) + 1) * cells // (2 * size)
    starts = torch.searchsorted(cell, torch.arange(cells + 1, device=x.device))
    before = torch.nn.functional.pad(x.double().cumsum(-1), (1, 0))
    means = before[..., starts].diff(dim=-1) / starts.diff()
    return means[..., cell].to(x)


class Corruption(NamedTuple):
    """change: what it does; its strengths for images of 32, 64 and 224 pixels, by severity."""

    change: Change
    small: Strengths
    middle: Strengths
    large: Strengths


CORRUPTIONS: Mapping[str, Corruption] = {
    "gaussian-noise": Corruption(
        _gaussian_noise,
        (0.04, 0.06, 0.08, 0.09, 0.10),
        (0.04, 0.08, 0.12, 0.15, 0.18),
        (0.08, 0.12, 0.18, 0.26, 0.38),
    ),
    "shot-noise": Corruption(
        _shot_noise, (500, 250, 100, 75, 50), (250, 100, 50, 30, 15), (60, 25, 12, 5, 3)
    ),
    "impulse-noise": Corruption(
        _impulse_noise,
        (0.01, 0.02, 0.03, 0.05, 0.07),
        (0.01, 0.02, 0.05, 0.08, 0.14),
        (0.03, 0.06, 0.09, 0.17, 0.27),
    ),
    "gaussian-blur": Corruption(
        _gaussian_blur, (0.4, 0.6, 0.7, 0.8, 1), (0.5, 0.75, 1, 1.25, 1.5), (1, 2, 3, 4, 6)
    ),
    "brightness": Corruption(
        _brightness,
        (0.05, 0.1, 0.15, 0.2, 0.3),
        (0.1, 0.2, 0.3, 0.4, 0.5),
        (0.1, 0.2, 0.3, 0.4, 0.5),
    ),
    "contrast": Corruption(
        _contrast,
        (0.75, 0.5, 0.4, 0.3, 0.15),
        (0.4, 0.3, 0.2, 0.1, 0.05),
        (0.4, 0.3, 0.2, 0.1, 0.05),
    ),
    "jpeg": Corruption(_jpeg, (80, 65, 58, 50, 40), (65, 58, 50, 40, 25), (25, 18, 15, 10, 7)),
    "pixelate": Corruption(
        _pixelate,
        (0.95, 0.9, 0.85, 0.75, 0.65),
        (0.9, 0.8, 0.7, 0.6, 0.5),
        (0.6, 0.5, 0.4, 0.3, 0.25),
    ),
}


def strength(kind: str, severity: int, side: int) -> float:
    """The strength of a corruption of images whose shorter side is `side` pixels.

    Raises UnknownName for its kind, BadSetting for a severity that is not 1, 2, 3, 4 or 5.

    >>> strength("jpeg", 3, side=32), strength("jpeg", 3, side=224)
    (58, 15)
    """
    one_of("corruption", kind, CORRUPTIONS)
    if severity not in SEVERITIES:
        raise BadSetting(f"the severity of a corruption is 1, 2, 3, 4 or 5, got {severity}.")
    sizes = CORRUPTIONS[kind][1:]
    return sizes[sum(side > most for most in SIDES)][severity - 1]


def corrupted(x: Tensor, kind: str, severity: int, key: Key) -> Tensor:
    """Images (B, C, H, W) in [0, 1] after one corruption, of 8 bit; a row depends on its own key.

    Raises as `strength`. Cost: elementwise; jpeg is coded on the CPU.

    >>> x = torch.full((1, 1, 4, 4), 0.5)
    >>> corrupted(x, "brightness", 5, Key.root(0, [0]))[0, 0, 0, 0] * 255
    tensor(204.)
    """
    amount = strength(kind, severity, min(x.shape[-2:]))
    changed = CORRUPTIONS[kind].change(x, amount, key)
    return (changed.clamp(0, 1) * 255).round() / 255


def right_under(
    defense: Deployed,
    x: Tensor,
    label: Tensor,
    key: Key,
    kind: str,
    severities: Sequence[int],
    draws: int,
    micro_batch: int,
) -> Shares:
    """Share of right answers to each corrupted image, over severities and fresh draws, (B,).

    x: (B, C, H, W) in [0, 1]; label: (B,); key: the examples' root. A deterministic defense is
    asked once. The corrupted images are the same for every defense.
    Cost: draws x defense.passes forwards an example and severity.
    """
    shape = (x.shape[1], x.shape[2], x.shape[3])
    draws = draws if defense.is_random(shape) else 1
    right = []
    for severity in severities:
        own = key.fold("corruption", kind, severity)
        changed = corrupted(x, kind, severity, own.fold("image"))
        found = answers(defense, changed, own.fold("judge"), draws, micro_batch)
        right.append((found == label[:, None]).double().mean(1))
    return torch.stack(right).mean(0).cpu().numpy()
