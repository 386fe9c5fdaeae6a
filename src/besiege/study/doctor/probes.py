"""What a few passes tell of a model and of each link, before anything is attacked."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.overrides import TorchFunctionMode

from besiege.checks.gradients import Differences, Displacement, Graph, Modes, Outputs
from besiege.checks.protocol import Inside
from besiege.checks.randomness import Coupling, Repeats, Unkeyed
from besiege.core.batch import Draw, take
from besiege.core.errors import BesiegeError
from besiege.core.generators import seeded
from besiege.core.key import Key
from besiege.core.passes import passing
from besiege.defenses.transform import Chain, Shape, Transform, surrogate_of
from besiege.models.classifier import Classifier
from besiege.models.drawing import draws_for_itself, is_taken_over

EXACT = "exact"  # the surrogate that is the link's true gradient
TRAINING = "training"  # how functions of torch call their mode
CALLS = 8  # to a link that says it is random
DIRECTIONS = 4  # of finite differences
STEP = 1e-5  # of finite differences, in float64
NUDGE = 8 / 255  # of the perturbation whose way through a link is followed
INWARD = 0.02  # pixels are kept so far from 0 and 1, where links clip


class Unasked(BesiegeError):
    """Why a probe brings no evidence."""


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


@contextmanager
def untouched(classifier: Classifier) -> Iterator[None]:
    """Buffers are afterwards as they were: statistics that a forward pass moves, say."""
    before = {name: b.clone() for name, b in classifier.network.named_buffers()}
    try:
        yield
    finally:
        with torch.no_grad():
            for name, buffer in classifier.network.named_buffers():
                buffer.copy_(before[name])


def modes(classifier: Classifier, x: Tensor) -> Modes:
    """Modules in training mode, and buffers that a forward pass moves (they are put back)."""
    network = classifier.network
    training = tuple(name or "network" for name, m in network.named_modules() if m.training)
    with untouched(classifier):
        before = {name: b.clone() for name, b in network.named_buffers()}
        _logits(classifier, x)
        moved = tuple(n for n, b in network.named_buffers() if not torch.equal(b, before[n]))
    return Modes(training, moved)


def calls(classifier: Classifier, x: Tensor) -> Modes:
    """Functions such as dropout that are called as in training, whatever the mode.

    Raises Unasked where a module is in training mode.
    """
    if any(module.training for module in classifier.network.modules()):
        raise Unasked("a module is in training mode, and calls them so")
    with _Listening() as heard:
        _logits(classifier, x)
    return Modes((), (), tuple(dict.fromkeys(heard.called)))


class _Listening(TorchFunctionMode):
    """Hears which functions of torch are called as in training."""

    def __init__(self) -> None:
        super().__init__()
        self.called: list[str] = []

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        given = dict(kwargs or {})
        if _in_training(func, args, given):
            self.called.append(func.__name__)
        return func(*args, **given)


def _in_training(func: Callable[..., Any], args: tuple[Any, ...], given: dict[str, Any]) -> bool:
    """Whether `training` (of dropout, batch_norm, rrelu) or a share `p` that is dropped is on."""
    if not inspect.isfunction(func):
        return False
    known = inspect.signature(func).parameters
    if TRAINING not in known:
        return False
    asked = dict(zip(known, args, strict=False)) | given
    dropped = asked.get("p", known["p"].default) if "p" in known else 1
    return bool(asked.get(TRAINING, known[TRAINING].default)) and dropped != 0


def drawn(settled: Classifier) -> Unkeyed:
    """Whether a model draws from global generators, or from its own, though it says nothing of it.

    settled: what `models.drawing` made of it.
    """
    own = draws_for_itself(settled)
    return Unkeyed(settled.name, own, own, is_taken_over(settled))


def again(classifier: Classifier, x: Tensor, key: Key) -> Repeats:
    """How many different answers a model that was taken over gives under several keys."""
    seen: list[Tensor] = []
    for i in range(CALLS):
        with torch.no_grad(), passing(key.fold("again", i)):
            found: Tensor = classifier.unchecked(x)
        if not any(torch.equal(found, other) for other in seen):
            seen.append(found)
    return Repeats(len(seen), CALLS)


def outputs(classifier: Classifier, x: Tensor) -> Outputs:
    """The model's answers as it gives them."""
    return Outputs(_array(_logits(classifier, x)))


