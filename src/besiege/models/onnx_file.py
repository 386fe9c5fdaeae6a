"""Networks in ONNX files, run by onnxruntime (extra `onnx`)."""

from __future__ import annotations

import glob
import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from besiege.core.batch import chunks
from besiege.core.errors import BadModel
from besiege.core.files import existing
from besiege.models.classifier import Classifier
from besiege.models.sources import described, optional

TYPES = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(float16)": np.float16,
}


def onnx_file(weights: str) -> Classifier:
    """Any network in an ONNX file; it gives scores, but no gradients.

    weights: the file. One input (B, C, H, W), float, B free or fixed, and one output (B, K), the
    logits. Images are resized to the input's H x W if it is fixed, and square. The file's metadata
    may say "classes", "mean" and "std" (each as JSON); else images go in as they are, in [0, 1].
    Runs on the CPU on one thread, whatever the device. Raises BadModel without the extra `onnx`
    (package onnxruntime), and for a file that is not as said.
    """
    runtime = optional("onnxruntime", "onnx", "onnx")
    path = existing(weights, "ONNX file", BadModel)
    session = _session(runtime, path)
    network = _OnnxNetwork(session, path)
    given = described(path, session.get_modelmeta().custom_metadata_map)
    return Classifier(
        network,
        given.get("classes", network.count),
        mean=given.get("mean", 0.0),
        std=given.get("std", 1.0),
        size=network.size,
        name=path.stem,
        channels=network.channels,
        access="scores",
    )


def _digest(path: Path) -> bytes:
    """sha256 over the file and those beside it that extend its name, as net.onnx.data does."""
    digest = hashlib.sha256()
    for part in sorted(path.parent.glob(f"{glob.escape(path.name)}*")):
        digest.update(part.read_bytes())
    return digest.digest()


def _session(runtime: Any, path: Path) -> Any:
    """The file in onnxruntime; one thread, so that the order of sums is one."""
    options = runtime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors only
    try:
        # By its path, since large networks keep their weights in files beside it.
        return runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its own classes, one for each status
        raise BadModel(f'"{path}" is no ONNX file that onnxruntime can run: {error}') from error


class _OnnxNetwork(nn.Module):
    """A session as a network: (B, C, H, W) -> logits (B, K), without gradients.

    Batches of a fixed size in the file are filled up.
    """

    digest: Tensor

    def __init__(self, session: Any, path: Path) -> None:
        super().__init__()
        self.training = False
        self.session = session
        image, logits = _ends(session, path)
        self.feed, self.fed = image.name, TYPES[image.type]
        batch, self.channels, height, width = image.shape
        self.batch = batch if isinstance(batch, int) else None
        self.size = height if isinstance(height, int) else None
        if self.size is not None and width != height:
            raise BadModel(
                f'"{path}" takes {image.shape}, where (B, channels, H, W) with H = W is expected: '
                "transpose in the network if its channels come last."
            )
        self.count = logits.shape[1]
        # Stands for the weights, so that a run folder tells files apart.
        found = torch.tensor(list(_digest(path)), dtype=torch.uint8)
        self.register_buffer("digest", found)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, K)."""
        array = x.detach().cpu().numpy().astype(self.fed)
        found = [
            self.session.run(None, {self.feed: array[index.numpy()]})[0][: real.stop - real.start]
            for real, index in chunks(len(x), self.batch or max(len(x), 1))
        ]
        empty = [np.zeros((0, self.count))]
        return torch.from_numpy(np.concatenate(found or empty)).to(x)


def _ends(session: Any, path: Path) -> tuple[Any, Any]:
    """The input and the output, if they are images and logits."""
    takes, gives = session.get_inputs(), session.get_outputs()
    if len(takes) == len(gives) == 1:
        image, logits = takes[0], gives[0]
        fits = image.type in TYPES and len(image.shape) == 4 and isinstance(image.shape[1], int)
        if fits and len(logits.shape) == 2 and isinstance(logits.shape[1], int):
            return image, logits
    said = "; ".join(
        f"{what} {', '.join(f'{e.name} {e.type} {e.shape}' for e in ends)}"
        for what, ends in (("inputs", takes), ("outputs", gives))
    )
    raise BadModel(
        f'"{path}" must have one input, float (B, channels, H, W), and one output, logits (B, K), '
        f"with numbers for channels and K; it has {said}. Export it so, or wrap a function that "
        "runs it with besiege.from_callable."
    )
