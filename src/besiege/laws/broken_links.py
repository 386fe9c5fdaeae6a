"""Links and models that are broken on purpose; `laws.broken` asks the checks about them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from besiege.core.key import Key
from besiege.defenses.feature_distillation import FeatureDistillation
from besiege.defenses.transform import Shape, Surrogate, Transform, identity
from besiege.models.catalog import load_model
from besiege.models.classifier import Classifier


def network() -> Classifier:
    """The small network of the digits."""
    return load_model("digits-cnn")


@dataclass(frozen=True)
class Seen(Transform):
    """A link that shows attackers only one of its surrogates, as if there were no better."""

    link: Transform
    only: str = "identity"

    @property
    def name(self) -> str:
        """The link's own."""
        return self.link.name

    def draw(self, key: Key, shape: Shape) -> object:  # type: ignore[override]
        """The link's own."""
        return self.link.draw(key, shape)

    def forward(self, x: Tensor, draw: object) -> Tensor:
        """The link's own."""
        return self.link.forward(x, draw)

    @property
    def surrogates(self) -> Mapping[str, Surrogate]:
        """One."""
        return {self.only: self.link.surrogates.get(self.only, identity)}


@dataclass(frozen=True, eq=False)
class Claiming(Transform):
    """A deterministic function that claims an exact gradient; or with a surrogate of its own."""

    f: Callable[[Tensor], Tensor]
    surrogate: Surrogate | None = None
    name: str = "own"

    def forward(self, x: Tensor, draw: object) -> Tensor:
        """f."""
        return self.f(x)

    @property
    def surrogates(self) -> Mapping[str, Surrogate]:
        """ "exact", or that which was given."""
        if self.surrogate is None:
            return {"exact": self.forward}
        return {"own": self.surrogate}


@dataclass(frozen=True)
class Reseeded(Transform):
    """Noise from a generator that is seeded anew in every call: the same for ever."""

    scale: float = 0.1
    name: str = "reseeded"

    def draw(self, key: Key, shape: Shape) -> Tensor:
        """Drawn, and not looked at."""
        return key.normal(*shape)

    def forward(self, x: Tensor, draw: Tensor) -> Tensor:
        """x and noise of seed 0."""
        own = Key.root(0, [0] * len(x), x.device).fold("own").normal(*x.shape[1:])
        return (x + self.scale * own).clamp(0, 1)

    @property
    def surrogates(self) -> Mapping[str, Surrogate]:
        """Exact."""
        return {"exact": self.forward}


def by_numpy(x: Tensor) -> Tensor:
    """A soft contrast, computed outside torch."""
    return torch.from_numpy(np.clip(0.9 * x.detach().numpy() + 0.05, 0, 1))


def signs(x: Tensor) -> Tensor:
    """One bit a pixel, with a graph whose gradient is zero."""
    return torch.sign(x - 0.5) / 2 + 0.5


def quarter(x: Tensor) -> Tensor:
    """The image, with a quarter of its gradient."""
    return x.detach() + (x - x.detach()) / 4


def moved_by_two(x: Tensor) -> Tensor:
    """Feature distillation that hands its output on two pixels lower and to the right."""
    return FeatureDistillation().forward(x, None).roll((2, 2), (-2, -1))


def coarse(x: Tensor) -> Tensor:
    """Sixteen levels, without a gradient."""
    return (x.detach() * 15).round() / 15


def misled(x: Tensor, draw: object) -> Tensor:
    """A gradient in a random direction, fixed for each place."""
    return x * Key.root(7, [0] * len(x)).fold("misled").normal(*x.shape[1:]).to(x)


def restoring(x: Tensor) -> Tensor:
    """Some steps of gradient descent on an energy: autograd inside the forward pass."""
    z = x.detach()
    for _ in range(2):
        with torch.enable_grad():
            leaf = z.clone().requires_grad_()
            rough = (leaf[..., 1:] - leaf[..., :-1]).square().sum()
            z = z - 0.05 * torch.autograd.grad(rough, leaf)[0]
    return z.clamp(0, 1)


class Scaled(nn.Module):
    """Logits times a factor, or their softmax."""

    def __init__(self, factor: float = 1.0, softmax: bool = False) -> None:
        super().__init__()
        self.inner = network()
        self.factor, self.softmax = factor, softmax

    def forward(self, x: Tensor) -> Tensor:
        """What it does to (B, K) logits."""
        logits: Tensor = self.factor * self.inner(x)
        return logits.softmax(-1) if self.softmax else logits


def modelled(module: nn.Module) -> Classifier:
    """A module as a classifier of the digits."""
    return Classifier(module.eval(), 10, name="broken", channels=1)


def in_training() -> Classifier:
    """The network behind batch statistics that are left on."""
    classifier = modelled(nn.Sequential(nn.BatchNorm2d(1), network().network))
    classifier.network[0].train()  # type: ignore[index]
    return classifier