def coupling(classifier: Classifier, x: Tensor) -> Coupling:
    """How far logits move when half of a batch is replaced, and when its order is reversed.

    Of the first half of x, which has two images at least. Raises Unasked for a model that answers
    differently in any case.
    """
    if draws_for_itself(classifier):
        raise Unasked("the model draws from a generator of its own: see check 32")
    half = (len(x) + 1) // 2
    own = _logits(classifier, x)
    others = _logits(classifier, torch.cat([x[:half], 1 - x[half:]]))
    turned = _logits(classifier, x.flip(0)).flip(0)
    change = torch.maximum((others - own)[:half].abs(), (turned - own)[:half].abs())
    return Coupling(_array(change.amax(1)), _array(own[:half].abs().amax(1)))


def _logits(classifier: Classifier, x: Tensor) -> Tensor:
    same = Key.root(0, [0] * len(x), x.device)
    with torch.no_grad(), seeded(0, x.device), passing(same):
        found: Tensor = classifier.unchecked(x)
    return found.float()


class _Unchecked(nn.Module):
    """The network of a classifier with its preprocessing, and none of its checks."""

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.inner = (classifier,)  # hidden from modules(): its mode is not asked
        self.draws = classifier.draws

    def _apply(self, fn: Any, recurse: bool = True) -> _Unchecked:
        self.inner[0]._apply(fn, recurse)  # type: ignore[no-untyped-call]
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.inner[0].unchecked(x)
        return found


def unchecked(classifier: Classifier) -> Classifier:
    """The classifier as it is, though its outputs may be probabilities."""
    return classifier.through(_Unchecked(classifier).eval())


def derivative_of_model(classifier: Classifier, x: Tensor, key: Key) -> Differences:
    """Directional derivatives of the logits, in float64. Raises Unasked without gradients."""
    if classifier.access != "gradients":
        raise Unasked(f"the model gives no gradients, only {classifier.access}")
    if draws_for_itself(classifier):
        raise Unasked("the model draws from a generator of its own: it has no one derivative")
    twin = copy.deepcopy(classifier).double()

    def logits(z: Tensor) -> Tensor:
        with passing(key):
            found: Tensor = twin.unchecked(z)
        return found

    return _differences(logits, x, key)


# Links


def graph(stage: Stage) -> Graph:
    """Whether a link that claims an exact gradient returns a graph. Raises Unasked for others."""
    _claims(stage)
    x = stage.x[:2].detach().clone().requires_grad_()
    with torch.enable_grad():
        alive = stage.link.forward(x, take(stage.draw, slice(0, 2))).requires_grad
    return Graph((stage.link.name,), (alive,))


def _claims(stage: Stage) -> None:
    if EXACT not in stage.link.surrogates:
        raise Unasked(f"it claims no exact gradient: {best(stage)} stands in for it")


def best(stage: Stage) -> str:
    """The surrogate by which recipes see a link."""
    return next(iter(stage.link.surrogates), "identity")


def derivative_of_link(stage: Stage, key: Key) -> Differences:
    """Directional derivatives of a link that claims an exact gradient, in float64."""
    _claims(stage)
    return _differences(lambda z: stage.link.forward(z, stage.draw), stage.x, key)


