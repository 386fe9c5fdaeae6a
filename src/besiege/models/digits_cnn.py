"""A small network for the handwritten digits, trained on the spot."""

from __future__ import annotations

import hashlib
import math
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from besiege.core.errors import BadModel
from besiege.core.key import Key
from besiege.data.digits import digits
from besiege.models.classifier import Classifier
from besiege.models.sources import Layout, fill, load

SEED = 0
EPOCHS = 12
BATCH = 64  # images
RATE = 4e-3  # peak learning rate of Adam
SHIFT = 2  # pixels; training images are moved by up to so many each way


def digits_cnn() -> Classifier:
    """A CNN for the digits (1 channel), trained in seconds without any file.

    Trained on `digits:part=train` with keyed initial weights, order and shifts, hence the same
    each time on one machine; 99 % right on the held-out part. The weights are kept in
    $XDG_CACHE_HOME/besiege or ~/.cache/besiege where that can be written.
    Cost: EPOCHS passes over 1352 images, once.
    """
    path = _cached()
    try:
        return load(LAYOUT, path)
    except BadModel:  # not there yet, or broken: made anew
        tensors = trained()
    _keep(tensors, path)
    with torch.device("meta"):
        network = DigitsCNN(10)
    return Classifier(fill(network, tensors), LAYOUT.classes, name=LAYOUT.name, channels=1)


class DigitsCNN(nn.Module):
    """Three convolutions of stride 2 and a linear layer; no normalisation, hence no modes."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, 5, stride=2, padding=2)
        self.conv2 = nn.Conv2d(16, 32, 3, stride=2, padding=1)
        self.conv3 = nn.Conv2d(32, 64, 3, stride=2, padding=1)
        self.linear = nn.Linear(64 * 4 * 4, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, classes) of images (B, 1, 32, 32)."""
        y = F.relu(self.conv3(F.relu(self.conv2(F.relu(self.conv1(x))))))
        logits: Tensor = self.linear(y.flatten(1))
        return logits


LAYOUT = Layout(
    "digits-cnn",
    DigitsCNN,
    head="linear.weight",
    classes=tuple(str(i) for i in range(10)),
    channels=1,
)


def trained() -> dict[str, Tensor]:
    """Weights after EPOCHS passes of Adam with a one-cycle rate; no global generator is touched."""
    key = Key.root(SEED, [0])
    images = digits(part="train")
    batch = images.take(range(len(images)))
    with torch.inference_mode(False), torch.enable_grad(), _one_thread():
        x, y = batch.x.clone(), batch.y.clone()
        with torch.device("meta"):
            network = DigitsCNN(10)
        fill(network, _initial(network, key.fold("initial")))
        network.requires_grad_(True)
        steps = EPOCHS * math.ceil(len(y) / BATCH)
        optimiser = torch.optim.Adam(network.parameters())
        step = 0
        for epoch in range(EPOCHS):
            fresh = key.fold("epoch", epoch)
            moved = _moved(x, Key.root(SEED, range(len(y))).fold("shift", epoch))
            for rows in torch.split(fresh.permutation(len(y))[0], BATCH):
                optimiser.param_groups[0]["lr"] = RATE * _cycle(step / steps)
                optimiser.zero_grad()
                F.cross_entropy(network(moved[rows]), y[rows]).backward()  # type: ignore[no-untyped-call]
                optimiser.step()
                step += 1
    return {k: v.detach().clone() for k, v in network.state_dict().items()}


@contextmanager
def _one_thread() -> Iterator[None]:
    """Sums have one order, so the weights do not depend on the thread count; so small a network
    gains nothing from more threads, and loses much where the cores are busy.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _initial(network: nn.Module, key: Key) -> dict[str, Tensor]:
    """Normal weights of variance 2 / fan-in (He et al. 2015, arXiv:1502.01852), biases zero."""
    return {
        name: key.fold(name).normal(*p.shape)[0] * math.sqrt(2 / p[0].numel())
        if p.ndim > 1
        else torch.zeros(p.shape)
        for name, p in network.named_parameters()
    }


def _moved(x: Tensor, key: Key) -> Tensor:
    """Each image moved by up to SHIFT pixels each way, zeros coming in."""
    _, _, height, width = x.shape
    offset = key.integers(2 * SHIFT + 1, 2)
    padded = F.pad(x, (SHIFT,) * 4)
    rows = offset[:, :1] + torch.arange(height)
    columns = offset[:, 1:] + torch.arange(width)
    image = torch.arange(len(x))[:, None, None]
    return padded[image, 0, rows[:, :, None], columns[:, None, :]][:, None]


def _cycle(progress: float) -> float:
    """The share of the peak rate: up over the first fifth, then down to 0."""
    return min(progress / 0.2, (1 - progress) / 0.8)


def _cached() -> Path:
    """Where the weights are kept: the name changes with this file, which is the recipe."""
    recipe = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:16]
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "besiege" / f"digits-cnn-{recipe}.safetensors"


def _keep(tensors: dict[str, Tensor], path: Path) -> None:
    """Write by atomic rename; where the folder cannot be written, the next call trains again."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            fresh = Path(folder) / path.name
            save_file(tensors, fresh)
            fresh.replace(path)
    except (OSError, SafetensorError):
        return
