"""PGD-20 at equal passes: besiege, a bare loop, Foolbox, torchattacks: python -m benchmarks.pgd.

ResNet-20, batch 128, linf, one thread, in one run: the contestants take turns, and each figure is
the median over the turns of its time divided by the bare loop's of the same turn. besiege is what
a user runs: oracle, meter, best point, trace, and one forward that tests the last point.

At equal passes: a radius of 1e-6, at which no image falls, so that nothing is dropped. In the last
row besiege at 8/255 drops what is broken, while the bare loop goes on.
"""

import time
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from statistics import median

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn import functional

from besiege.attacks.threat import Linf, Threat
from besiege.core.key import Key
from besiege.data.catalog import load_images
from besiege.defenses.defense import Defense
from besiege.defenses.transform import Chain
from besiege.models.catalog import load_model
from besiege.models.classifier import Classifier
from besiege.study.recipes import RECIPES
from besiege.study.siege import Opponents, Siege

BATCH, STEPS, STEP = 128, 20, 0.25  # STEP in units of eps
TINY, USUAL = 1e-6, 8 / 255
TURNS = 7
TARGET = 1.05  # at most this many times the bare loop
DATA = Path(__file__).parents[2] / "shared" / "data"

Run = Callable[[], object]


def problem() -> tuple[Classifier, Tensor, Tensor]:
    """ResNet-20 and images it gets right; without the reference data the digits' network."""
    if DATA.is_dir():
        model = load_model(f"file:{DATA / 'cifar10_resnet20.safetensors'}")
        images = load_images(f"packed:path={DATA / 'cifar10_test_subset.npz'}")
    else:
        model, images = load_model("digits-cnn"), load_images("digits")
    x, y, _ = images.take(range(2 * BATCH))
    with torch.no_grad():
        right = (model(x).argmax(1) == y).nonzero()[:BATCH, 0]
    return model, x[right], y[right]


def bare(model: Classifier, x0: Tensor, y: Tensor, eps: float) -> Run:
    """The loop that a user writes: no random start, sign steps, two clamps."""

    def run() -> Tensor:
        x = x0.clone()
        for _ in range(STEPS):
            x.requires_grad_()
            loss = functional.cross_entropy(model(x), y, reduction="sum")
            slope = torch.autograd.grad(loss, x)[0]
            x = x.detach() + STEP * eps * slope.sign()
            x = x.clamp(x0 - eps, x0 + eps).clamp(0, 1)
        return x

    return run


def ours(model: Classifier, x: Tensor, y: Tensor, eps: float) -> Run:
    """The recipe bpda, which is plain PGD where there is no chain."""
    attack = f"pgd:step={STEP},decay=constant,start=clean"
    recipe = RECIPES.build("bpda", attack=attack, steps=STEPS)
    siege = Siege(Defense(Chain(), model), recipe, Threat(Linf(eps)), Opponents(micro_batch=BATCH))
    key = Key.root(0, range(len(x)))
    return lambda: siege.attack(x, y, key)


def others(model: Classifier, x: Tensor, y: Tensor, eps: float) -> Mapping[str, Run]:
    """What is installed of the two libraries."""
    found: dict[str, Run] = {}
    try:
        foolbox = import_module("foolbox")
        attack = foolbox.attacks.LinfPGD(abs_stepsize=STEP * eps, steps=STEPS, random_start=False)
        wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")
        found["Foolbox"] = lambda: attack(wrapped, x, y, epsilons=eps)
    except ImportError:
        pass
    try:
        library = import_module("torchattacks")
        pgd = library.PGD(model, eps=eps, alpha=STEP * eps, steps=STEPS, random_start=False)
        found["torchattacks"] = lambda: pgd(x, y)
    except ImportError:
        pass
    return found


def ratios(runs: Mapping[str, Run]) -> tuple[float, dict[str, float]]:
    """Median seconds of the bare loop, and each contestant's median ratio to it."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(TURNS + 1):
        for name, run in runs.items():
            began = time.perf_counter()
            run()
            if turn:  # the first is to warm up
                times[name].append(time.perf_counter() - began)
    base = times["bare loop"]
    return median(base), {
        name: median(a / b for a, b in zip(own, base, strict=True)) for name, own in times.items()
    }


def bench() -> bool:
    """Print the table; True if the target is met."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    model, x, y = problem()
    even = {
        "bare loop": bare(model, x, y, TINY),
        "besiege": ours(model, x, y, TINY),
        **others(model, x, y, TINY),
    }
    seconds, found = ratios(even)
    usual = {"bare loop": bare(model, x, y, USUAL), "besiege": ours(model, x, y, USUAL)}
    _, dropping = ratios(usual)
    torch.set_num_threads(before)
    table = Table(title=f"PGD-{STEPS}, {model.name}, batch {len(x)}, one thread")
    for column in ("contestant", "ms an image", "x bare loop", "target"):
        table.add_column(column, justify="left" if column == "contestant" else "right")
    for name, ratio in found.items():
        target = f"<= {TARGET}" if name == "besiege" else ""
        table.add_row(name, f"{1000 * seconds * ratio / len(x):.1f}", f"{ratio:.3f}", target)
    for name in ("Foolbox", "torchattacks"):
        if name not in found:
            table.add_row(name, "not installed", "", "")
    table.add_row("besiege at 8/255, dropping", "", f"{dropping['besiege']:.3f}", "")
    Console().print(table)
    return found["besiege"] <= TARGET


if __name__ == "__main__":
    raise SystemExit(not bench())
