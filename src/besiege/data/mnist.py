"""MNIST and Fashion-MNIST, from the idx files in which they are published."""

from __future__ import annotations

import gzip
import io
import math
import zlib

import numpy as np
import torch

from besiege.core.errors import BadImages, BadSetting
from besiege.data.download import fetched
from besiege.data.images import ImageSet
from besiege.data.members import MOST_BYTES, Members, open_members

DIGITS = tuple(str(i) for i in range(10))
FASHION = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
# kind -> (class names, address, file -> SHA-256); the hashes are those of TensorFlow Datasets
KINDS = {
    "digits": (
        DIGITS,
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
        {
            "train-images": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
            "train-labels": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
            "t10k-images": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
            "t10k-labels": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
        },
    ),
    "fashion": (
        FASHION,
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        {
            "train-images": "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
            "train-labels": "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
            "t10k-images": "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
            "t10k-labels": "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
        },
    ),
}


def mnist(path: str, part: str = "test", kind: str = "digits", download: bool = False) -> ImageSet:
    """Grey images of 28 x 28 in 10 classes, 10,000 to test and 60,000 to train.

    path: a folder in or below which the idx files lie, plain or .gz (of both, the plain one is
    read). part: "test" or "train". kind: "digits" or "fashion", which differ in class names and
    download alone: the files have the same names. Ids follow the files. download: fetch what is
    missing (11 or 30 MB) into `path`.
    Source: LeCun et al. 1998, Gradient-based learning; Xiao et al. 2017, arXiv:1708.07747.
    """
    if part not in ("test", "train") or kind not in KINDS:
        raise BadSetting(
            f'mnist has the parts "test" and "train" and the kinds "digits" and "fashion": got '
            f'"{part}" and "{kind}".'
        )
    stem = "t10k" if part == "test" else "train"
    classes, home, hashes = KINDS[kind]
    if download:
        for what in ("images-idx3", "labels-idx1"):
            digest = hashes[f"{stem}-{what.partition('-')[0]}"]
            fetched(f"{home}{stem}-{what}-ubyte.gz", digest, path)
    members = open_members(path, "mnist")
    images = _read(members, f"{stem}-images", 3)
    labels = _read(members, f"{stem}-labels", 1)
    return ImageSet.of_bytes(
        torch.from_numpy(images.copy())[..., None],
        torch.from_numpy(labels.astype(np.int64)),
        classes,
        name=f"mnist {kind} ({part})",
    )


def _read(members: Members, stem: str, axes: int) -> np.ndarray:
    """The uint8 array of `axes` axes in the idx file `stem`."""
    plain = [f"{stem}{dash}idx{axes}-ubyte" for dash in ("-", ".")]
    found = [m for name in plain for m in members.named(name)]
    found = found or [m for name in plain for m in members.named(f"{name}.gz")]
    if len(found) != 1:
        here = f"{len(found)} files ({', '.join(found)}) of" if found else "no file"
        raise BadImages(
            f'"{members.where}" holds {here} {plain[0]} or {plain[0]}.gz; exactly one is needed: '
            "name the folder that holds it, or say download=true."
        )
    where, data = f'"{members.where / found[0]}"', members.read(found[0])
    if found[0].endswith(".gz"):
        try:
            with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
                data = file.read(MOST_BYTES)
        except (OSError, EOFError, zlib.error) as error:
            raise BadImages(f"{where} is not a readable .gz ({error}): fetch it anew.") from error
    return _idx(data, axes, where)


def _idx(data: bytes, axes: int, where: str) -> np.ndarray:
    """Zero, zero, type (8: uint8), number of axes; then their lengths, 4 bytes each, big-endian."""
    head = 4 + 4 * axes
    if len(data) < head or data[:4] != bytes([0, 0, 8, axes]):
        raise BadImages(
            f"{where} is no idx file of bytes with {axes} axes: it begins with "
            f"{data[:4].hex(' ') or 'nothing'}, not 00 00 08 0{axes}."
        )
    shape = tuple(np.frombuffer(data, ">u4", axes, 4).tolist())
    if len(data) != head + math.prod(shape):
        raise BadImages(
            f"{where} has {len(data)} bytes, but {head + math.prod(shape)} were announced "
            f"({shape}): it is truncated or damaged; fetch it anew."
        )
    return np.frombuffer(data, np.uint8, offset=head).reshape(shape)
