"""What a few passes tell of a model and of each link, before anything is attacked."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from besiege.checks.gradients import Differences, Displacement, Graph, Modes, Outputs
from besiege.checks.protocol import Inside
from besiege.checks.randomness import Coupling, Repeats, Unkeyed
from besiege.core.batch import Draw, take
from besiege.core.key import Key
from besiege.core.passes import passing
from besiege.defenses.transform import Chain, Shape, Transform, surrogate_of
from besiege.models.classifier import Classifier

CALLS = 8  # to a link that says it is random
DIRECTIONS = 4  # of finite differences
STEP = 1e-5  # of finite differences, in float64
NUDGE = 8 / 255  # of the perturbation whose way through a link is followed
INWARD = 0.02  # pixels are kept so far from 0 and 1, where links clip


class Stage(NamedTuple):
    """A link, and what reaches it."""

    link: Transform
    x: Tensor  # (B, C, H, W)
    draw: Draw


def stages(chain: Chain, x: Tensor, key: Key) -> list[Stage]:
    """Each link of a chain with the images and the draw that it is given."""
    draws = chain.draw(key, _shape(x))
    found = []
    with torch.no_grad():
        for i, link in enumerate(chain.links):
            draw = None if draws is None else draws[i]
            found.append(Stage(link, x, draw))
            x = link.forward(x, draw)
    return found


def _shape(x: Tensor) -> Shape:
    return (x.shape[1], x.shape[2], x.shape[3])


# The model


def modes(classifier: Classifier, x: Tensor) -> Modes:
    """Modules in training mode, and buffers that a forward pass moves (they are put back)."""
    network = classifier.network
    training = tuple(name or "network" for name, m in network.named_modules() if m.training)
    before = {name: b.clone() for name, b in network.named_buffers()}
    _logits(classifier, x)
    now = dict(network.named_buffers())
    moved = tuple(n for n, b in before.items() if not torch.equal(b, now[n]))
    with torch.no_grad():
        for name in moved:
            now[name].copy_(before[name])
    return Modes(training, moved)


def outputs(classifier: Classifier, x: Tensor) -> Outputs:
    """The model's answers as it gives them."""
    return Outputs(_array(_logits(classifier, x)))


def coupling(classifier: Classifier, x: Tensor) -> Coupling:
    """How far logits move when half of a batch is replaced, and when its order is reversed.

    Of the first half of x, which has two images at least.
    """
    half = (len(x) + 1) // 2
    before = {name: b.clone() for name, b in classifier.network.named_buffers()}
    own = _logits(classifier, x)
    others = _logits(classifier, torch.cat([x[:half], 1 - x[half:]]))
    turned = _logits(classifier, x.flip(0)).flip(0)
    with torch.no_grad():
        for name, buffer in classifier.network.named_buffers():
            buffer.copy_(before[name])
    change = torch.maximum((others - own)[:half].abs(), (turned - own)[:half].abs())
    return Coupling(_array(change.amax(1)), _array(own[:half].abs().amax(1)))


def _logits(classifier: Classifier, x: Tensor) -> Tensor:
    with torch.no_grad(), passing(Key.root(0, [0] * len(x), x.device)):
        found: Tensor = classifier.unchecked(x)
    return found.float()


class _Unchecked(nn.Module):
    """The network of a classifier with its preprocessing, and none of its checks."""

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.inner = (classifier,)  # hidden from modules(): its mode is not asked

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.inner[0].unchecked(x)
        return found


def unchecked(classifier: Classifier) -> Classifier:
    """The classifier as it is, though its outputs may be probabilities."""
    return classifier.through(_Unchecked(classifier).eval())


def derivative_of_model(classifier: Classifier, x: Tensor, key: Key) -> Differences | None:
    """Directional derivatives of the logits, in float64; None where there are no gradients."""
    if classifier.access != "gradients":
        return None
    twin = copy.deepcopy(classifier).double()

    def logits(z: Tensor) -> Tensor:
        with passing(key):
            found: Tensor = twin.unchecked(z)
        return found

    return _differences(logits, x, key)


# Links


def graph(stage: Stage) -> Graph | None:
    """Whether a link that claims an exact gradient returns a graph; None for one that does not."""
    if "exact" not in stage.link.surrogates:
        return None
    x = stage.x[:2].detach().clone().requires_grad_()
    with torch.enable_grad():
        alive = stage.link.forward(x, take(stage.draw, slice(0, 2))).requires_grad
    return Graph((stage.link.name,), (alive,))


def derivative_of_link(stage: Stage, key: Key) -> Differences | None:
    """Directional derivatives of a link that claims an exact gradient, in float64."""
    if "exact" not in stage.link.surrogates:
        return None
    return _differences(lambda z: stage.link.forward(z, stage.draw), stage.x, key)


