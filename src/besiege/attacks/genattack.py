"""A genetic search in the maximum norm (Alzantot et al. 2019, arXiv:1805.11090)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from besiege.attacks.attack import Attack, Problem
from besiege.core.batch import rows
from besiege.core.errors import BadSetting
from besiege.core.key import Key


class Herd(NamedTuple):
    """The fittest image, its population, and how long it has not improved."""

    x: Tensor  # (B, C, H, W)
    noise: Tensor  # (B, P, C, h, w) in units of eps, within [-1, 1]
    fitness: Tensor  # (B, P)
    record: Tensor  # (B,) the largest fitness so far
    waited: Tensor  # (B,) int64 steps since that last grew, or since the last plateau
    plateaus: Tensor  # (B,) int64


def genattack(
    population: int = 6,
    rate: float = 0.1,
    reach: float = 0.15,
    patience: int = 100,
    temperature: float = 1.0,
    side: int = 0,
) -> Attack:
    """Selection, crossover and mutation of P perturbations; the fittest survives as it is.

    Parents are picked by softmax(fitness / temperature). An entry of a child is that of its first
    parent with probability p1 / (p1 + p2), else of the second; with probability rho it moves by a
    uniform number in [-alpha eps, alpha eps]. rho and alpha begin at 0.5 and 0.4 and shrink by 0.9
    for every plateau, down to `rate` and `reach`. The survivor is asked again in each step, so that
    a lucky draw of a random defense does not live on.
    temperature: the paper's 1; less where the margins of a population hardly differ.
    rate, reach: the least rho and alpha. patience: steps without a record that make a plateau.
    side: perturbations of side x side entries, interpolated to the image; 0 for one an entry. The
        paper has 96 at 299.
    The paper's fitness, log p_target - log of the best other, is the loss `margin`; for both goals.
    Cost: `population` forwards a draw and step.
    """
    if population < 2 or patience < 1 or side < 0 or not (temperature > 0 and 0 <= rate <= 1):
        raise BadSetting(
            "attack genattack takes population >= 2, patience >= 1, side >= 0, temperature > 0 and "
            f"rate in [0, 1], got {population}, {patience}, {side}, {temperature:g}, {rate:g}."
        )

    def init(p: Problem) -> Herd:
        x = p.x0
        shape = (x.shape[1], *((side, side) if side else x.shape[2:]))
        noise = 2 * p.key.fold("first").uniform(population, *shape, dtype=x.dtype) - 1
        worst = x.new_full((len(x), population), -torch.inf)
        none = torch.zeros(len(x), dtype=torch.int64, device=x.device)
        return Herd(x, noise, worst, worst[:, 0], none, none)

    def advance(p: Problem, s: Herd, t: int) -> Herd:
        noise = s.noise
        if t > 0:
            shrink = 0.9**s.plateaus
            rho, alpha = (0.5 * shrink).clamp_min(rate), (0.4 * shrink).clamp_min(reach)
            noise = _next(noise, s.fitness / temperature, rho, alpha, p.key.fold("next", t))
        points = _images(p, noise)
        fitness = p.query(points, t).loss
        assert fitness is not None
        top = fitness.max(1)
        each = torch.arange(len(points), device=points.device)
        grown = top.values > s.record
        waited = torch.where(grown, 0, s.waited + 1)
        flat = waited >= patience
        return Herd(
            points[each, top.indices],
            noise,
            fitness,
            torch.maximum(s.record, top.values),
            torch.where(flat, 0, waited),
            s.plateaus + flat,
        )

    return Attack(init, advance, access="scores", balls=("linf",), loss="margin")


def _images(p: Problem, noise: Tensor) -> Tensor:
    """The admitted images of perturbations in units of eps, (B, P, C, H, W)."""
    n, size = noise.shape[1], p.x0.shape[2:]
    change = noise.flatten(0, 1)
    if change.shape[2:] != size:
        change = functional.interpolate(change, size=size, mode="bilinear", align_corners=False)
    x0 = p.x0.repeat_interleave(n, 0)
    points = p.threat.project(x0 + p.threat.ball.eps * change, x0)
    return points.reshape(-1, n, *p.x0.shape[1:])


def _next(noise: Tensor, score: Tensor, rho: Tensor, alpha: Tensor, key: Key) -> Tensor:
    """The fittest and P - 1 children, (B, P, C, h, w)."""
    n, shape = noise.shape[1], noise.shape[2:]
    share = score.softmax(1)
    upto = share.cumsum(1)
    lot = upto[:, -1:, None] * key.fold("parents").uniform(2 * (n - 1), 1, dtype=noise.dtype)
    parent = (upto[:, None] <= lot).sum(2).clamp_max(n - 1).reshape(-1, n - 1, 2)
    each = torch.arange(len(noise), device=noise.device)[:, None]
    first, second = noise[each, parent[..., 0]], noise[each, parent[..., 1]]
    odds = share[each, parent[..., 0]] / (share[each, parent[..., 0]] + share[each, parent[..., 1]])
    mixed = key.fold("mix").uniform(n - 1, *shape, dtype=noise.dtype) < odds[:, :, None, None, None]
    child = torch.where(mixed, first, second)
    hit = key.fold("hit").uniform(n - 1, *shape, dtype=noise.dtype) < rows(rho, child)
    jump = 2 * key.fold("jump").uniform(n - 1, *shape, dtype=noise.dtype) - 1
    child = torch.where(hit, child + rows(alpha, child) * jump, child).clamp(-1, 1)
    elite = noise[each[:, 0], score.argmax(1)][:, None]
    return torch.cat([elite, child], 1)
