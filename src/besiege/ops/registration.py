"""Where the pixels of an image came from: turn, shift and smooth warp, found by comparing two.

A link that moves pixels has a gradient that the identity misplaces. Both images of it are at hand
whenever it is asked, so that the movement can be measured for each example and draw.
"""

from __future__ import annotations

from functools import reduce
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from besiege.core.batch import by_example, fold_sum, row_sum, rows

SEEN = 0.4  # share of an image that a movement has to leave in sight
BETTER = 0.6  # of the squared error before, that a movement has to bring it to
LEVELS, ROUNDS = 3, 4  # of halved resolution, and steps at each
REACH = 3  # pixels each way over which the warp is taken as constant
STEP = 1.0  # pixels that one round moves at most


class Movement(NamedTuple):
    """For every pixel the place from which it came; see `moved`."""

    turn: Tensor  # (B,) int64 which of the turns and reflections
    grid: Tensor  # (B, H, W, 2) coordinates (x, y) in [-1, 1] in the turned image


def movement(x: Tensor, y: Tensor) -> Movement:
    """From images x (B, C, H, W) to what became of them, y (B, C', H', W').

    x is brought to the size of y first. Then, on means over channels: of the turns and reflections
    (with a quarter turn only where y is square) and, for each, no shift or that of the peak of the
    phase correlation (Kuglin & Hines 1975), the one of least squared error; from there a smooth
    warp by Lucas & Kanade 1981, coarse to fine. What does not lower the error of an example to
    `BETTER` of it is not taken, so that noise and compression move nothing.
    """
    size = (y.shape[-2], y.shape[-1])
    a = _turned(_grey(resized(x, size)))  # (B, T, 1, H', W')
    b = _grey(y)
    turn, shift, error = _rigid(a, b)
    each = torch.arange(len(a), device=a.device)
    still = _error(a[:, 0], b, _grid(torch.zeros_like(shift), size))
    kept = error < BETTER * still
    turn, shift = torch.where(kept, turn, 0), torch.where(rows(kept, shift), shift, 0)
    error = torch.where(kept, error, still)
    flow = shift[:, :, None, None].expand(-1, -1, *size).contiguous()
    warped = _warp(a[each, turn], b, flow)
    finer = _error(a[each, turn], b, _grid(warped, size)) < BETTER * error
    return Movement(turn, _grid(torch.where(rows(finer, flow), warped, flow), size))


def moved(x: Tensor, movement: Movement) -> Tensor:
    """x (B, C, H, W) so moved, (B, C, H', W'); differentiable in x."""
    size = (movement.grid.shape[1], movement.grid.shape[2])
    turned = _turned(resized(x, size))
    each = torch.arange(len(x), device=x.device)
    return _sampled(turned[each, movement.turn], movement.grid.to(x.dtype))


def _grey(x: Tensor) -> Tensor:
    return fold_sum(x)[:, None] / x.shape[1]


