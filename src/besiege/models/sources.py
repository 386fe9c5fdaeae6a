"""Where models come from: weights in files, the architecture they belong to, other packages."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from besiege.core.errors import BadModel
from besiege.core.files import existing
from besiege.models.classifier import Classifier

# The constants that most public weights were made for.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
CIFAR_MEAN = (0.4914, 0.4822, 0.4465)
CIFAR_STD = (0.2023, 0.1994, 0.2010)  # the mean over images of their own std, as public code has it


class Weights(NamedTuple):
    """What a file holds."""

    path: Path
    tensors: dict[str, Tensor]  # floating point ones as float32
    metadata: dict[str, str]


@dataclass(frozen=True)
class Layout:
    """An architecture as its weight files have it, and the preprocessing that they were made for.

    network: number of classes -> the module.
    head: key of the last layer's weight, whose first axis counts the classes.
    classes: names, used where their number fits.
    rename: module key -> key in the file.
    """

    name: str
    network: Callable[[int], nn.Module]
    head: str
    classes: tuple[str, ...]
    mean: float | tuple[float, ...] = 0.0
    std: float | tuple[float, ...] = 1.0
    size: int | None = None
    channels: int = 3
    rename: Callable[[str], str] = str


def read_weights(path: str | Path) -> Weights:
    """The tensors of a safetensors file, half precision brought to float32, "module." dropped.

    Raises BadModel for a missing file (naming the nearest) and for one that is no safetensors.
    """
    found = existing(path, "weights", BadModel)
    try:
        with safe_open(found, framework="pt") as file:
            metadata = dict(file.metadata() or {})
            tensors = {key.removeprefix("module."): file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise BadModel(
            f'"{found}" is not a readable safetensors file ({error}). Weights are read from '
            "safetensors only, because a pickle can run code: load yours yourself and write it "
            "with safetensors.torch.save_file(model.state_dict(), path)."
        ) from error
    return Weights(
        found, {k: t.float() if t.is_floating_point() else t for k, t in tensors.items()}, metadata
    )


def load(layout: Layout, path: str | Path) -> Classifier:
    """The classifier of `layout` with the weights at `path`, in evaluation mode.

    Raises BadModel, naming the first key or shape that does not fit.
    """
    return assemble(layout, read_weights(path))


def recognise(weights: Weights, layouts: Iterable[Layout]) -> Layout:
    """The layout whose keys and shapes are those of the file.

    Raises BadModel, saying for the nearest layout what does not fit, or naming all that do.
    """
    known = list(layouts)
    misfits = {layout.name: _misfits(layout, weights.tensors) for layout in known}
    fitting = [layout for layout in known if not misfits[layout.name]]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise BadModel(
            f'The weights in "{weights.path}" fit {" and ".join(a.name for a in fitting)}, which '
            "differ in what has no weights: say which network was trained, as in "
            f"{fitting[0].name}:weights=PATH."
        )
    nearest, why = min(misfits.items(), key=lambda item: len(item[1]))
    raise BadModel(
        f'The weights in "{weights.path}" belong to no architecture known here '
        f"({', '.join(misfits)}). Nearest is {nearest}, but {why[0]} ({len(why)} such). Networks "
        "for ImageNet are torchvision:NAME or timm:NAME. In Python, wrap your own network: "
        "Classifier(network.eval(), classes=..., mean=..., std=...)."
    )


def assemble(layout: Layout, weights: Weights) -> Classifier:
    """A classifier in evaluation mode, its parameters without gradient.

    The file's metadata may say "classes", "mean" and "std" (each as JSON) where they differ from
    the layout's. Raises BadModel where something does not fit.
    """
    if why := _misfits(layout, weights.tensors):
        raise BadModel(
            f'The weights in "{weights.path}" do not fit {layout.name}: {why[0]} ({len(why)} such).'
        )
    count = len(weights.tensors[layout.rename(layout.head)])
    given = described(weights.path, weights.metadata)
    classes = given.get("classes", layout.classes)
    if len(classes) != count:
        if "classes" in given:
            raise BadModel(f'"{weights.path}" names {len(classes)} classes for {count} logits.')
        classes = count
    network = _skeleton(layout, count)
    fill(network, {k: weights.tensors[layout.rename(k)] for k in _needed(network)})
    return Classifier(
        network,
        classes,
        mean=given.get("mean", layout.mean),
        std=given.get("std", layout.std),
        size=layout.size,
        name=layout.name,
        channels=layout.channels,
    )


def fill(network: nn.Module, tensors: Mapping[str, Tensor]) -> nn.Module:
    """Put `tensors` into a network built on the meta device: evaluation mode, no gradients.

    Building on the meta device draws no initial weights, hence touches no global generator.
    Counters of batch norm, which only training needs, become zero where old files lack them.
    """
    counters = {k: torch.zeros((), dtype=torch.long) for k in network.state_dict() if _counter(k)}
    network.load_state_dict({**counters, **tensors}, assign=True)
    return network.eval().requires_grad_(False)


def _skeleton(layout: Layout, count: int) -> nn.Module:
    with torch.device("meta"):
        return layout.network(count)


def _counter(key: str) -> bool:
    return key.endswith("num_batches_tracked")


def _needed(network: nn.Module) -> dict[str, tuple[int, ...]]:
    return {k: tuple(t.shape) for k, t in network.state_dict().items() if not _counter(k)}


def _misfits(layout: Layout, tensors: Mapping[str, Tensor]) -> list[str]:
    """What keeps `tensors` from being this layout's weights, one clause each."""
    head = tensors.get(layout.rename(layout.head))
    count = len(layout.classes) if head is None or head.ndim == 0 else len(head)
    wanted = {layout.rename(k): s for k, s in _needed(_skeleton(layout, count)).items()}
    given = {k: tuple(t.shape) for k, t in tensors.items() if not _counter(k)}
    return [
        *(f'"{k}" is missing' for k in wanted if k not in given),
        *(f'"{k}" has no place in it' for k in given if k not in wanted),
        *(
            f'"{k}" is {given[k]}, not {shape}'
            for k, shape in wanted.items()
            if k in given and given[k] != shape
        ),
    ]


def described(path: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    """What a file's metadata says of "classes", "mean" and "std", each as JSON."""
    given = {k: v for k, v in metadata.items() if k in ("classes", "mean", "std")}
    try:
        return {k: json.loads(v) for k, v in given.items()}
    except json.JSONDecodeError as error:
        raise BadModel(f'"{path}": its metadata {given} must be JSON ({error}).') from error


def optional(module: str, model: str, extra: str) -> Any:
    """A module of a package that not every user has; BadModel naming the extra that brings it.

    >>> optional("no_such_package", "onnx", "onnx")
    Traceback (most recent call last):
    besiege.core.errors.BadModel: model onnx needs the package no_such_package, which cannot be \
imported (No module named 'no_such_package'): pip install "besiege[onnx]".
    """
    try:
        return import_module(module)
    except (ImportError, RuntimeError, OSError) as error:  # the latter two: native parts
        raise BadModel(
            f"model {model} needs the package {module.partition('.')[0]}, which cannot be imported "
            f'({error}): pip install "besiege[{extra}]".'
        ) from error


def weights_hash(*modules: nn.Module) -> str:
    """16 hex digits over the parameters and buffers of modules."""
    digest = hashlib.sha256()
    for module in modules:
        for name, tensor in sorted(module.state_dict().items()):
            digest.update(name.encode())
            flat = tensor.detach().cpu().contiguous().reshape(-1)
            digest.update(flat.view(torch.uint8).numpy().tobytes())  # NumPy has no bfloat16
    return digest.hexdigest()[:16]