def _differences(f: Callable[[Tensor], Tensor], x: Tensor, key: Key) -> Differences:
    """Of <v, f(x)> along random directions, v random. Raises Unasked without a graph in float64."""
    z = x.detach().double().clamp(INWARD, 1 - 2 * INWARD)
    z = z + INWARD * key.fold("apart").uniform(*x.shape[1:]).to(z)  # no two entries are equal
    try:
        with torch.enable_grad():
            leaf = z.clone().requires_grad_()
            value = f(leaf)
            if not value.requires_grad:
                raise Unasked("it returns no graph")
            v = key.fold("cotangent").normal(*value.shape[1:]).to(value)
            (slope,) = torch.autograd.grad((v * value).sum(), leaf)
    except RuntimeError as error:  # a model or link of single precision
        raise Unasked(f"it does not run in float64 ({str(error).splitlines()[0]})") from error
    analytic, numeric = [], []
    with torch.no_grad():
        for i in range(DIRECTIONS):
            d = key.fold("direction", i).normal(*x.shape[1:]).to(z)
            above, below = ((v * f(z + s * STEP * d)).flatten(1).sum(1) for s in (1, -1))
            numeric.append((above - below) / (2 * STEP))
            analytic.append((slope * d).flatten(1).sum(1))
    return Differences(_array(torch.stack(analytic)), _array(torch.stack(numeric)))


def displacement(stage: Stage, key: Key) -> Displacement:
    """Where a link puts a change of the image, beside where its best surrogate puts it.

    Raises Unasked for a link whose gradient is exact, whose surrogate has another shape, or that
    lets no change through.
    """
    link = stage.link
    name = best(stage)
    if name == EXACT:
        raise Unasked("its gradient is exact")
    signs = key.fold("nudge").normal(*stage.x.shape[1:]).sign().to(stage.x)
    nudged = (stage.x + NUDGE * signs).clamp(0, 1)
    stand_in = surrogate_of(link, name)
    with torch.no_grad():
        true = link.forward(nudged, stage.draw) - link.forward(stage.x, stage.draw)
        told = stand_in(nudged, stage.draw) - stand_in(stage.x, stage.draw)
    if told.shape != true.shape:
        raise Unasked(f"its surrogate {name} has another shape")
    return _peak(name, true, told)


def _peak(name: str, true: Tensor, told: Tensor) -> Displacement:
    """The peak of the cross-correlation of changes (B, C, H, W), each of unit length.

    Of the mean over examples, and of each.
    """
    height, width = true.shape[-2:]
    one, other = (torch.fft.rfft2(v.double()) for v in (true, told))
    surface = torch.fft.irfft2(one * other.conj(), s=(height, width)).sum(1)
    lengths = true.double().flatten(1).norm(dim=1) * told.double().flatten(1).norm(dim=1)
    alive = lengths > 0
    if not bool(alive.any()):
        raise Unasked("a nudge of the image changes nothing behind it")
    each = surface[alive] / lengths[alive, None, None]
    mean = each.mean(0)
    (right, down), (across, along) = _places(mean[None]), _places(each)
    own = [torch.hypot(across, along), each.flatten(1).amax(1), each[:, 0, 0]]
    return Displacement(
        name,
        (int(right), int(down)),
        float(mean.max()),
        float(mean[0, 0]),
        _array(torch.stack(own, 1)),
        true[0].numel(),
    )


def _places(surface: Tensor) -> tuple[Tensor, Tensor]:
    """Of the peaks of (n, H, W), (n,) pixels to the right and down, counted both ways from zero."""
    height, width = surface.shape[-2:]
    place = surface.flatten(1).argmax(1)
    down, right = (place // width).double(), (place % width).double()
    right = torch.where(right > width // 2, right - width, right)
    return right, torch.where(down > height // 2, down - height, down)


def repeats(stage: Stage, key: Key) -> Repeats:
    """How many different outputs a link that draws gives of one image. Raises Unasked for others.

    Each call is one of its own, since a link may seed a generator in each.
    """
    if stage.draw is None:
        raise Unasked("it draws nothing")
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
