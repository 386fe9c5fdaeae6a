"""One pixel, or a few, found by differential evolution (Su et al. 2019, arXiv:1710.08864)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from besiege.attacks.attack import Attack, Problem
from besiege.core.batch import rows
from besiege.core.errors import BadSetting, one_of
from besiege.core.key import Key
from besiege.ops.paint import paint

BASES = ("any", "best")


class Population(NamedTuple):
    """The best image, and P proposals of k pixels each."""

    x: Tensor  # (B, C, H, W)
    genes: Tensor  # (B, P, k, 2 + C) row and column in [0, 1), colour in [0, 1]
    fitness: Tensor  # (B, P) the loss; minus infinity before the first step


def one_pixel(
    population: int = 400, weight: float = 0.5, base: str = "any", again: bool = False
) -> Attack:
    """Differential evolution over places and colours of as many pixels as the ball admits.

    Each proposal i has a child a + weight * (b - c) of three others, with no crossover, which takes
    its place if its loss is larger. The first places are uniform, the first colours normal with
    mean and deviation 1/2. A colour out of [0, 1] is clipped, a place beyond an edge comes in at
    the opposite one (the paper does not say).
    population: P, at least 4; the paper's 400. Cheaper and nearly as good where images are small.
    weight: of the difference, F.
    base: a is "any" proposal, as in the paper, or the "best" one, as in code that leaves the
        evolution to SciPy's default; better where rounds are few.
    again: the parents are asked again, under the draws of their children. On a random defense a
        remembered loss may be a lucky draw's, which no child beats.
    The loss is the recipe's: the default, cross-entropy, orders proposals by the probability of the
    true label (or target), the paper's fitness.
    Cost: P forwards a draw and step, twice that if `again`; the first step asks the first P.
    """
    one_of("base", base, BASES, "attack one-pixel")
    if population < 4 or not weight > 0:
        raise BadSetting(
            "attack one-pixel takes population >= 4 and weight > 0, got "
            f"{population} and {weight:g}."
        )

    def init(p: Problem) -> Population:
        x, key = p.x0, p.key.fold("first")
        shape = (population, int(p.threat.ball.eps))
        place = key.fold("place").uniform(*shape, 2, dtype=x.dtype)
        colour = 0.5 + 0.5 * key.fold("colour").normal(*shape, x.shape[1]).to(x.dtype)
        worst = x.new_full((len(x), population), -torch.inf)
        return Population(x, torch.cat([place, colour.clamp(0, 1)], 3), worst)

    def ask(p: Problem, genes: Tensor, t: int) -> Tensor:
        found = p.survey(lambda part: _drawn(p.x0, genes[:, part]), population, t)
        assert found.loss is not None
        return found.loss

    def advance(p: Problem, s: Population, t: int) -> Population:
        genes, fitness = s.genes, s.fitness
        if t == 0:
            fitness = ask(p, genes, t)
        else:
            best = fitness.argmax(1) if base == "best" else None
            own = _children(genes, weight, best, p.key.fold("children", t))
            loss = ask(p, own, t)
            fitness = ask(p, genes, t) if again else fitness
            better = loss > fitness
            fitness = torch.where(better, loss, fitness)
            genes = torch.where(better[:, :, None, None], own, genes)
        best = fitness.argmax(1)
        x = _drawn(p.x0, genes[torch.arange(len(genes), device=genes.device), best][:, None])
        return Population(
            torch.where(rows(fitness.isfinite().any(1), x[:, 0]), x[:, 0], s.x), genes, fitness
        )

    return Attack(init, advance, access="scores", balls=("l0",))


def _drawn(x0: Tensor, genes: Tensor) -> Tensor:
    """The images that n proposals describe, (B, n, k, 2 + C) -> (B, n, C, H, W)."""
    height, width = x0.shape[2:]
    row = (genes[..., 0] * height).long().clamp_max(height - 1)
    column = (genes[..., 1] * width).long().clamp_max(width - 1)
    return paint(x0, row * width + column, genes[..., 2:])


def _children(genes: Tensor, weight: float, best: Tensor | None, key: Key) -> Tensor:
    """a + weight * (b - c) of three different proposals for each of P; a `best` (B,) if given."""
    n = genes.shape[1]
    a = key.fold("a").integers(n, n) if best is None else best[:, None].expand(-1, n)
    b = (a + 1 + key.fold("b").integers(n - 1, n)) % n
    c = (a + 1 + key.fold("c").integers(n - 2, n)) % n
    c = torch.where((c - a) % n >= (b - a) % n, (c + 1) % n, c)  # skips b
    owner = torch.arange(len(genes), device=genes.device)[:, None]
    own = genes[owner, a] + weight * (genes[owner, b] - genes[owner, c])
    return torch.cat([own[..., :2] % 1, own[..., 2:].clamp(0, 1)], 3)
