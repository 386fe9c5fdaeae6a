"""A database of patches cut from an image set at random places."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from besiege.core.errors import BadImages, BadSetting
from besiege.core.key import Key
from besiege.data.images import ImageSet
from besiege.ops.patches import Patches, load

BATCH = 64  # images held at once


def build(
    images: ImageSet,
    path: Path,
    count: int,
    size: int = 5,
    seed: int = 0,
    force: bool = False,
    on_done: Callable[[int], None] | None = None,
) -> tuple[Patches, dict[int, str]]:
    """Write `count` patches of `size` x `size` pixels to the .npy file `path`.

    The file holds uint8 (N, C * size^2), pixels rounded to 8 bits. Every patch has an image and a
    place of its own, all alike, which depend on seed, row and the number of images alone: a smaller
    database is how a larger one begins. Beside it stands a .json of the same name that says what
    it was made of. An image that cannot be read is passed over, and its patches are drawn anew
    from others.
    on_done: told the number of patches that are written.

    Returns the database, and why images were passed over, by id.
    Raises BadSetting for settings and for a file that is there (unless `force`), BadImages for
    images smaller than a patch, and if none can be read.
    Cost: each image that is hit is decoded once; memory that of 64 images, and 24 bytes a patch.
    """
    _check(images, path, count, size, force)
    written = path.with_name(f".{path.name}.part")
    try:
        bad = _write(images, written, count, size, seed, on_done)
        os.replace(written, path)
    finally:
        written.unlink(missing_ok=True)
    base = load(str(path), size)
    about = {
        "patches": count,
        "size": size,
        "channels": images.shape[0],
        "digest": base.digest,
        "seed": seed,
        "source": images.name,
        "source_digest": images.digest,
        "source_images": len(images),
        "passed_over": sorted(bad),
    }
    path.with_suffix(".json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    return base, bad


def _check(images: ImageSet, path: Path, count: int, size: int, force: bool) -> None:
    if path.suffix != ".npy":
        raise BadSetting(f'a patch database is a .npy file, not "{path}".')
    if not path.parent.is_dir():
        raise BadSetting(f'there is no folder "{path.parent}" to write "{path.name}" in: make it.')
    if path.exists() and not force:
        raise BadSetting(f'"{path}" is there already: give another name, or --force to replace it.')
    if count < 1:
        raise BadSetting(f"a database has at least 1 patch, not {count}.")
    channels, *sides = images.shape
    if not 2 <= size <= 9:
        raise BadSetting(f"the size of patches is a number from 2 to 9 (pixels), got {size}.")
    if min(sides) < size:
        raise BadImages(
            f"{images.name} has images of {sides[0]} x {sides[1]} pixels, smaller than patches of "
            f"{size} x {size}."
        )
    if channels not in (1, 3):
        raise BadImages(f"{images.name} has {channels} channels; patches have 1 or 3.")


def _write(
    images: ImageSet,
    path: Path,
    count: int,
    size: int,
    seed: int,
    on_done: Callable[[int], None] | None,
) -> dict[int, str]:
    """Fill the file, in rounds: each draws anew what the one before met in unreadable images."""
    channels, height, width = images.shape
    shape = (count, channels * size * size)
    array = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape)
    bad: dict[int, str] = {}
    missing, done = torch.arange(count), 0
    while len(missing):
        good = torch.tensor([i for i in range(len(images)) if i not in bad])
        if not len(good):
            why = f" The first: {bad[min(bad)]}" if bad else ""
            raise BadImages(f"{images.name} has no image to cut patches from.{why}")
        key = Key.root(seed, missing).fold("patches", len(bad))
        source = good[key.fold("image").integers(len(good))]
        top = key.fold("row").integers(height - size + 1)
        left = key.fold("column").integers(width - size + 1)
        order = source.argsort(stable=True)
        lost = []
        for ids, part in _batches(source[order], order):
            x, kept = _readable(images, ids, bad)
            spot = torch.searchsorted(ids, source[part])
            lost.append(part[~kept[spot]])
            part, spot = part[kept[spot]], spot[kept[spot]]
            spot = (kept.cumsum(0) - 1)[spot]
            array[missing[part].numpy()] = _cut(x, spot, top[part], left[part], size).numpy()
            done += len(part)
            if on_done:
                on_done(done)
        missing = missing[torch.cat(lost)]
    array.flush()
    return bad


def _batches(source: Tensor, order: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Some images in order of ids, and which patches are theirs."""
    ids, counts = torch.unique_consecutive(source, return_counts=True)
    ends = counts.cumsum(0)
    for start in range(0, len(ids), BATCH):
        some = slice(start, start + BATCH)
        first = int(ends[start] - counts[start])
        yield ids[some], order[first : int(ends[some][-1])]


def _readable(images: ImageSet, ids: Tensor, bad: dict[int, str]) -> tuple[Tensor, Tensor]:
    """Those of the images `ids` that can be read, 8 bits (B, C, H, W), and which they are."""
    kept = torch.ones(len(ids), dtype=torch.bool)
    try:
        found = [images.take(ids).x]
    except BadImages:
        found = []
        for n, i in enumerate(ids.tolist()):  # one by one, to learn which
            try:
                found.append(images.take([i]).x)
            except BadImages as error:
                bad[i], kept[n] = str(error), False
    x = torch.cat(found) if found else torch.empty(0, *images.shape)
    return (x * 255).round().to(torch.uint8), kept


def _cut(x: Tensor, spot: Tensor, top: Tensor, left: Tensor, size: int) -> Tensor:
    """Squares of x (B, C, H, W), as rows (N, C * size^2)."""
    windows = x.unfold(2, size, 1).unfold(3, size, 1)
    return windows[spot, :, top, left].flatten(1)