def resized(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear to (height, width); as it is if it has them."""
    if tuple(x.shape[-2:]) == size:
        return x
    return F.interpolate(x, size, mode="bilinear", align_corners=False)


def _turned(x: Tensor) -> Tensor:
    """The turns and reflections of each image, the image itself first, (B, 4 or 8, ...)."""
    square = [x, x.mT] if x.shape[-1] == x.shape[-2] else [x]
    return torch.stack([v.flip(axes) for v in square for axes in ((), (-1,), (-2,), (-2, -1))], 1)


def _rigid(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Turn (B,), shift (B, 2) in pixels (x, y) and squared error (B,) of the best candidate."""
    turns, size = a.shape[1], (b.shape[-2], b.shape[-1])
    flat, other = a.flatten(0, 1), b.repeat_interleave(a.shape[1], 0)
    still, peak = flat.new_zeros(len(flat), 2), _peak(a, b[:, None]).flatten(0, 1)
    found = []
    for shift in (still, peak):
        grid = _grid(shift[:, :, None, None].expand(-1, -1, *size), size)
        found.append((shift, _error(flat, other, grid)))
    shifts = torch.stack([by_example(s, turns) for s, _ in found], 2)  # (B, T, 2, 2)
    errors = torch.stack([by_example(e, turns) for _, e in found], 2)  # (B, T, 2)
    error, at = errors.flatten(1).min(1)
    each = torch.arange(len(b), device=b.device)
    return at // 2, shifts[each, at // 2, at % 2], error


def _peak(a: Tensor, b: Tensor) -> Tensor:
    """By how much a pixel of b lies behind its place in a, (..., 2) whole pixels (x, y).

    a, b (..., 1, H, W), whose first axes are broadcast.
    """
    height, width = a.shape[-2:]
    first, second = (
        torch.fft.rfft2((v - v.mean((-3, -2, -1), keepdim=True))[..., 0, :, :]) for v in (a, b)
    )
    cross = first * second.conj()
    spectrum = cross / cross.abs().clamp_min(1e-12)
    place = torch.fft.irfft2(spectrum, s=(height, width)).flatten(-2).argmax(-1)
    down, right = place // width, place % width
    down = torch.where(down > height // 2, down - height, down)
    right = torch.where(right > width // 2, right - width, right)
    return torch.stack([right, down], -1).to(a.dtype)


def _grid(flow: Tensor, size: tuple[int, int]) -> Tensor:
    """Coordinates for `grid_sample` of each pixel plus a flow (B, 2, H, W) in pixels, or (B, 2)."""
    flow = flow if flow.ndim == 4 else flow[:, :, None, None]
    height, width = size
    across = torch.arange(width, device=flow.device, dtype=flow.dtype)
    down = torch.arange(height, device=flow.device, dtype=flow.dtype)
    x = (across[None, None, :] + flow[:, 0] + 0.5) / width * 2 - 1
    y = (down[None, :, None] + flow[:, 1] + 0.5) / height * 2 - 1
    return torch.stack([x.expand(-1, height, width), y.expand(-1, height, width)], -1)


def _sampled(x: Tensor, grid: Tensor) -> Tensor:
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="border", align_corners=False)


def _error(a: Tensor, b: Tensor, grid: Tensor) -> Tensor:
    """Mean squared difference of a, sampled at grid, from b where a is in sight, (B,)."""
    inside = ((grid.abs() <= 1).all(-1)[:, None]).to(a.dtype)
    share = row_sum(inside) / inside[0].numel()
    error = row_sum(inside * (_sampled(a, grid) - b) ** 2) / row_sum(inside).clamp_min(1)
    return torch.where(share >= SEEN, error, torch.inf)


def _warp(a: Tensor, b: Tensor, flow: Tensor) -> Tensor:
    """The flow (B, 2, H, W) refined so that a, sampled there, is like b."""
    for level in reversed(range(LEVELS)):
        factor = 2**level
        size = (b.shape[-2] // factor, b.shape[-1] // factor)
        if min(size) < 2 * REACH + 2:
            continue
        one, two = (F.interpolate(v, size, mode="area") for v in (a, b))
        scale = flow.new_tensor([size[1] / flow.shape[-1], size[0] / flow.shape[-2]])
        flow = resized(flow, size) * scale[:, None, None]
        for _ in range(ROUNDS):
            flow = _smooth(flow + _lucas_kanade(_sampled(one, _grid(flow, size)), two))
    scale = flow.new_tensor([b.shape[-1] / flow.shape[-1], b.shape[-2] / flow.shape[-2]])
    return resized(flow, (b.shape[-2], b.shape[-1])) * scale[:, None, None]


def _lucas_kanade(a: Tensor, b: Tensor) -> Tensor:
    """The flow (B, 2, H, W) by which a has to be sampled further to be b, in first order."""
    padded = F.pad(a, (1, 1, 1, 1), mode="replicate")
    right = (padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2]) / 2
    down = (padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1]) / 2
    rest = b - a
    xx, xy, yy, xt, yt = (
        _smooth(v) for v in (right**2, right * down, down**2, right * rest, down * rest)
    )
    ridge = 1e-3 * (xx + yy) + 1e-8  # where there is nothing to be seen nothing moves
    xx, yy = xx + ridge, yy + ridge
    determinant = xx * yy - xy**2
    step = torch.cat([yy * xt - xy * yt, xx * yt - xy * xt], 1) / determinant
    return step.clamp(-STEP, STEP)


def _smooth(x: Tensor) -> Tensor:
    """Means over (2 REACH + 1)^2 pixels."""
    x, side = F.pad(x, (REACH,) * 4, mode="replicate"), 2 * REACH + 1
    # Sums of shifted images, one axis after the other, take a third of what `avg_pool2d` takes.
    for axis in (-2, -1):
        length = x.shape[axis] - 2 * REACH
        x = reduce(torch.add, (x.narrow(axis, i, length) for i in range(side))) / side
    return x
