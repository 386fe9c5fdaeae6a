"""Peak memory of every transform at 64 images of 3 x 299 x 299: python -m benchmarks.memory.

Resident memory above what is held with the input alone, in multiples of the input (68.6 MB in
float32), output and draw included; each figure from a process of its own, on one thread, after a
small image has loaded what is loaded on demand. "forward": draw and forward; "and back": draw,
forward grafted with the best surrogate, and its backward pass, which keeps what autograd saves.
Seconds are of one call, unwarmed. Linux only.

Fewer images where 64 take minutes; what does not grow with the batch then counts for more.
Networks inside links are toys, so that those rows say what the link itself holds.
"""

import resource
import time
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from besiege.core.key import Key
from besiege.defenses.catalog import TRANSFORMS
from besiege.defenses.transform import Graft, Transform
from besiege.models.toy import Toy

SHAPE = (3, 299, 299)
COUNT = 64
FEWER = {"quilt": 8, "pixel-defend": 16}
SETTINGS: Mapping[str, dict[str, Any]] = {"adversarial": {"model": Toy()}}
MOST = 8 << 30  # bytes above the input that a process may ask for
TARGET = 12  # times the input, forward; measured: at most 11

STATUS, FORGET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def built(name: str) -> Transform:
    """A transform in its default setting; of one that needs settings, its first case."""
    entry = TRANSFORMS[name]
    return entry.factory(**SETTINGS.get(name, entry.cases[0]))


def resident(what: str) -> int:
    """Bytes, now (VmRSS) or at most (VmHWM) since the last look was forgotten."""
    line = next(s for s in STATUS.read_text().splitlines() if s.startswith(what))
    return 1024 * int(line.split()[1])


def measured(name: str, count: int, back: bool) -> tuple[float, float] | None:
    """Peak in multiples of the input, and seconds; None above MOST. In a process of its own."""
    torch.set_num_threads(1)
    link = Graft(built(name))

    def call(key: Key, x: torch.Tensor) -> None:
        shape = (x.shape[1], x.shape[2], x.shape[3])
        y = link.forward(x, link.draw(key, shape))
        if back:
            y.sum().backward()  # type: ignore[no-untyped-call]

    small = Key.root(0, range(1))
    call(small, small.fold("image").uniform(3, 32, 32).requires_grad_(back))
    key = Key.root(0, range(count))
    x = key.fold("image").uniform(*SHAPE).requires_grad_(back)
    FORGET.write_text("5")  # the peak so far
    held = resident("VmRSS")
    limit = resident("VmData") + MOST
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    began = time.perf_counter()
    try:
        call(key, x)
    except (RuntimeError, MemoryError) as error:
        if "memory" not in str(error):
            raise
        return None
    took = time.perf_counter() - began
    return (resident("VmHWM") - held) / (x.numel() * x.element_size()), took


def apart(name: str, count: int, back: bool) -> tuple[float, float] | None:
    """`measured` in a new process."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        try:
            return pool.submit(measured, name, count, back).result()
        except BrokenProcessPool:
            return None


def bench() -> bool:
    """Print the table; True if no transform takes more than its target forward."""
    table = Table(title=f"peak memory above the input, in inputs, and s; batch x {SHAPE}")
    for head in ("transform", "images", "forward", "s", "and back", "s"):
        table.add_column(head, justify="left" if head == "transform" else "right")
    met = True
    for name in TRANSFORMS:
        count = FEWER.get(name, COUNT)
        cells = []
        for back in (False, True):
            found = apart(name, count, back)
            most = f"> {MOST / (count * 4 * 3 * 299 * 299):.0f}"
            cells += [f"{v:.1f}" for v in found] if found else [most, ""]
            if not back:
                met &= found is not None and found[0] <= TARGET
        table.add_row(name, str(count), *cells)
        print(name, count, *cells, flush=True)
    Console().print(table)
    return met


if __name__ == "__main__":
    raise SystemExit(0 if bench() else "a transform takes more memory than its target")
