"""CIFAR-10 and CIFAR-100, as their authors publish them: binary or Python layout."""

from __future__ import annotations

import io
import pickle
import tarfile
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch

from besiege.core.errors import BadImages, BadSetting
from besiege.core.files import existing
from besiege.data.download import fetched
from besiege.data.images import ImageSet
from besiege.data.members import MOST_BYTES, check_safe, open_members

HOME = "https://www.cs.toronto.edu/~kriz/"
PIXELS = 3 * 32 * 32
Contents = dict[str, bytes]  # file name without folders -> bytes


@dataclass(frozen=True)
class _Kind:
    """One of the two sets. files: part -> names without .bin. SHA-256: TensorFlow Datasets."""

    name: str
    files: dict[str, tuple[str, ...]]
    archive: str
    sha256: str
    label: str  # key of the labels in a pickle
    column: int  # byte of the label in a binary record
    columns: int  # bytes before the pixels
    meta: str  # pickle with the class names
    meta_key: str
    names: str  # text file with the class names


def cifar10(path: str, part: str = "test", download: bool = False) -> ImageSet:
    """CIFAR-10: 32 x 32 photographs of 10 classes, 10,000 to test and 50,000 to train.

    path: a folder with the files of the binary or Python version, or with its archive, or that
    .tar.gz. part: "test" or "train". Ids follow the files: data_batch_1 first. download: fetch the
    binary version (170 MB) into `path` if it is missing. Pickles are read without running code.
    Source: Krizhevsky 2009, Learning Multiple Layers of Features from Tiny Images.
    """
    train = tuple(f"data_batch_{i}" for i in range(1, 6))
    kind = _Kind(
        "cifar10",
        {"test": ("test_batch",), "train": train},
        "cifar-10-binary.tar.gz",
        "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
        "labels",
        0,
        1,
        "batches.meta",
        "label_names",
        "batches.meta.txt",
    )
    return _cifar(kind, path, part, download)


def cifar100(
    path: str, part: str = "test", labels: str = "fine", download: bool = False
) -> ImageSet:
    """CIFAR-100: 32 x 32 photographs of 100 classes, 10,000 to test and 50,000 to train.

    labels: "fine" (100 classes) or "coarse" (20 groups of five). The rest as for cifar10.
    Source: Krizhevsky 2009, Learning Multiple Layers of Features from Tiny Images.
    """
    if labels not in ("fine", "coarse"):
        raise BadSetting(f'labels of cifar100 must be "fine" or "coarse", not "{labels}".')
    kind = _Kind(
        "cifar100",
        {"test": ("test",), "train": ("train",)},
        "cifar-100-binary.tar.gz",
        "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
        f"{labels}_labels",
        1 if labels == "fine" else 0,
        2,
        "meta",
        f"{labels}_label_names",
        f"{labels}_label_names.txt",
    )
    return _cifar(kind, path, part, download)


def _cifar(kind: _Kind, path: str, part: str, download: bool) -> ImageSet:
    if part not in kind.files:
        raise BadSetting(f'part of {kind.name} must be "test" or "train", not "{part}".')
    if download:
        path = str(fetched(HOME + kind.archive, kind.sha256, path))
    files = kind.files[part]
    binary = (*(f"{f}.bin" for f in files), kind.names)
    python = (*files, kind.meta)
    where, found = _contents(existing(path, kind.name, BadImages), kind, (binary, python))
    if kind.names in found:
        batches = [_from_records(kind, found[f], f'"{where}": {f}') for f in binary[:-1]]
        classes = found[kind.names].decode().split()
    else:
        batches = [_from_pickle(kind, found[f], f'"{where}": {f}') for f in files]
        meta = unpickled(found[kind.meta], f'"{where}": {kind.meta}')
        classes = [str(n) for n in _entry(meta, kind.meta_key, f'"{where}": {kind.meta}')]
    images = np.concatenate([x for x, _ in batches]).reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    y = torch.from_numpy(np.concatenate([y for _, y in batches]))
    x = torch.from_numpy(np.ascontiguousarray(images))
    return ImageSet.of_bytes(x, y, classes, name=f"{kind.name} ({part})")


def _contents(
    path: Path, kind: _Kind, layouts: tuple[tuple[str, ...], ...]
) -> tuple[Path, Contents]:
    """The files of the first of the `layouts` that is complete in one folder, and where."""
    if path.is_file():
        found = _from_archive(path, {name for layout in layouts for name in layout})
        for layout in layouts:
            if set(layout) <= found.keys():
                return path, {name: found[name] for name in layout}
        raise BadImages(f'"{path}" lacks {_missing(layouts, found)}.')
    members = open_members(path, kind.name)
    folders = sorted({PurePosixPath(n).parent for n in members.sizes})
    for layout in layouts:
        for folder in folders:
            names = {name: str(folder / name) for name in layout}
            if all(n in members.sizes for n in names.values()):
                return path / folder, {k: members.read(n) for k, n in names.items()}
    for archive in (kind.archive, kind.archive.replace("binary", "python")):
        if archives := members.named(archive):
            return _contents(path / archives[0], kind, layouts)
    raise BadImages(
        f'"{path}" is not {kind.name}: it lacks {_missing(layouts, members.sizes)}, and '
        f"{kind.archive} as well. Get that from {HOME}cifar.html, or say download=true."
    )


