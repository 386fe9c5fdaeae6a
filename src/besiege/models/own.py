"""A network from a user's own Python file."""

from __future__ import annotations

import torch
from torch import nn

from besiege.core.errors import BadModel
from besiege.core.foreign import Foreign, made
from besiege.core.key import Key
from besiege.core.passes import passing
from besiege.models.classifier import Classifier


def own_model(foreign: Foreign, shape: tuple[int, int, int] | None) -> Classifier:
    """The classifier that "path.py:NAME" names.

    NAME is a Classifier, or a torch module that takes images in [0, 1] (normalisation inside), or a
    function without arguments that returns one of them. A module's logits are counted on one grey
    image of `shape` (C, H, W), which must be given then.
    Raises BadModel for anything else, and for a module in training mode.
    """
    found = made(foreign, "model")
    where = f"{foreign.name} in {foreign.path}"
    if isinstance(found, Classifier):
        return found
    if not isinstance(found, nn.Module):
        raise BadModel(
            f"{where} gives {type(found).__name__}: a torch module or a besiege.Classifier, or a "
            "function without arguments that returns one, was expected."
        )
    if shape is None:
        raise BadModel(f"{where}: return besiege.Classifier(network, classes=...), which counts.")
    try:
        with torch.no_grad(), passing(Key.root(0, [0])):
            logits = found(torch.full((1, *shape), 0.5))
    except Exception as error:
        raise BadModel(
            f"{where} fails on an image (1, {', '.join(map(str, shape))}): "
            f"{type(error).__name__}: {error}."
        ) from error
    if not (isinstance(logits, torch.Tensor) and logits.ndim == 2 and len(logits) == 1):
        got = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
        raise BadModel(f"{where} must return logits (B, K), but for one image it returned {got}.")
    return Classifier(found, logits.shape[1], name=foreign.name, channels=shape[0])