def _differences(f: Callable[[Tensor], Tensor], x: Tensor, key: Key) -> Differences | None:
    """Of <v, f(x)> along random directions, v random; None where f has no graph in float64."""
    z = x.detach().double().clamp(INWARD, 1 - 2 * INWARD)
    z = z + INWARD * key.fold("apart").uniform(*x.shape[1:]).to(z)  # no two entries are equal
    try:
        with torch.enable_grad():
            leaf = z.clone().requires_grad_()
            value = f(leaf)
            if not value.requires_grad:
                return None
            v = key.fold("cotangent").normal(*value.shape[1:]).to(value)
            (slope,) = torch.autograd.grad((v * value).sum(), leaf)
    except RuntimeError:  # a model or link of single precision
        return None
    analytic, numeric = [], []
    with torch.no_grad():
        for i in range(DIRECTIONS):
            d = key.fold("direction", i).normal(*x.shape[1:]).to(z)
            above, below = ((v * f(z + s * STEP * d)).flatten(1).sum(1) for s in (1, -1))
            numeric.append((above - below) / (2 * STEP))
            analytic.append((slope * d).flatten(1).sum(1))
    return Differences(_array(torch.stack(analytic)), _array(torch.stack(numeric)))


def displacement(stage: Stage, key: Key) -> Displacement | None:
    """Where a link puts a change of the image, beside where its best surrogate puts it.

    None for a link whose gradient is exact, or that has no surrogate of its own shape.
    """
    link = stage.link
    best = next(iter(link.surrogates), "identity")
    if best == "exact":
        return None
    signs = key.fold("nudge").normal(*stage.x.shape[1:]).sign().to(stage.x)
    nudged = (stage.x + NUDGE * signs).clamp(0, 1)
    stand_in = surrogate_of(link, best)
    with torch.no_grad():
        true = link.forward(nudged, stage.draw) - link.forward(stage.x, stage.draw)
        told = stand_in(nudged, stage.draw) - stand_in(stage.x, stage.draw)
    if told.shape != true.shape:
        return None
    return _peak(best, true, told)


def _peak(name: str, true: Tensor, told: Tensor) -> Displacement | None:
    """The peak of the mean cross-correlation of changes (B, C, H, W), each of unit length."""
    height, width = true.shape[-2:]
    one, other = (torch.fft.rfft2(v.double()) for v in (true, told))
    surface = torch.fft.irfft2(one * other.conj(), s=(height, width)).sum(1)
    lengths = true.double().flatten(1).norm(dim=1) * told.double().flatten(1).norm(dim=1)
    if not bool((lengths > 0).any()):
        return None
    mean = (surface[lengths > 0] / lengths[lengths > 0, None, None]).mean(0)
    place = int(mean.argmax())
    down, right = place // width, place % width
    down, right = (v - n if v > n // 2 else v for v, n in ((down, height), (right, width)))
    return Displacement(name, (right, down), float(mean.flatten()[place]), float(mean[0, 0]))


def repeats(stage: Stage, key: Key) -> Repeats | None:
    """How many different outputs a link that draws gives of one image; None for one that does not.

    Each call is one of its own, since a link may seed a generator in each.
    """
    if stage.draw is None:
        return None
    x, shape = stage.x[:1], _shape(stage.x)
    seen: list[Tensor] = []
    with torch.no_grad():
        for i in range(CALLS):
            y = stage.link.forward(x, stage.link.draw(key[:1].fold("repeat", i), shape))
            if not any(torch.equal(y, z) for z in seen):
                seen.append(y)
    return Repeats(len(seen), CALLS)


def unkeyed(stage: Stage) -> Unkeyed:
    """Whether a link answers differently to the same image and draw, and whether it draws."""
    with torch.no_grad():
        x, draw = stage.x[:1], take(stage.draw, slice(0, 1))
        same = torch.equal(stage.link.forward(x, draw), stage.link.forward(x, draw))
    return Unkeyed(stage.link.name, not same, stage.draw is not None)


def inside(stage: Stage) -> Inside:
    """Whether autograd runs in the forward pass of a link: whether it fetches what it has kept."""
    fetched = []

    def fetch(kept: Tensor) -> Tensor:
        fetched.append(1)
        return kept

    hooks = saved_tensors_hooks(lambda kept: kept, fetch)
    with torch.no_grad(), hooks:
        stage.link.forward(stage.x[:1], take(stage.draw, slice(0, 1)))
    return Inside((stage.link.name,) if fetched else ())


def _array(x: Tensor) -> np.ndarray:
    return x.detach().cpu().numpy()
