"""What makes points travel: python examples/transfer.py [cifar10 | photographs]

Points made on a model of the attacker's own, tried on others, untargeted, linf 8/255. Each attack
against plain PGD on the same images, by McNemar's exact test. The images are those that all models
get right: 200 of CIFAR-10 in 20 steps, and 60 photographs of the NIPS 2017 development set at 299
px in 10 steps (data in `../shared/data`). Prints the tables of docs/transfer.md.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

import besiege
from besiege.core.comparisons import mcnemar
from besiege.core.key import Key
from besiege.core.stats import share_interval
from besiege.models.classifier import Classifier
from besiege.study.recipe import Recipe
from besiege.study.siege import Opponents, Siege

DATA = Path(__file__).parents[2] / "shared" / "data"
THREAT = besiege.Threat(besiege.Linf(8 / 255))
COPIES = 3


class Row(NamedTuple):
    """An attack: its name in the table, its spec, its gradients, and what it is made on."""

    name: str
    attack: str
    gradients: str = "backward"
    sources: Sequence[str] = ()  # those of the study


class Study(NamedTuple):
    """Attacks of `steps` steps on images that all of `models` get right, tried on the targets."""

    images: str
    n: int
    steps: int
    models: Mapping[str, str]
    source: str
    targets: Sequence[str]
    rows: Sequence[Row]
    batch: int


class Known(NamedTuple):
    """Images that every model gets right."""

    x: Tensor  # (B, C, H, W)
    y: Tensor  # (B,)
    ids: Tensor  # (B,)


def varied(probability: float = 0, kernel: int = 1, copies: int = 1) -> str:
    """Gradients at copies of the point."""
    return f"varied:probability={probability:g},kernel={kernel},copies={copies}"


def attacks(steps: int, kernels: Sequence[int]) -> list[Row]:
    """The usual ways, one at a time and together; with momentum all steps are eps, as published."""
    plain = f"pgd:step={2.5 / steps:g},decay=constant"
    momentum = f"mi-fgsm:step={1 / steps:g}"
    ahead = f"{momentum},nesterov=true"
    return [
        Row("PGD", plain),
        Row("MI", momentum),
        Row("NI", ahead),
        Row("MI, DI", momentum, varied(0.7)),
        *(Row(f"MI, TI {k}", momentum, varied(kernel=k)) for k in kernels),
        Row("MI, SI", momentum, varied(copies=COPIES)),
        Row("NI, DI, SI", ahead, varied(0.7, copies=COPIES)),
        Row(f"MI, DI, TI {kernels[0]}, SI", momentum, varied(0.7, kernels[0], COPIES)),
    ]


def file(name: str) -> str:
    """The spec of weights among the data."""
    return f"file:{DATA / name}.safetensors"


NEAR, ADVERSARIAL = "ResNet-20", "ResNet-20 adv"
BOTH = (NEAR, ADVERSARIAL)
CIFAR10 = Study(
    f"packed:path={DATA / 'cifar10_test_subset.npz'}",
    n=200,
    steps=20,
    models={
        NEAR: file("cifar10_resnet20"),
        ADVERSARIAL: file("cifar10_resnet20_adv"),
        "ResNet-56": file("cifar10_resnet56"),
        "VGG adv": file("cifar10_vgg0_adv"),
    },
    source=NEAR,
    targets=("ResNet-56", "VGG adv"),
    rows=[
        *attacks(20, [3]),
        Row("PGD, made on both ResNet-20", "pgd:step=0.125,decay=constant", sources=BOTH),
        Row("MI, DI, made on both", "mi-fgsm:step=0.05", varied(0.7), BOTH),
        Row("PGD, made on ResNet-20 adv", "pgd:step=0.125,decay=constant", sources=BOTH[1:]),
    ],
    batch=100,
)
PHOTOGRAPHS = Study(
    f"nips2017:path={DATA / 'imagenet_nips2017'}",
    n=60,
    steps=10,
    models={
        "MobileNetV2": file("imagenet_mobilenet_v2_fp16"),
        "EfficientNet-Lite0": "efficientnet-lite0",
    },
    source="MobileNetV2",
    targets=("EfficientNet-Lite0",),
    rows=attacks(10, [3, 5, 7]),
    batch=10,
)
STUDIES = {"cifar10": CIFAR10, "photographs": PHOTOGRAPHS}


def answers(model: Classifier, x: Tensor, batch: int) -> Tensor:
    """Labels of images (B, C, H, W), a batch at a time."""
    with torch.no_grad():
        return torch.cat([model(part).argmax(1) for part in x.split(batch)])


def known(study: Study, models: Mapping[str, Classifier]) -> Known:
    """The first n of them."""
    images = besiege.load_images(study.images)
    x, y, _ = images.take(range(min(len(images), 2 * study.n)))
    right = torch.stack([answers(m, x, study.batch) == y for m in models.values()]).all(0)
    rows = right.nonzero()[: study.n, 0]
    return Known(x[rows], y[rows], rows)


def fooled(
    study: Study, row: Row, models: Mapping[str, Classifier], images: Known
) -> tuple[dict[str, Tensor], float]:
    """By target, which images fool it, (B,) bool; and the passes an image."""
    recipe = Recipe(
        "transfer",  # one name, so that all start alike
        attack=row.attack,
        gradients=row.gradients,
        models=tuple(row.sources or (study.source,)),
        links="skip",
        steps=study.steps,
    )
    target = besiege.Defense(besiege.Chain(), models[study.targets[0]])
    siege = Siege(target, recipe, THREAT, Opponents(micro_batch=study.batch, models=models))
    points, passes = [], 0.0
    for i in range(0, len(images.y), study.batch):
        part = slice(i, i + study.batch)
        found = siege.attack(images.x[part], images.y[part], Key.root(0, images.ids[part]))
        assert bool(THREAT.admits(found.x, images.x[part]).all())
        points.append(found.x)
        passes += float((found.forwards + found.backwards).sum())
    x = torch.cat(points)
    by_target = {t: answers(models[t], x, study.batch) != images.y for t in study.targets}
    return by_target, passes / len(images.y)


def cell(here: Tensor, plain: Tensor) -> str:
    """Success with its interval, images won and lost against PGD, and McNemar's exact p."""
    share = share_interval(here.double().numpy())
    shown = f"{100 * share.estimate:.1f} [{100 * share.low:.1f}, {100 * share.high:.1f}]"
    won, lost = int((here & ~plain).sum()), int((plain & ~here).sum())
    if here is plain:
        return f"{shown} | "
    p = mcnemar(won, lost)
    return f"{shown} | +{won} -{lost}, {f'p = {p:.2g}' if p >= 0.001 else 'p < 0.001'}"


def table(study: Study) -> Iterator[str]:
    """The table, row by row."""
    models = {name: besiege.load_model(spec) for name, spec in study.models.items()}
    images = known(study, models)
    print(f"{len(images.y)} images", file=sys.stderr, flush=True)
    heads = " | ".join(f"{t} % | against PGD" for t in study.targets)
    yield f"| made with | {heads} | passes |"
    yield f"|---|{'---:|---|' * len(study.targets)}---:|"
    plain: dict[str, Tensor] = {}
    for row in study.rows:
        start = time.perf_counter()
        found, passes = fooled(study, row, models, images)
        plain = plain or found
        cells = " | ".join(cell(found[t], plain[t]) for t in study.targets)
        yield f"| {row.name} | {cells} | {passes:.0f} |"
        print(f"{row.name}: {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)


if __name__ == "__main__":
    for wanted in sys.argv[1:] or STUDIES:
        for line in table(STUDIES[wanted]):
            print(line, flush=True)
