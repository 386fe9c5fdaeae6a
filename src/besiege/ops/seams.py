"""Where a new patch takes over from what lies under it: the shortest path, or the smallest cut.

Both are exact dynamic programmes over a batch of small patches. Costs are whole numbers of grey
levels, which float32 adds without rounding, so that seams depend on neither batch nor device.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

# (old, new (..., C, s, s), rows and columns of overlap (...)) -> where new shows (..., s, s)
Seam: TypeAlias = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def shortest_path(costs: Tensor) -> tuple[Tensor, Tensor]:
    """The cheapest way from the top to the bottom, a column a row, steps of -1, 0 or +1.

    costs float (..., H, W), inf where it must not go -> total (...), columns (..., H) int64. Of
    equal ways, the leftmost end, and from there up the leftmost each time.

    >>> shortest_path(torch.tensor([[3.0, 1.0], [1.0, 2.0]]))
    (tensor(2.), tensor([1, 0]))
    """
    wall = costs.new_full((*costs.shape[:-2], 1), torch.inf)
    best, steps = costs[..., 0, :], []
    for row in costs.unbind(-2)[1:]:
        padded = torch.cat([wall, best, wall], -1)
        least, step = padded.unfold(-1, 3, 1).min(-1)
        best = row + least
        steps.append(step - 1)
    total, column = best.min(-1)
    columns = [column]
    for step in reversed(steps):
        column = column + step.gather(-1, column[..., None])[..., 0]
        columns.append(column)
    return total, torch.stack(columns[::-1], -1)


def path(old: Tensor, new: Tensor, down: Tensor, right: Tensor) -> Tensor:
    """Minimum error boundaries through the overlaps at the top and at the left.

    Costs are squared differences, summed over channels. Pixels on a boundary show the new patch.
    Source: Efros and Freeman 2001, section 2.1.
    """
    costs = (old - new).square().sum(-3)
    return _beyond(costs, right) & _beyond(costs.mT, down).mT


def _beyond(costs: Tensor, width: Tensor) -> Tensor:
    """Where a pixel is on or right of the path through the first `width` (...) columns."""
    at = torch.arange(costs.shape[-1], device=costs.device)
    inside = at < width.clamp(min=1)[..., None, None]
    _, columns = shortest_path(torch.where(inside, costs, torch.inf))
    return at >= columns[..., None]


class Weights(NamedTuple):
    """What cutting between a pixel and its predecessor costs; (..., s, s), 0 where it has none."""

    leave: Tensor  # the predecessor is old, the pixel new
    enter: Tensor  # the other way round


def symmetric(old: Tensor, new: Tensor, axis: int) -> Weights:
    """Differences |old - new|, summed over channels, at both pixels. Kwatra et al. 2003, eq. 1."""
    gap = (old - new).abs().sum(-3)
    cost = _after(
        axis, gap.narrow(axis, 1, gap.shape[axis] - 1) + gap.narrow(axis, 0, gap.shape[axis] - 1)
    )
    return Weights(cost, cost)


def directed(old: Tensor, new: Tensor, axis: int) -> Weights:
    """|new there - old here|, summed over channels: the released code of Guo et al. 2018."""
    last = old.shape[axis] - 1
    (old0, old1), (new0, new1) = (
        (a.narrow(axis, 0, last), a.narrow(axis, 1, last)) for a in (old, new)
    )
    return Weights(
        _after(axis, (new1 - old0).abs().sum(-3)), _after(axis, (new0 - old1).abs().sum(-3))
    )


def _after(axis: int, cost: Tensor) -> Tensor:
    """A zero row (axis -2) or column (-1) before `cost`."""
    return torch.cat([torch.zeros_like(cost.narrow(axis, 0, 1)), cost], axis)


def smallest_cut(
    old: Tensor, new: Tensor, fixed: Tensor, weigh: Callable[[Tensor, Tensor, int], Weights]
) -> tuple[Tensor, Tensor]:
    """The labelling of smallest cost: total (M,), where the new patch shows (M, s, s) bool.

    old, new float (M, C, s, s), whole grey levels; fixed (M, s, s) or (s, s): 0 where the old one
    must show, 1 the new one, -1 free; weigh: `symmetric` or `directed`.
    Exact: the free pixels are labelled in reading order, and the best cost is kept for each
    labelling of the free ones among the last s (the frontier between done and to do). Of equal
    ones, old before new at the end of the frontier. Cost: a step on (M, 2^(s + 1)) at most for each
    pixel that is free in any patch.
    """
    side, count = old.shape[-1], len(old)
    fixed = fixed.expand(count, side, side)
    costs = _costs(weigh(old, new, -2), weigh(old, new, -1), fixed)
    best, front = costs.rest[None], list[int]()
    steps: list[tuple[int, Tensor | None, int]] = []  # pixel; when shed: whether new, those left

    def shed(best: Tensor) -> Tensor:
        kept, other = best.reshape(2, -1, count).unbind()
        steps.append((front.pop(0), other < kept, len(front)))
        return torch.minimum(kept, other)

    for at, cost in costs.own.items():
        while front and front[0] < at - side:
            best = shed(best)
        best = best.reshape(cost.shape[0], -1, cost.shape[1], 1, count) + cost[:, None]
        best = best.reshape(-1, count)
        front.append(at)
        steps.append((at, None, 0))
        if front[0] == at - side:
            best = shed(best)
    while front and front[0] < side * (side - 1):
        best = shed(best)
    total, state = best.min(0)
    shown = fixed == 1
    for at, lower, left in reversed(steps):
        if lower is None:
            shown[:, at // side, at % side] = (state & 1).bool()
            state = state >> 1
        else:
            state = state | (lower.gather(0, state[None])[0].long() << left)
    return total, shown


class _Costs(NamedTuple):
    """What labels cost."""

    rest: Tensor  # (M,) all that no choice changes
    # Of each pixel that is free in any patch: (label above, label before, own label, M); a label
    # of a pixel that is not free, which is known, has length 1.
    own: dict[int, Tensor]


def _costs(above: Weights, before: Weights, fixed: Tensor) -> _Costs:
    side = fixed.shape[-1]
    is_free = (fixed < 0).any(0)
    label = (fixed == 1).to(above.leave)
    own = torch.where(torch.stack([fixed == 1, fixed == 0]) & is_free, torch.inf, 0.0)
    rest = torch.zeros_like(label)
    for axis, w in ((-2, above), (-1, before)):
        # What wraps around has weight 0.
        last, settled = label.roll(1, axis), ~is_free.roll(1, axis)
        entered = torch.stack([w.enter * last, w.leave * (1 - last)]) * settled
        rest = rest + torch.where(label > 0, entered[1], entered[0]) * ~is_free
        after, leave, enter = (t.roll(-1, axis) for t in (label, w.leave, w.enter))
        left = torch.stack([leave * after, enter * (1 - after)]) * ~is_free.roll(-1, axis)
        own = own + entered + left
    free = is_free.flatten().nonzero()[:, 0]
    pairs = []
    for w in (above, before):
        leave, enter = (t.flatten(1).T[free] for t in w)
        zero = torch.zeros_like(leave)
        pairs.append(torch.stack([zero, leave, enter, zero], 1).reshape(-1, 2, 2, len(fixed)))
    unary = own.flatten(2).permute(2, 0, 1)[free]
    places = free.tolist()
    found, known = {}, set(places)
    for at, cost, up, left in zip(places, unary, *pairs, strict=True):
        cost = cost[None, None]
        if at - side in known:
            cost = cost + up[:, None]
        if at % side and at - 1 in known:
            cost = cost + left
        found[at] = cost
    return _Costs(rest.sum((-2, -1)), found)


def pinned(size: int, down: Tensor, right: Tensor) -> Tensor:
    """What a cut may choose: the overlap but for its outer edge, which stays old (..., s, s)."""
    at = torch.arange(size, device=down.device)
    row, column, down, right = at[:, None], at, down[..., None, None], right[..., None, None]
    edge = ((row == 0) & (down > 0)) | ((column == 0) & (right > 0))
    return torch.where(edge, 0, torch.where((row < down) | (column < right), -1, 1))


def _cut(weigh: Callable[[Tensor, Tensor, int], Weights]) -> Seam:
    def seam(old: Tensor, new: Tensor, down: Tensor, right: Tensor) -> Tensor:
        """See SEAMS."""
        size = old.shape[-1]
        fixed = pinned(size, down, right).expand(*old.shape[:-3], size, size)
        _, shown = smallest_cut(old.flatten(0, -4), new.flatten(0, -4), fixed.flatten(0, -3), weigh)
        return shown.reshape(*old.shape[:-3], *shown.shape[1:])

    return seam


# "cut": minimum cut of Kwatra et al. 2003, outer edge of the overlap old and all beyond it new.
# "directed": the same with the weights of the code released with Guo et al. 2018.
SEAMS: Mapping[str, Seam] = {"path": path, "cut": _cut(symmetric), "directed": _cut(directed)}
