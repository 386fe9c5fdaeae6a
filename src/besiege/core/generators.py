"""The global generators of Python, NumPy and torch: seeded for one call, and watched."""

from __future__ import annotations

import random  # noqa: TID251 - seeded for one call of a foreign function, then restored
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch


def _of_torch(device: torch.device) -> list[torch.Generator]:
    found = [torch.default_generator]
    if device.type == "cuda":
        found.append(torch.cuda.default_generators[device.index or 0])
    return found


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[Callable[[int], None]]:
    """The global generators seeded inside, and as they were afterwards.

    Hands over what seeds them anew, for a loop.
    """
    torch_generators = _of_torch(device)
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002, TID251
    states = [generator.get_state() for generator in torch_generators]

    def seed_all(seed: int) -> None:
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002, TID251
        for generator in torch_generators:
            generator.manual_seed(seed)

    try:
        seed_all(seed)
        yield seed_all
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002, TID251
        for generator, state in zip(torch_generators, states, strict=True):
            generator.set_state(state)


def standing(device: torch.device) -> tuple[object, ...]:
    """Where the global generators stand: equal to what it was if nobody has drawn since.

    >>> before = standing(torch.device("cpu"))
    >>> with seeded(0, torch.device("cpu")) as again:
    ...     torch.rand(1), standing(torch.device("cpu")) == before
    (tensor([0.4963]), False)
    >>> standing(torch.device("cpu")) == before
    True
    """
    name, words, *rest = np.random.get_state()  # noqa: NPY002, TID251
    torch_states = [generator.get_state().numpy().tobytes() for generator in _of_torch(device)]
    return (random.getstate(), name, np.asarray(words).tobytes(), *rest, *torch_states)
