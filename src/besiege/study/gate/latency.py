"""What a defense costs: seconds an image, beside the bare classifier, on this machine and now."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from besiege.core.errors import BadSetting
from besiege.core.key import Key
from besiege.core.stats import Median, median
from besiege.defenses.defense import Deployed

CALLS = 30
WARM = 3  # calls before, which are not counted
FEWEST = 6  # calls whose median has an interval

Clock = Callable[[], float]


@dataclass(frozen=True)
class Latency:
    """Medians over the calls with their 95 % intervals.

    defended, bare: seconds an image. overhead: of one to the other, call by call.
    """

    batch: int
    defended: Median
    bare: Median
    overhead: Median
    calls: int
    threads: int
    device: str

    def __str__(self) -> str:
        threads = f"{self.threads} thread{'s' if self.threads > 1 else ''}"
        return (
            f"latency at batch {self.batch}: {1000 * self.defended.estimate:.3g} ms an image, bare "
            f"{1000 * self.bare.estimate:.3g} ms ({self.overhead.estimate:.3g}x); median of "
            f"{self.calls} calls after {WARM} to warm up, {threads}, {self.device}"
        )


def latency(
    defense: Deployed,
    bare: Deployed,
    x: Tensor,
    key: Key,
    *,
    batch: int = 1,
    calls: int = CALLS,
    clock: Clock | None = None,
) -> Latency:
    """Time `calls` answers of `defense`, draws included, and of `bare`, turn about.

    x: (n, C, H, W) in [0, 1], which are taken `batch` at a time, round and round; key: of their
    rows. Both answer the same images, so that what slows the machine down slows both. On a GPU the
    clock is read when its work is done. clock: seconds, time.perf_counter if not given.
    Raises BadSetting for too few calls, or a batch below 1. Cost: calls + 3 answers of each.
    """
    check_calls(calls, batch)
    read = clock or time.perf_counter

    def timed(answerer: Deployed, i: int) -> float:
        rows = torch.arange(i * batch, (i + 1) * batch) % len(x)
        images, own = x[rows.to(x.device)], key[rows.to(key.device)].fold("latency", i)
        _finish(x.device)
        began = read()
        answerer.labels(images, own)
        _finish(x.device)
        return (read() - began) / batch

    pairs = np.array([(timed(defense, i), timed(bare, i)) for i in range(calls + WARM)])[WARM:]
    defended, plain = pairs.T
    return Latency(
        batch=batch,
        defended=median(defended),
        bare=median(plain),
        overhead=median(defended / np.maximum(plain, 1e-12)),
        calls=calls,
        threads=torch.get_num_threads(),
        device=str(x.device),
    )


def check_calls(calls: int, batch: int = 1) -> None:
    """Refuse too few calls, or a batch without images."""
    if calls < FEWEST or batch < 1:
        raise BadSetting(
            f"latency takes a batch >= 1 and at least {FEWEST} calls, fewer of which have no "
            f"interval: got a batch of {batch} and {calls} calls."
        )


def _finish(device: torch.device) -> None:
    """Wait for a GPU's work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
