"""A surrogate that is learned: a network that imitates a link, for links that have no good one."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from besiege.core.batch import chunks
from besiege.core.errors import BadImages, BadSetting
from besiege.core.key import Key
from besiege.defenses.imitation import Imitation, Imitator
from besiege.defenses.network import MICRO_BATCH
from besiege.defenses.transform import Follow, Transform
from besiege.models.sources import fill
from besiege.ops.registration import resized

Told = Callable[[int, int, float], None]  # (steps done, steps in all, squared error of the last)


def imitate(
    link: Transform,
    x: Tensor,
    key: Key,
    *,
    eps: float = 0.1,
    steps: int = 400,
    copies: int = 4,
    batch: int = 16,
    width: int = 32,
    blocks: int = 2,
    rate: float = 5e-3,
    follows: bool = False,
    told: Told | None = None,
) -> Imitation:
    """`link` with a surrogate "learned": a network h trained here, h(x) ~ link.forward(x, draw).

    x (B, C, H, W) in [0, 1]: images to learn from, some hundreds like those that will be attacked,
    and not the same; key (B,): theirs. Of each image `copies` are made with noise of a size of its
    own up to `eps` (signs in every second copy, else uniform) and put through the link, each under
    a draw of its own, so that h learns how the link responds, and of its draws the mean. Noise much
    smaller than the image teaches little: of a hidden shift of digits by two pixels, 120 steps at
    8/255 found a gradient of cosine 0.73 to the true one, and at 0.2 of 0.99.
    h starts as the identity, or as bilinear resizing where the link changes height or width, and
    takes `steps` steps of Adam on the squared error of `batch` pairs, the rate rising to `rate` and
    falling to 0. width: its channels; blocks: of two convolutions.
    follows: h is given x with its pixels where the link has put them under that draw, as comparing
        what goes in and comes out shows ("moved"); it learns the rest.
    told: called after each step. No global generator is touched; the same bits again on one machine
    with the same number of threads. What h is worth, `besiege.descent` says.

    Raises BadSetting, or BadImages for images that do not fit their key.
    Cost: `copies` forwards of the link an image, steps x batch forwards and backwards of h.
    """
    _check(x, key, eps, {"steps": steps, "copies": copies, "batch": batch, "width": width})
    if blocks < 0 or rate <= 0:
        raise BadSetting(f"imitate: blocks >= 0 and rate > 0, got {blocks} and {rate}.")
    with torch.inference_mode(False), torch.enable_grad(), _same_sums():
        given, wanted = _pairs(link, x.detach().float(), key.to(x.device), eps, copies, follows)
        own = key[:1].to(x.device).fold("imitate")
        with torch.device("meta"):
            network = Imitator(given.shape[1], wanted.shape[1], width, blocks, follows)
        fill(network, _initial(network, own.fold("weights")))
        network.requires_grad_(True)
        optimiser = torch.optim.Adam(network.parameters())
        for step in range(steps):
            rows = own.fold("step", step).integers(len(given), batch)[0]
            optimiser.param_groups[0]["lr"] = rate * _cycle(step / steps)
            optimiser.zero_grad()
            loss = F.mse_loss(network(given[rows]), wanted[rows])
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            if told:
                told(step + 1, steps, float(loss.detach()))
    optimiser.zero_grad()
    return Imitation(link, network.requires_grad_(False))


def _check(x: Tensor, key: Key, eps: float, counts: Mapping[str, int]) -> None:
    if x.ndim != 4 or len(x) == 0 or not x.is_floating_point() or len(key) != len(x):
        raise BadImages(
            f"imitate: {x.dtype} images {tuple(x.shape)} and a key of {len(key)} came; float "
            "(B, C, H, W), B >= 1, and a key of B rows, Key.root(seed, range(len(x))), are needed."
        )
    if not 0 <= eps <= 1:
        raise BadSetting(f"imitate: eps is the size of the noise in [0, 1], got {eps}.")
    for name, count in counts.items():
        if count < 1:
            raise BadSetting(f"imitate: {name} is at least 1, got {count}.")


def _pairs(
    link: Transform, x: Tensor, key: Key, eps: float, copies: int, follows: bool
) -> tuple[Tensor, Tensor]:
    """What h is given, in the size of the output, and what it should answer: (B * copies, ...)."""
    _, channels, height, width = x.shape
    shape = (channels, height, width)
    given, wanted = [], []
    for window, index in chunks(len(x), MICRO_BATCH, x.device):
        some = index[: window.stop - window.start]
        for copy in range(copies):
            own = key[some].fold("imitate", copy)
            noise = 2 * own.fold("noise").uniform(*shape) - 1
            noise = noise.sign() if copy % 2 else noise
            far = eps * own.fold("size").uniform(1, 1, 1)
            near = (x[some] + far * noise).clamp(0, 1)
            with torch.no_grad():
                wanted.append(link.forward(near, link.draw(own.fold("draw"), shape)))
            size = link.out_shape(shape)[1:]
            followed = Follow(link).towards(near, wanted[-1]) if follows else resized(near, size)
            given.append(followed)
    return torch.cat(given), torch.cat(wanted).detach().float()


def _initial(network: nn.Module, key: Key) -> dict[str, Tensor]:
    """Normal weights of variance 1 / fan-in, but zero in the last layer; biases zero."""
    return {
        name: key.fold(name).normal(*p.shape)[0] / math.sqrt(p[0].numel())
        if p.ndim > 1 and not name.startswith("last.")
        else torch.zeros(p.shape, device=key.device)
        for name, p in network.named_parameters()
    }


def _cycle(progress: float) -> float:
    """The share of the peak rate: up over the first tenth, then down to 0."""
    return min((progress + 0.01) / 0.1, (1 - progress) / 0.9)


def _same_sums() -> Any:
    """On a GPU, convolutions that add in one order."""
    return torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True)
