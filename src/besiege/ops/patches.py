"""Databases of square image patches: a .npy file read where it lies, or a built-in small one."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property, lru_cache
from hashlib import blake2b
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_sample_image
from torch import Tensor

from besiege.core.errors import BadImages, BadSetting
from besiege.core.files import existing

BUILT_IN = 4096  # patches
CHANNELS = (1, 3)
PHOTOGRAPHS = ("china.jpg", "flower.jpg")


@dataclass(frozen=True, eq=False)
class Patches:
    """Patches of `size` x `size` pixels: pixels uint8 (N, channels * size * size), channels first.

    `load` and `built_in` give the same object each time, so that what is made of it can be kept.
    """

    pixels: Tensor
    channels: int
    size: int

    @cached_property
    def digest(self) -> str:
        """16 hex digits over shape and content. Cost: the first time, all of it is read."""
        state = blake2b(f"{tuple(self.pixels.shape)}".encode(), digest_size=8)
        for part in torch.split(self.pixels, 1 << 16):
            state.update(part.contiguous().numpy().data)
        return state.hexdigest()

    def seen(self, channels: int, device: torch.device) -> Tensor:
        """The patches as images of `channels` see them, on `device`.

        Grey is the mean of the colours, rounded to whole levels; colours of a grey patch are equal.
        Raises BadImages for other numbers of channels than 1 and 3.
        """
        if channels not in (self.channels, *CHANNELS):
            raise BadImages(
                f"the patches have {self.channels} channels and fit images of 1 or 3, not of "
                f"{channels}: build a database from such images, or convert these."
            )
        return _seen(self, channels, device)


@lru_cache(maxsize=8)
def _seen(patches: Patches, channels: int, device: torch.device) -> Tensor:
    pixels = patches.pixels
    if channels != patches.channels:
        planes = [_converted(p, patches.channels, channels) for p in torch.split(pixels, 1 << 16)]
        pixels = torch.cat(planes)
    return pixels.to(device)


def _converted(pixels: Tensor, channels: int, to: int) -> Tensor:
    planes = pixels.reshape(len(pixels), channels, -1)
    if to == 1:
        planes = ((planes.int().sum(1) + channels // 2) // channels).to(torch.uint8)[:, None]
    return planes.expand(-1, to, -1).flatten(1)


def load(path: str, size: int) -> Patches:
    """The database in the .npy file at `path`, mapped into memory: uint8 (N, C * size * size).

    The number of channels, 1 or 3, follows from the number of columns. A file that changes is read
    anew. Raises BadSetting for anything else, naming the file.
    """
    found = existing(path, "patch database", BadSetting).resolve()
    status = os.stat(found)
    return _load(found, size, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=8)
def _load(path: Path, size: int, changed: int, length: int) -> Patches:
    how = "write it by `besiege quilt build`."
    try:
        # Copy on write: never written to, but torch wants memory that could be.
        array = np.load(path, mmap_mode="c", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise BadSetting(f'"{path}" is no patch database ({error}): {how}') from error
    channels = {c * size * size: c for c in CHANNELS}
    if (
        array.dtype != np.uint8
        or array.ndim != 2
        or array.shape[1] not in channels
        or not len(array)
    ):
        raise BadSetting(
            f'"{path}" holds {array.dtype} {array.shape}; a database of patches of {size} x {size} '
            f"is uint8 (N, {' or '.join(map(str, channels))}): {how}"
        )
    return Patches(torch.from_numpy(array), channels[array.shape[1]], size)


@lru_cache(maxsize=4)
def built_in(size: int) -> Patches:
    """Patches at regular distances from the two photographs of scikit-learn, colour.

    Enough for a trial; a defense that is to be good, or to be judged, has a database of its own.
    """
    each = BUILT_IN // len(PHOTOGRAPHS)
    parts = []
    for name in PHOTOGRAPHS:
        image = torch.from_numpy(np.array(load_sample_image(name))).permute(2, 0, 1)
        windows = image.unfold(1, size, 1).unfold(2, size, 1)
        _, rows, columns = windows.shape[:3]
        spots = torch.arange(each) * (rows * columns) // each
        parts.append(windows[:, spots // columns, spots % columns].transpose(0, 1).flatten(1))
    return Patches(torch.cat(parts).contiguous(), 3, size)
