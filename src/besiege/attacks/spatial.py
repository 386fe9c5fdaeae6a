"""Turns and shifts of the whole image (Engstrom et al. 2019, arXiv:1712.02779)."""

from __future__ import annotations

import torch
from torch import Tensor

from besiege.attacks.attack import Attack, Point, Problem
from besiege.attacks.decisions import admitted, meets, pieces
from besiege.core.batch import by_example, rows
from besiege.core.errors import BadSetting, one_of
from besiege.ops.affine import turned


def spatial(
    angle: float = 30.0,
    shift: float = 3.0,
    angles: int = 5,
    shifts: int = 5,
    search: str = "grid",
    repeats: int | None = None,
) -> Attack:
    """Turn the image about its centre and shift it, bilinear with black from outside.

    angle, shift: the most, in degrees and pixels, either way; of a paper's image sizes, so scale
        the shift with yours (Engstrom et al. allow 30 degrees and a tenth of the image).
    angles, shifts: points of the grid along the angle and along each of the two shifts.
    search: "grid", or as many "random" ones, uniform within the limits. Where scores are granted
        the worst is kept, as in their worst-of-k; by labels alone the first success.
    repeats: draws of a decision; None for those of every reading.
    Pixels move by any amount: the ball is the box, unrestricted with its defaults.
    Foolbox's SpatialAttack asks the same grid, all of it for every image until the whole batch has
    fallen; here the steps of the recipe share it, and what falls is dropped after each.
    Cost: angles x shifts^2 forward passes a draw, over all steps.
    """
    one_of("search", search, ("grid", "random"), "attack spatial")
    if min(angles, shifts) < 1 or min(angle, shift) < 0:
        raise BadSetting(
            f"attack spatial: angles and shifts are at least 1, angle and shift at least 0, got "
            f"{angles}, {shifts}, {angle:g} and {shift:g}."
        )
    total = angles * shifts * shifts

    def init(p: Problem) -> Point:
        return Point(p.x0)

    def moves(p: Problem) -> Tensor:
        """(B, total, 3) in [-1, 1]: angle, down, right."""
        if search == "random":
            return 2 * p.key.fold("moves").uniform(total, 3, dtype=p.x0.dtype) - 1
        axes = [_even(n, p.x0) for n in (angles, shifts, shifts)]
        grid = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(1, total, 3)
        return grid.expand(len(p.x0), -1, -1)

    def step(p: Problem, s: Point, t: int) -> Point:
        own, x = moves(p)[:, t :: p.steps], s.x
        for start, end in pieces(p, own.shape[1]):
            some, many = own[:, start:end], (p.x0[:, None].expand(-1, end - start, -1, -1, -1))
            turn, down, right = some.flatten(0, 1).unbind(1)
            here = turned(many.flatten(0, 1), angle * turn, shift * down, shift * right)
            asked = admitted(p, by_example(here, end - start))
            won = meets(p, asked, repeats, t, start)
            first = asked[torch.arange(len(x), device=x.device), won.to(torch.int64).argmax(1)]
            x = torch.where(rows(won.any(1), x), first, x)
        return Point(x)

    return Attack(init, step, access="labels", balls=("box",))


def _even(n: int, like: Tensor) -> Tensor:
    """n evenly spaced numbers from -1 to 1, or 0 alone."""
    ends = 1.0 if n > 1 else 0.0
    return torch.linspace(-ends, ends, n, device=like.device, dtype=like.dtype)
