"""Networks inside links: where they come from, and rows that never depend on their batch."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from besiege.core.batch import chunks, take
from besiege.core.errors import BadSetting
from besiege.core.foreign import foreign_in, made
from besiege.models.catalog import load_model

MICRO_BATCH = 16  # images that a network inside a link sees at once, always exactly that many

Network = Callable[[Tensor], Tensor]


@lru_cache(maxsize=8)
def classifier_at(spec: str, device: str) -> Network:
    """The classifier that a spec of the model catalog names, kept for the next call."""
    return load_model(spec, device=device)


@lru_cache(maxsize=8)
def network_at(spec: str, device: str, what: str) -> Any:
    """What "path.py:NAME" holds, on `device` where it is a module; kept for the next call.

    Raises BadSetting for any other text and for what cannot be called.
    """
    own = foreign_in(spec)
    if own is None:
        raise BadSetting(
            f'{what} is an object, or "path.py:NAME" in a file of yours: got "{spec}".'
        )
    found = made(own, what)
    if not callable(found):
        raise BadSetting(f"{what}: {own.name} in {own.path} is {found!r}, which cannot be called.")
    return found.to(device) if isinstance(found, nn.Module) else found


def refuse_training(network: object, what: str) -> None:
    """Raise BadSetting for a module in training mode, whose answers depend on their batch."""
    if isinstance(network, nn.Module) and any(m.training for m in network.modules()):
        raise BadSetting(f"{what} is in training mode: call .eval() on it first.")


def dtype_of(network: object, like: Tensor) -> torch.dtype:
    """The precision that a network computes in; that of `like` where it holds no numbers."""
    if not isinstance(network, nn.Module):
        return like.dtype
    held = (t.dtype for t in chain(network.parameters(), network.buffers()))
    return next((dtype for dtype in held if dtype.is_floating_point), like.dtype)


def in_micro_batches(f: Callable[..., Tensor], *values: Any) -> Tensor:
    """f of tensors with first axis B (or tuples of them, or None), MICRO_BATCH rows at a time.

    The last rows are filled up with the first, so that f always sees one shape: kernels round
    differently by shape, and sign or argmax make that visible. B is at least 1.
    """
    count = len(values[0])
    parts = []
    for window, index in chunks(count, MICRO_BATCH, values[0].device):
        part = f(*(take(value, index) for value in values))
        parts.append(part[: window.stop - window.start])
    return torch.cat(parts)
