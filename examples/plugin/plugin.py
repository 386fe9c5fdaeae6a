"""A stranger's file: a transform, an attack and a recipe, known to besiege by its entries alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

import besiege
from besiege.attacks.attack import Point, Problem
from besiege.defenses.transform import Shape, Surrogate


@dataclass(frozen=True)
class Dropout(besiege.Transform):
    """Sets a random share of the pixels to grey. Autograd is exact, so no surrogate is needed."""

    rate: float = 0.1  # share of the pixels
    name: str = "dropout"

    def draw(self, key: besiege.Key, shape: Shape) -> Tensor:
        """(B, 1, H, W) uniform, shared by the channels."""
        return key.uniform(1, *shape[1:])

    def forward(self, x: Tensor, draw: Tensor) -> Tensor:
        """x float (B, C, H, W) in [0, 1]."""
        return torch.where(draw < self.rate, torch.full_like(x, 0.5), x)

    @property
    def surrogates(self) -> Mapping[str, Surrogate]:
        """The true gradient."""
        return {"exact": self.forward}


def noise() -> besiege.Attack:
    """A random admitted image each step: what every attack must beat."""

    def init(p: Problem) -> Point:
        return Point(p.x0)

    def advance(p: Problem, s: Point, t: int) -> Point:
        p.oracle(s.x, p.goal, p.key.fold("step", t), gradient=False)
        return Point(p.threat.ball.start(p.x0, p.key.fold("noise", t)))

    return besiege.Attack(init, advance)


def noise_only(steps: int = 10) -> besiege.Recipe:
    """Ten random images, the best of them."""
    return besiege.Recipe("noise only", attack="noise", steps=steps)


TRANSFORMS = (besiege.Entry("dropout", Dropout, "examples/plugin", cases=({}, {"rate": 0.5})),)
ATTACKS = (besiege.Entry("noise", noise, "examples/plugin"),)
RECIPES = (besiege.Entry("noise-only", noise_only, "examples/plugin"),)
