"""Adversarial transformation: a random attack on another network, as a defense."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from besiege.core.batch import row_sum, rows
from besiege.core.errors import BadSetting, one_of, unknown
from besiege.core.key import Key
from besiege.defenses.network import (
    Network,
    classifier_at,
    dtype_of,
    in_micro_batches,
    refuse_training,
)
from besiege.defenses.transform import Shape, Surrogate, Transform, identity


class _Squash(NamedTuple):
    """What stands for the sign in the backward pass."""

    f: Callable[[Tensor], Tensor]
    scaled: bool  # whether its argument comes in units of its own size


class _Form(NamedTuple):
    """One convention."""

    least: bool  # towards the least likely class; else away from the most likely one
    share: float  # length of a step, in units of delta
    random: bool  # whether the start is


FORMS: Mapping[str, _Form] = {
    "paper": _Form(least=True, share=1 / 6, random=True),
    "adv": _Form(least=False, share=1 / 10, random=True),
    "ll": _Form(least=True, share=1 / 6, random=False),
}

SQUASHES: Mapping[str, _Squash] = {
    "soft-sign": _Squash(F.softsign, scaled=True),
    "tanh": _Squash(torch.tanh, scaled=True),
    "soft-sign-unscaled": _Squash(F.softsign, scaled=False),
    "tanh-unscaled": _Squash(torch.tanh, scaled=False),
}


@dataclass(frozen=True)
class AdversarialTransformation(Transform):
    """Adversarial transformation: a random attack on another network f_b, as a defense.

    g(x) = x + d. From d ~ U[-delta, delta), `steps` times d is moved by delta / 6 along the sign of
    the gradient of the loss of f_b and cut to [-delta, delta]. sign(0) is 0.

    model: f_b, a spec of the model catalog ("file:WEIGHTS.safetensors"), several of them joined by
        ";", or in Python a classifier or a tuple of them, images in [0, 1] -> logits, in evaluation
        mode. Of several the mean of the losses counts.
    delta: radius on the [0, 1] scale.  steps: N, 13 in the paper.
    form: "paper" descends the cross-entropy of f_b with its least likely class at x (each network
        with its own). "adv", which the released experiment uses, ascends that with the predicted
        class, by delta / 10. "ll", in that code and unused, is "paper" from d = 0, since it
        overwrites the start that it draws.
    start: "random" or "zero"; None for that of the form.
    clip: points of the search stay in [0, 1]; the released code never clips, and what leaves the
        range is no image (clip=false).

    Surrogates, best first. "identity": d is constant almost everywhere, so this is the gradient of
    g but for clipped entries, and all that a sampled offset adds under a graft is the value.
    "soft-sign" and "tanh" differentiate the search (equation 5) with the slope of u / (1 + |u|) or
    tanh u for that of the sign, where u is the gradient over its own mean size, and for that of the
    projection outside the ball the soft sign's of d / delta. "-unscaled" divides by nothing, as the
    paper does: on gradients of size 1e-3 that is the identity to 1e-4.

    Measured on 50 images of CIFAR-10 (ResNet-20 behind g, f_b = vgg0 adversarially trained, delta
    0.05, mean gradient of 2 draws, one step of 0.5 in l2): the loss rose by 11.6, 11.8 and 11.8
    with identity, soft-sign and tanh. Too close to tell apart, so the cheapest comes first.

    Source: Xiao and Zheng 2020, equations 3 to 5, and the code released with it.
    Cost: steps + 1 forwards and steps backwards of f_b, 16 images at a time; the soft surrogates
    three times that.
    """

    model: Any
    delta: float = 0.2
    steps: int = 13
    form: str = "paper"
    start: str | None = None
    clip: bool = True
    name: str = "adversarial"

    def __post_init__(self) -> None:
        if not 0 < self.delta <= 1:
            raise BadSetting(f"adversarial: delta is a radius in (0, 1], got {self.delta}.")
        if not (isinstance(self.steps, int) and self.steps >= 1):
            raise BadSetting(f"adversarial: steps is at least 1, got {self.steps}.")
        one_of("form", self.form, FORMS, "transform adversarial")
        if self.start not in (None, "random", "zero"):
            raise unknown("start", str(self.start), ["random", "zero"], "transform adversarial")
        for network in self._networks("cpu"):
            refuse_training(network, "adversarial: model")

    def draw(self, key: Key, shape: Shape) -> Tensor | None:
        """A number in [0, 1) a value, (B, C, H, W); None from a zero start."""
        is_random = FORMS[self.form].random if self.start is None else self.start == "random"
        return key.uniform(*shape) if is_random else None

    def forward(self, x: Tensor, draw: Tensor | None) -> Tensor:
        """x float (B, C, H, W) in [0, 1], attacked on f_b."""
        with _autograd():
            return self._searched(x.detach().clone(), draw)

    @property
    def surrogates(self) -> Mapping[str, Surrogate]:
        """The true gradient but where clipped, and the search made smooth."""
        through = {k: partial(self._searched, squash=squash) for k, squash in SQUASHES.items()}
        return {"identity": identity, **through}

    def _searched(self, x: Tensor, draw: Tensor | None, squash: _Squash | None = None) -> Tensor:
        """x + d; with `squash` differentiable, else detached."""
        if len(x) == 0:
            return x
        networks = self._networks(str(x.device))

        def some(x: Tensor, draw: Tensor | None) -> Tensor:
            offset = self._offset(x.to(dtype_of(networks[0], x)), draw, networks, squash)
            y = x + offset.to(x.dtype)
            return y.clamp(0, 1) if self.clip else y

        return in_micro_batches(some, x, draw)

    def _offset(
        self, x: Tensor, draw: Tensor | None, networks: tuple[Network, ...], squash: _Squash | None
    ) -> Tensor:
        """d of one micro-batch."""
        form = FORMS[self.form]
        with torch.no_grad():
            logits = [network(x) for network in networks]
        goals = [z.argmin(1) if form.least else z.argmax(1) for z in logits]
        step = (-1 if form.least else 1) * form.share * self.delta
        d = torch.zeros_like(x) if draw is None else (2 * draw.to(x) - 1) * self.delta
        for _ in range(self.steps):
            point = x + d if squash else (x + d).detach().requires_grad_()
            losses = [
                F.cross_entropy(f(point), y, reduction="sum")
                for f, y in zip(networks, goals, strict=True)
            ]
            loss = sum(losses[1:], losses[0]) / len(losses)
            (slope,) = torch.autograd.grad(loss, point, create_graph=squash is not None)
            sign = slope.detach().sign()
            if squash is None:
                d = (d + step * sign).clamp(-self.delta, self.delta)
            else:
                unit = _size(slope) if squash.scaled else 1.0
                d = self._projected(d + step * _grafted(sign, squash.f(slope / unit)), squash)
            if self.clip:
                d = (x + d).clamp(0, 1) - x
        return d

    def _projected(self, d: Tensor, squash: _Squash) -> Tensor:
        """d cut to the ball; outside it with the slope of the soft sign, by equation 5."""
        unit = self.delta if squash.scaled else 1.0
        cut = _grafted(d.detach().clamp(-self.delta, self.delta), unit * F.softsign(d / unit))
        # Six steps of delta / 6 are delta but for rounding, and still inside.
        return torch.where(d.abs() <= self.delta * (1 + 1e-6), d, cut)

    def _networks(self, device: str) -> tuple[Network, ...]:
        """f_b, one or several."""
        given = self.model.split(";") if isinstance(self.model, str) else self.model
        several = given if isinstance(given, list | tuple) else (given,)
        return tuple(classifier_at(f.strip(), device) if isinstance(f, str) else f for f in several)


def _grafted(value: Tensor, smooth: Tensor) -> Tensor:
    """The value of the one with the gradient of the other."""
    return value + (smooth - smooth.detach())


def _size(slope: Tensor) -> Tensor:
    """The mean size of each row's gradient, shaped to divide it; 1 where all of it is 0."""
    mean = row_sum(slope.detach().abs()) / slope[0].numel()
    return rows(torch.where(mean > 0, mean, 1.0), slope)


@contextmanager
def _autograd() -> Iterator[None]:
    """Gradients inside, whatever the caller switched off."""
    with torch.inference_mode(False), torch.enable_grad():
        yield
