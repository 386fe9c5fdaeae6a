"""What defenses do to clean images, as table I of Qiu et al. 2020 asks.

    python examples/table1.py [N]

Root mean square change, SSIM and accuracy of each defense on N (100) photographs of the NIPS 2017
development set at 299 px (the authors' data in `../shared/data`), under MobileNetV2 and
EfficientNet-Lite0; beside each other what the paper prints, what the released code computes, and
what the operation computes when it is put right. One draw an image, as in the paper.

The accuracies are of other networks than the paper's Inception-v3, on images that both networks get
right without a defense. SSIM is scikit-image's (window of 7 x 7, mean of the channels).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from skimage.metrics import structural_similarity
from torch import Tensor

from besiege.core.batch import l2
from besiege.core.key import Key
from besiege.data.catalog import load_images
from besiege.defenses.catalog import parse_chain
from besiege.defenses.transform import Transform
from besiege.models.catalog import load_model
from besiege.models.classifier import Classifier

DATA = Path(__file__).parents[2] / "shared" / "data"
BATCH = 10

PD = "form=released,deflections=1800,map=false,sigma=0"  # as in their toolkit: no map, no denoiser
FD, RDG = "fd:form=released", "rdg:limit=0.25,sampling=nearest,corner=upper-left"


class Row(NamedTuple):
    """One defense; published figures where they are known."""

    name: str
    released: str
    aligned: str
    rms: float | None = None
    ssim: float | None = None


# Published: table I, as far as its figures are at hand.
ROWS = (
    Row("none", "none", "none"),
    Row("FD", FD, "fd", 0.1343, 0.431),
    Row("FD x 2", f"{FD} + 2={FD}", "fd + 2=fd"),
    Row("FD x 3", f"{FD} + 2={FD} + 3={FD}", "fd + 2=fd + 3=fd"),
    Row("RDG", RDG, "rdg"),
    Row("Rand", "pad:form=bpda", "pad"),
    Row("FD + RDG", f"{FD} + {RDG}", "fd + rdg"),
    Row("FD + Rand", f"{FD} + pad:form=bpda", "fd + pad"),
    Row("JPEG", "jpeg:rounding=truncate", "jpeg"),
    Row("bit depth", "bits:bits=3,rounding=floor", "bits:bits=3", 0.0709),
    Row("SHIELD", "shield:rounding=truncate", "shield"),
    Row("TVM", "tvm:form=obfuscated", "tvm"),
    Row("PD", f"deflection:{PD}", "deflection", None, 0.988),
)


class Figures(NamedTuple):
    """Means over the images; accuracy in [0, 1] of each network."""

    rms: float
    ssim: float
    accuracy: tuple[float, ...]


def similarity(x: Tensor, y: Tensor) -> list[float]:
    """SSIM of each pair of images (B, 3, H, W) in [0, 1]."""
    pairs = zip(x.double().numpy(), y.double().numpy(), strict=True)
    return [structural_similarity(a, b, channel_axis=0, data_range=1.0) for a, b in pairs]


def figures(chain: Transform, x: Tensor, y: Tensor, nets: Sequence[Classifier]) -> Figures:
    """Of `chain` on the images x (N, 3, H, W) with labels y (N,)."""
    key = Key.root(0, range(len(x))).fold("table1")
    rms, ssim, right = [], [], []
    with torch.no_grad():
        for i in range(0, len(x), BATCH):
            some = x[i : i + BATCH]
            shape = (some.shape[1], some.shape[2], some.shape[3])
            seen = chain.forward(some, chain.draw(key[i : i + BATCH], shape))
            rms.append(l2(seen.double() - some.double()) / some[0].numel() ** 0.5)
            ssim += similarity(some, seen)
            hits = [net(seen).argmax(1) == y[i : i + BATCH] for net in nets]
            right.append(torch.stack(hits).double())
    accuracy = torch.cat(right, 1).mean(1)
    return Figures(float(torch.cat(rms).mean()), float(np.mean(ssim)), tuple(accuracy.tolist()))


def table(x: Tensor, y: Tensor, nets: Sequence[Classifier], rows: Sequence[Row] = ROWS) -> Table:
    """Published | as released | aligned."""
    heads = [f"{net.name} %" for net in nets]
    shown = Table(title=f"clean images, n = {len(x)}: published | as released | aligned")
    for head in ("defense", "RMS", "SSIM", *heads):
        shown.add_column(head, justify="left" if head == "defense" else "right")
    for row in rows:
        found = [figures(parse_chain(spec), x, y, nets) for spec in (row.released, row.aligned)]
        shown.add_row(row.name, *_cells(row, found, len(nets)))
    return shown


def _cells(row: Row, found: Sequence[Figures], nets: int) -> list[str]:
    """RMS, SSIM, and the accuracy under each network; "-" for what is not known."""

    def three(published: float | None, values: Sequence[float], digits: int) -> str:
        known = "-" if published is None else f"{published:.{digits}f}"
        return " | ".join([known, *(f"{v:.{digits}f}" for v in values)])

    accuracy = [" | ".join(f"{100 * f.accuracy[k]:.0f}" for f in found) for k in range(nets)]
    return [
        three(row.rms, [f.rms for f in found], 4),
        three(row.ssim, [f.ssim for f in found], 3),
        *accuracy,
    ]


def main(n: int = 100) -> None:
    """Print the table of the first `n` photographs."""
    x, y, _ = load_images(f"nips2017:path={DATA / 'imagenet_nips2017'}").take(range(n))
    nets = [
        load_model(f"file:{DATA / 'imagenet_mobilenet_v2_fp16.safetensors'}"),
        load_model("efficientnet-lite0"),
    ]
    Console(width=140).print(table(x, y, nets))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
