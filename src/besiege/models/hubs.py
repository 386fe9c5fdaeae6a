"""Networks of torchvision and timm, where the user has these packages and the weights already.

Nothing is downloaded. Both build a network on the meta device, so that no global generator is
touched, and images are resized as a whole to the size that the weights were made for, where the
packages' own preprocessing crops the middle.
"""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from besiege.core.errors import BadModel, UnknownName
from besiege.models.classifier import Classifier
from besiege.models.sources import fill, optional, read_weights


def torchvision_network(network: str) -> Classifier:
    """A classifier of torchvision with its default weights, from the cache of torch.hub.

    network: its name there, "resnet18". Its normalisation and size are those of the weights.
    Raises BadModel without the package (extra `timm`) or without the weights, UnknownName.
    """
    models = _torchvision()
    try:
        default = models.get_model_weights(network).DEFAULT
    except ValueError as error:
        raise _unknown("torchvision", network, models.list_models()) from error
    file = Path(torch.hub.get_dir()) / "checkpoints" / str(default.url).rpartition("/")[2]
    if not file.is_file():
        raise _no_weights(
            f"torchvision:{network}",
            str(file),
            f"import torchvision.models as m; m.get_model('{network}', weights='DEFAULT')",
        )
    with torch.device("meta"):
        skeleton = models.get_model(network, weights=None)
    tensors = torch.load(file, map_location="cpu", weights_only=True)
    preset = default.transforms()
    return Classifier(
        _filled(skeleton, tensors, f"torchvision:{network}"),
        tuple(default.meta["categories"]),
        mean=tuple(preset.mean),
        std=tuple(preset.std),
        size=int(preset.crop_size[0]),
        name=network,
    )


def timm_network(network: str) -> Classifier:
    """A classifier of timm with its pretrained weights, from the cache of huggingface_hub.

    network: its name there, "resnet18.a1_in1k". Its normalisation and size are those of the
    weights. Raises BadModel without the packages (extra `timm`) or the weights, UnknownName.
    """
    _torchvision()  # timm imports it
    timm = optional("timm", "timm", "timm")
    hub = optional("huggingface_hub", "timm", "timm")
    try:
        with torch.device("meta"):
            skeleton = timm.create_model(network, pretrained=False)
    except RuntimeError as error:
        raise _unknown("timm", network, timm.list_models(pretrained=True)) from error
    config = skeleton.pretrained_cfg
    source = config.get("hf_hub_id")
    cached = hub.try_to_load_from_cache(source, "model.safetensors") if source else None
    if not isinstance(cached, str):
        raise _no_weights(
            f"timm:{network}",
            f"{source}/model.safetensors",
            f"import timm; timm.create_model('{network}', pretrained=True)",
        )
    channels, height, _ = config["input_size"]
    return Classifier(
        _filled(skeleton, read_weights(cached).tensors, f"timm:{network}"),
        int(config["num_classes"]),
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        size=int(height),
        name=network,
        channels=int(channels),
    )


def _torchvision() -> Any:
    """torchvision.models, also beside a torch that its compiled operations were not built for.

    Its build on PyPI needs CUDA libraries. Without them its import dies for want of the schemas of
    two operations (pytorch/vision 9077, 9085), which no classifier uses: they are declared here,
    once an import has failed for that reason and not before.
    """
    try:
        return optional("torchvision.models", "torchvision", "timm")
    except BadModel as error:
        if not isinstance(error.__cause__, RuntimeError):
            raise
    schema = "(Tensor boxes, Tensor scores, float threshold) -> Tensor"
    for operation in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, operation):
            torch.library.define(f"torchvision::{operation}", schema)
    return optional("torchvision.models", "torchvision", "timm")


def _filled(skeleton: nn.Module, tensors: Mapping[str, Tensor], name: str) -> nn.Module:
    """The network with its weights."""
    try:
        network = fill(skeleton, tensors)
    except RuntimeError as error:
        raise BadModel(f"the cached weights of {name} do not fit it: {error}") from error
    for key, tensor in [*network.named_parameters(), *network.named_buffers()]:
        if tensor.is_meta:
            raise BadModel(
                f"{name} computes {key} when it is built, and its weights lack it. Build it "
                "yourself and wrap it: Classifier(network.eval(), classes=..., mean=..., std=...)."
            )
    return network


def _unknown(package: str, network: str, names: list[str]) -> UnknownName:
    near = get_close_matches(network, names, n=3, cutoff=0.5)
    hint = f" Did you mean {', '.join(near)}?" if near else ""
    return UnknownName(f'Unknown network of {package} with weights: "{network}".{hint}')


def _no_weights(name: str, wanted: str, fetch: str) -> BadModel:
    return BadModel(
        f"The weights of {name} are not in the cache ({wanted}), and besiege downloads nothing. "
        f'Fetch them once: python -c "{fetch}".'
    )