def _missing(layouts: tuple[tuple[str, ...], ...], found: Iterable[str]) -> str:
    here = {PurePosixPath(name).name for name in found}
    lacks = [next(iter(n for n in names if n not in here), names[0]) for names in layouts]
    return f'"{lacks[0]}" (binary version) and "{lacks[1]}" (Python version)'


def _from_archive(path: Path, wanted: set[str]) -> Contents:
    """The files `wanted` of a .tar, compressed or not, read in one pass; nothing is extracted."""
    found: Contents = {}
    try:
        with tarfile.open(path, "r:*") as archive:
            for info in archive:
                name = PurePosixPath(check_safe(info.name, path)).name
                if info.isreg() and name in wanted and info.size <= MOST_BYTES:
                    file = archive.extractfile(info)
                    found[name] = file.read() if file else b""
    except (OSError, EOFError, tarfile.TarError, zlib.error) as error:
        raise BadImages(f'"{path}" is not a readable .tar.gz ({error}): fetch it anew.') from error
    return found


def _from_records(kind: _Kind, data: bytes, where: str) -> tuple[np.ndarray, np.ndarray]:
    """uint8 (N, 3072) and int64 (N,) of a binary file."""
    size = kind.columns + PIXELS
    if not data or len(data) % size:
        raise BadImages(
            f"{where} has {len(data)} bytes, no multiple of {size} (a record of {kind.name}): "
            "it is truncated or another file."
        )
    records = np.frombuffer(data, np.uint8).reshape(-1, size)
    return records[:, kind.columns :], records[:, kind.column].astype(np.int64)


def _from_pickle(kind: _Kind, data: bytes, where: str) -> tuple[np.ndarray, np.ndarray]:
    """uint8 (N, 3072) and int64 (N,) of a file of the Python version."""
    batch = unpickled(data, where)
    images = _entry(batch, "data", where)
    labels = np.asarray(_entry(batch, kind.label, where))
    if not isinstance(images, np.ndarray) or images.dtype != np.uint8 or images.ndim != 2:
        raise BadImages(f'"data" in {where} must be a uint8 array (N, {PIXELS}).')
    if images.shape[1] != PIXELS or labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise BadImages(
            f'{where}: "data" {images.shape} and "{kind.label}" {labels.shape} of {labels.dtype} '
            f"must be (N, {PIXELS}) and (N,) integers."
        )
    return images, labels.astype(np.int64)


def _entry(table: Any, key: str, where: str) -> Any:
    if not isinstance(table, dict):
        raise BadImages(f"{where} holds no table, but {type(table).__name__}.")
    found = {k.decode("latin1") if isinstance(k, bytes) else k: v for k, v in table.items()}
    if key not in found:
        raise BadImages(f'{where} lacks "{key}"; it has {", ".join(map(str, found))}.')
    value = found[key]
    return value.array if isinstance(value, _Array) else value


class _Dtype:
    """Stands for numpy.dtype: an untrusted state never reaches NumPy's own."""

    def __init__(self, code: str, *_: Any) -> None:
        self.code: Any = code
        self.order: Any = "="

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = state[1]

    def read(self, data: bytes | str, shape: tuple[int, ...], order: str) -> np.ndarray:
        """The array in `data` (Python 2 has its bytes as text), integers alone."""
        dtype = np.dtype(str(self.code)).newbyteorder(self.order)
        if dtype.kind not in "iu":
            raise ValueError(f"an array of {self.code}")
        raw = data.encode("latin1") if isinstance(data, str) else data
        return np.frombuffer(raw, dtype).reshape(shape, order="F" if order == "F" else "C")


class _Array:
    """Stands for an array that is made empty and then given its state."""

    def __init__(self, *_: Any) -> None:
        self.array = np.empty(0, np.uint8)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, fortran, data = state
        self.array = dtype.read(data, shape, "F" if fortran else "C")


def _from_buffer(data: bytes, dtype: _Dtype, shape: tuple[int, ...], order: str) -> _Array:
    made = _Array()
    made.array = dtype.read(data, shape, order)
    return made


def _latin1(text: str, encoding: str) -> bytes:
    """Bytes as a pickle of protocol 2 or lower holds them."""
    if encoding != "latin1":
        raise ValueError(f"bytes in the encoding {encoding}")
    return text.encode("latin1")


# All that a pickle may name, as Python 2 and 3 and NumPy 1 and 2 do, and what stands for it here.
ALLOWED = {
    **{(f"numpy.{c}.multiarray", "_reconstruct"): _Array for c in ("core", "_core")},
    **{(f"numpy.{c}.numeric", "_frombuffer"): _from_buffer for c in ("core", "_core")},
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
    ("_codecs", "encode"): _latin1,
}


class _Arrays(pickle.Unpickler):
    """Reads arrays, tables, lists, text and numbers, and refuses every other name."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ALLOWED:
            raise BadImages(
                f"it asks to run {module}.{name}. Files of CIFAR hold arrays and lists alone, and "
                "nothing was run: delete it, open it nowhere else, and get the set anew."
            )
        return ALLOWED[module, name]


def unpickled(data: bytes, where: str) -> Any:
    """What a pickle holds: builtin values, and `_Array` for arrays; it can run nothing else.

    Raises BadImages, naming the file `where`.
    """
    try:
        return _Arrays(io.BytesIO(data), encoding="latin1").load()
    except BadImages as error:
        raise BadImages(f"{where} is refused: {error}") from None
    except Exception as error:  # damaged pickles raise whatever they meet
        raise BadImages(f"{where} is not a readable pickle ({error}): fetch it anew.") from error
