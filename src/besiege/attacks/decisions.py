"""What attacks by labels share: admitted points, decisions, starts, and the way to the boundary.

All queries of one call are as many for every row, so that a row never waits for another and never
sees its batch.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from besiege.attacks.attack import EUCLIDEAN, Problem, met
from besiege.core.batch import by_example, l2, linf, rows

PIECE = 1 << 18  # entries an example that are asked about at once, which bounds the memory


def is_euclidean(p: Problem) -> bool:
    """Whether the ball measures by the l2 norm; else these attacks go by the largest change."""
    return p.threat.ball.name in EUCLIDEAN


def reach(p: Problem, x: Tensor) -> Tensor:
    """Distance of each row from its clean image on the pixel scale: l2, or linf, (B,)."""
    return l2(x - p.x0) if is_euclidean(p) else linf(x - p.x0)


def admitted(p: Problem, x: Tensor) -> Tensor:
    """The nearest admitted points to x (B, C, H, W) or (B, n, C, H, W)."""
    if x.ndim == 5:
        return by_example(admitted(each(p, x), x.flatten(0, 1)), x.shape[1])
    x = x.clamp(0, 1)
    out = (~p.threat.admits(x, p.x0)).nonzero()[:, 0]
    if len(out):  # a projection clips what is inside, and no more
        x[out] = p.threat.project(x[out], p.x0[out])
    return x


def each(p: Problem, x: Tensor) -> Problem:
    """The problem whose rows are the n points of each example, x (B, n, C, H, W)."""
    return p.take(torch.arange(len(x), device=x.device).repeat_interleave(x.shape[1]))


def meets(p: Problem, x: Tensor, repeats: int | None, t: int, *parts: int | str) -> Tensor:
    """Whether the goal is met at x (B, C, H, W) or (B, n, C, H, W), (B,) or (B, n) bool.

    repeats: draws of the decision; None for those of every reading.
    """
    key = p.key.fold("step", t, *parts)
    return met(p.oracle(x, p.goal, key, gradient=False, draws=repeats))


def between(p: Problem, x: Tensor, share: Tensor) -> Tensor:
    """The point on the way from the clean image (share 0) to x (share 1), share (B,).

    Straight in a Euclidean ball; else the change is cut off at that share of its largest entry.
    """
    move = x - p.x0
    if is_euclidean(p):
        return admitted(p, p.x0 + rows(share, x) * move)
    bound = rows(share * linf(move), x)
    return admitted(p, p.x0 + move.clamp(-bound, bound))


def bisected(
    p: Problem, x: Tensor, rounds: int, repeats: int | None, t: int, *parts: int | str
) -> Tensor:
    """The point next to the boundary on the way from the clean image to x, which meets the goal.

    Cost: `rounds` decisions; what is left of the way is 2^-rounds of it.
    """
    low, high, best = torch.zeros_like(reach(p, x)), torch.ones_like(reach(p, x)), x
    for i in range(rounds):
        middle = (low + high) / 2
        here = between(p, x, middle)
        won = meets(p, here, repeats, t, *parts, i)
        best = torch.where(rows(won, x), here, best)
        low, high = torch.where(won, low, middle), torch.where(won, middle, high)
    return best


def pieces(p: Problem, total: int) -> Iterator[tuple[int, int]]:
    """Spans (start, end) of `total` points an example that are asked about at once.

    Their length follows from the image's size alone: it bounds the memory of a batch.
    """
    size = max(8, PIECE // p.x0[0].numel())
    for start in range(0, total, size):
        yield start, min(start + size, total)


def random_images(p: Problem, n: int) -> Tensor:
    """n keyed images an example, (B, n, C, H, W) in [0, 1]: uniform cells, of ever other sizes.

    The first is of single pixels, the next ones of cells of 2, 4, ... pixels up to one flat colour,
    and round again with cells of 0 and 1: white noise alone is of few classes.
    """
    height, width = p.x0.shape[-2:]
    cells = [1 << i for i in range((max(height, width) - 1).bit_length() + 1)]
    images = []
    for i in range(n):
        cell = cells[i % len(cells)]
        down, across = (torch.arange(k, device=p.x0.device) // cell for k in (height, width))
        shape = (p.x0.shape[1], -(-height // cell), -(-width // cell))
        coarse = p.key.fold("image", i).uniform(*shape, dtype=p.x0.dtype)
        coarse = coarse.round() if i // len(cells) % 2 else coarse
        images.append(coarse[:, :, down][..., across])
    return torch.stack(images, 1)


def started(
    p: Problem, images: int, repeats: int | None, t: int, levels: int = 6
) -> tuple[Tensor, Tensor]:
    """Which rows found a point that meets the goal, (B,) bool, and the nearest such point.

    Asked are the clean image's blends with random images: 1, 1/2, 1/4, ... of the way to each. Rows
    without one stay at the clean image.
    Cost: images x levels decisions.
    """
    best, nearest = p.x0, p.x0.new_full((len(p.x0),), torch.inf)
    ends = admitted(p, random_images(p, images))
    index = torch.arange(len(p.x0), device=p.x0.device)
    share = 0.5 ** torch.arange(levels, device=p.x0.device, dtype=p.x0.dtype)
    for start, end in pieces(p, images * levels):
        which = torch.arange(start, end, device=p.x0.device)
        x = ends[:, which % images]
        blend = between(each(p, x), x.flatten(0, 1), share[which // images].repeat(len(x)))
        x = by_example(blend, end - start)
        won = meets(p, x, repeats, t, "start", start)
        size = by_example(reach(each(p, x), x.flatten(0, 1)), end - start)
        size = size.masked_fill(~won, torch.inf)
        least, at = size.min(1)
        best = torch.where(rows(least < nearest, best), x[index, at], best)
        nearest = torch.minimum(least, nearest)
    return nearest.isfinite(), best
