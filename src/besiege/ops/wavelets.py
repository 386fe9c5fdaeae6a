"""Discrete wavelet transform of planes, and BayesShrink, in elementwise operations only.

Filters, border ("symmetric": mirrored, edge pixel twice) and lengths are those of PyWavelets. A
row's bits do not depend on its batch: no convolution kernel chooses an order of additions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import pywt
import torch
from torch import Tensor

from besiege.core.batch import in_pieces, row_sum
from besiege.core.errors import BadSetting, unknown
from besiege.ops.border import mirror

# How scikit-image's denoise_wavelet treats colour: until 0.15, and since 0.16.
CONVENTIONS = ("2018", "rescaled")

# RGB in [0, 1] -> luma and colour differences in grey levels, without their offsets (ITU BT.601).
_TO_YCBCR = (
    (65.481, 128.553, 24.966),
    (-37.797, -74.203, 112.0),
    (112.0, -93.786, -18.214),
)


class Level(NamedTuple):
    """Details of one scale, (..., h, w) each: along columns, along rows, along both."""

    columns: Tensor  # low along rows' axis, high along columns'
    rows: Tensor
    both: Tensor


def wavelet(name: str) -> pywt.Wavelet:
    """The orthogonal wavelet `name`, "db1" (Haar), "db2", "sym4"...; UnknownName, BadSetting."""
    valid = pywt.wavelist(kind="discrete")
    if name not in valid:
        raise unknown("wavelet", name, valid)
    found = pywt.Wavelet(name)
    if not found.orthogonal:
        raise BadSetting(f'wavelet "{name}" is not orthogonal: take one of db, sym or coif.')
    return found


def levels_of(height: int, width: int, name: str) -> int:
    """Scales that scikit-image uses: all but the three coarsest, at least one.

    >>> levels_of(299, 299, "db1"), levels_of(9, 40, "db1")
    (5, 1)
    """
    most: int = pywt.dwt_max_level(min(height, width), wavelet(name))
    return max(most - 3, 1)


def analysed(x: Tensor, name: str, levels: int) -> tuple[Tensor, list[Level]]:
    """x (B, C, H, W) -> what is left at the coarsest scale, and the details, finest first."""
    filters, details = wavelet(name), []
    for _ in range(levels):
        low, high = _analyse(x, filters, -2)
        x, columns = _analyse(low, filters, -1)
        details.append(Level(columns, *_analyse(high, filters, -1)))
    return x, details


def synthesised(x: Tensor, details: Sequence[Level], name: str, shape: tuple[int, int]) -> Tensor:
    """The inverse of `analysed`, for images of (height, width) `shape`.

    >>> x = torch.arange(15.0).reshape(1, 1, 3, 5)
    >>> coarse, details = analysed(x, "db2", 2)
    >>> bool((synthesised(coarse, details, "db2", (3, 5)) - x).abs().max() < 1e-4)
    True
    """
    filters = wavelet(name)
    for level in reversed(details):
        x = x[..., : level.both.shape[-2], : level.both.shape[-1]]
        low = _synthesise(x, level.columns, filters, -1)
        high = _synthesise(level.rows, level.both, filters, -1)
        x = _synthesise(low, high, filters, -2)
    return x[..., : shape[0], : shape[1]]


def bayes_shrunk(x: Tensor, sigma: Tensor | float, name: str = "db1") -> Tensor:
    """x (B, C, H, W) with the details of each plane softly thresholded.

    sigma: standard deviation of the noise in units of x, broadcast over (B, C, 1, 1). The threshold
    of a scale and direction is sigma^2 / sqrt(max(mean d^2 - sigma^2, machine epsilon)).
    Differentiable almost everywhere. Chang et al. 2000, "Adaptive wavelet thresholding", section
    III; the scales are scikit-image's.
    """
    height, width = x.shape[-2:]
    coarse, details = analysed(x, name, levels_of(height, width, name))
    variance = torch.as_tensor(sigma, dtype=x.dtype, device=x.device) ** 2
    shrunk = [Level(*(_shrunk(part, variance) for part in level)) for level in details]
    return synthesised(coarse, shrunk, name, (height, width))


def denoised(x: Tensor, sigma: float, convention: str = "2018", name: str = "db1") -> Tensor:
    """x (B, C, H, W) in [0, 1] by BayesShrink as scikit-image does it, three channels in YCbCr.

    convention: what sigma means for RGB. "2018" (scikit-image until 0.15): of each YCbCr channel
        stretched to [0, 1] by its own extremes; results are cut to [0, 1]. "rescaled" (since 0.16):
        of R, G and B, converted to YCbCr; nothing is cut.
    """
    return in_pieces(lambda part: _denoised(part, sigma, convention, name), x)


def _denoised(x: Tensor, sigma: float, convention: str, name: str) -> Tensor:
    if x.shape[1] != 3:
        y = bayes_shrunk(x, sigma, name)
        return y.clamp(0, 1) if convention == "2018" else y
    matrix = torch.tensor(_TO_YCBCR, dtype=torch.float64)
    y = _turned(x, matrix)
    low, high = y.amin((-2, -1), keepdim=True), y.amax((-2, -1), keepdim=True)
    span = high - low
    span = torch.where(span > 0, span, 1)
    y = (y - low) / span
    if convention == "2018":
        y = bayes_shrunk(y, sigma, name).clamp(0, 1)
    else:
        sigmas = (sigma * (matrix**2).sum(1).sqrt()).to(x)[:, None, None]
        y = bayes_shrunk(y, sigmas / span, name)
    out = _turned(y * span + low, matrix.inverse())
    return out.clamp(0, 1) if convention == "2018" else out


def _shrunk(d: Tensor, variance: Tensor) -> Tensor:
    power = row_sum((d * d).flatten(0, 1)) / (d.shape[-2] * d.shape[-1])
    spread = power.reshape(*d.shape[:2], 1, 1) - variance
    threshold = variance / spread.clamp(min=torch.finfo(d.dtype).eps).sqrt()
    return d.sign() * (d.abs() - threshold).clamp(min=0)


def _turned(x: Tensor, matrix: Tensor) -> Tensor:
    """The channels of x (B, 3, H, W) times a (3, 3) matrix, one addition after another."""
    a, b, c = x.unbind(1)
    rows = [p * a + q * b + r * c for p, q, r in matrix.tolist()]
    return torch.stack(rows, 1)


def _analyse(x: Tensor, filters: pywt.Wavelet, axis: int) -> tuple[Tensor, Tensor]:
    """Low and high half of an axis: sum over j of f[j] x[2 k + 1 - j]."""
    taps, size = filters.dec_len, x.shape[axis]
    count = (size + taps - 1) // 2
    before, after = taps - 2, 2 * count - size
    if before or after:
        x = mirror(x, *((0, n) if axis == -1 else (n, 0) for n in (before, after)))
    parity = torch.unflatten(x, axis, (-1, 2)).unbind(axis)
    parts = [parity[1 - j % 2].narrow(axis, (taps - 1 - j) // 2, count) for j in range(taps)]
    low, high = _sums(parts, [list(enumerate(f)) for f in (filters.dec_lo, filters.dec_hi)])
    return low, high


def _synthesise(low: Tensor, high: Tensor, filters: pywt.Wavelet, axis: int) -> Tensor:
    """The axis again, of even length: sum over k of f[m + L - 2 - 2 k] c[k], L the taps."""
    half = filters.rec_len // 2
    count = low.shape[axis] - half + 1
    parts = [c.narrow(axis, half - 1 - k, count) for c in (low, high) for k in range(half)]
    weights = [*enumerate(filters.rec_lo), *enumerate(filters.rec_hi, 2 * half)]
    phases = [[(j // 2, w) for j, w in weights if j % 2 == phase] for phase in range(2)]
    at = axis + low.ndim
    return torch.stack(_sums(parts, phases), at + 1).flatten(at, at + 1)


def _sums(parts: Sequence[Tensor], rows: Sequence[Sequence[tuple[int, float]]]) -> list[Tensor]:
    """For each row, weight * parts[i] over its (i, weight), one addition after another.

    A product and its negative are made once: Haar has half as many as weights.
    """
    made: dict[tuple[int, float], Tensor] = {}
    out = []
    for row in rows:
        for i, weight in row:
            if (i, abs(weight)) not in made:
                made[i, abs(weight)] = abs(weight) * parts[i]
        terms = [(made[i, abs(weight)], weight < 0) for i, weight in row]
        total, negative = terms[0]  # what is summed up to now, and whether with the other sign
        for part, minus in terms[1:]:
            if minus == negative:
                total = total + part
            elif negative:
                total, negative = part - total, False
            else:
                total = total - part
        out.append(-total if negative else total)
    return out
