"""The protocol of every data set: images by id, the same image for an id whatever the batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from hashlib import blake2b
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from besiege.core.errors import BadImages, BadSetting, several
from besiege.core.key import Key

T = TypeVar("T")


class Images(NamedTuple):
    """A batch: x (B, C, H, W) float32 in [0, 1]; y (B,) int64; targets (B,) int64 where given."""

    x: Tensor
    y: Tensor
    targets: Tensor | None


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Labelled images with the ids 0 .. len - 1; an id always names the same image.

    classes: names in label order. shape: (C, H, W) of every image. labels: (N,) int64.
    targets: (N,) int64, the labels that a targeted attack is to reach, where the set gives them.
    pixels: ids (B,) int64 -> images (B, C, H, W) float32 in [0, 1].
    digest: 16 hex digits that name the content, or "" where nothing cheap does. In memory: over the
    bytes of pixels, labels and targets. Files: over their names and sizes instead of their bytes
    (and not their times, which differ between machines), labels, targets and how they are decoded.

    >>> images = ImageSet.of(torch.zeros(3, 1, 2, 2), torch.tensor([0, 1, 1]))
    >>> len(images), images.take([2]).y
    (3, tensor([1]))
    """

    name: str
    classes: tuple[str, ...]
    shape: tuple[int, int, int]
    labels: Tensor
    pixels: Callable[[Tensor], Tensor]
    targets: Tensor | None = None
    digest: str = ""

    def __post_init__(self) -> None:
        for what, values in (("label", self.labels), ("target", self.targets)):
            if values is None:
                continue
            if values.dtype != torch.int64 or values.shape != (len(self.labels),):
                raise BadImages(
                    f"{what}s of {self.name} must be int64, ({len(self.labels)},), not "
                    f"{values.dtype}, {tuple(values.shape)}."
                )
            wrong = (values < 0) | (values >= len(self.classes))
            if len(bad := wrong.nonzero()):
                raise BadImages(
                    f"{what} {values[bad[0, 0]]} of image {bad[0, 0]} of {self.name} is none of "
                    f"its {len(self.classes)} classes (0 to {len(self.classes) - 1}); "
                    f"{len(bad)} such."
                )

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, ids: Sequence[int] | Tensor) -> Images:
        """The images `ids` (B,), in that order. Raises BadImages for an id that is not there."""
        index = torch.as_tensor(ids, dtype=torch.int64).reshape(-1).cpu()
        if len(bad := index[(index < 0) | (index >= len(self))]):
            raise BadImages(
                f"{self.name} has no image {bad[0]}: its ids go from 0 to {len(self) - 1}."
            )
        targets = None if self.targets is None else self.targets[index]
        x = self.pixels(index) if len(index) else torch.empty(0, *self.shape)
        return Images(x, self.labels[index], targets)

    def subset(self, n: int, seed: int = 0) -> ImageSet:
        """`n` of the images, ranked by a number that depends on `seed` and the image's id alone.

        Under one seed subset(10) is how subset(20) begins. The ids of the result are the ranks
        0 .. n - 1. Raises BadSetting unless 1 <= n <= len.
        """
        if not 1 <= n <= len(self):
            raise BadSetting(
                f"A subset of {self.name} holds 1 to {len(self)} images (all it has), not {n}."
            )
        key = Key.root(seed, torch.arange(len(self))).fold("subset")
        ids = key.uniform(dtype=torch.float64).argsort(stable=True)[:n]
        return replace(
            self,
            name=f"{self.name} ({n} of {len(self)}, seed {seed})",
            labels=self.labels[ids],
            pixels=partial(_chosen, self.pixels, ids),
            targets=None if self.targets is None else self.targets[ids],
            digest=self.digest and fingerprint(self.digest, ids),
        )

    @classmethod
    def of(
        cls,
        x: Tensor,
        y: Tensor,
        classes: int | Sequence[str] | None = None,
        targets: Tensor | None = None,
        name: str = "images",
    ) -> ImageSet:
        """Images in memory: x (N, C, H, W) float32 in [0, 1], y (N,) int64.

        classes: names or number; by default as many as the largest label needs.
        Raises BadImages, naming the first image that is wrong.
        """
        checked(x, name)
        if len(x) != len(y):
            raise BadImages(f"{name}: {len(x)} images, but {len(y)} labels.")
        if classes is None:
            every = torch.cat([y.flatten(), y.new_zeros(1) if targets is None else targets])
            classes = int(every.max()) + 1
        names = map(str, range(classes)) if isinstance(classes, int) else classes
        shape = (x.shape[1], x.shape[2], x.shape[3])
        digest = fingerprint(x, y, "" if targets is None else targets)
        return cls(name, tuple(names), shape, y, x.__getitem__, targets, digest)

    @classmethod
    def of_bytes(
        cls,
        images: Tensor,
        y: Tensor,
        classes: Sequence[str],
        targets: Tensor | None = None,
        name: str = "images",
    ) -> ImageSet:
        """8-bit images in memory, made float when taken: images uint8 (N, H, W, C), y (N,) int64.

        Raises BadImages for labels that do not fit.
        """
        if len(images) != len(y):
            raise BadImages(f"{name} holds {len(images)} images, but {len(y)} labels.")
        height, width, channels = images.shape[1:]
        digest = fingerprint(images, y, "" if targets is None else targets)
        pixels = partial(_from_memory, images)
        return cls(name, tuple(classes), (channels, height, width), y, pixels, targets, digest)


def audit(images: ImageSet) -> list[tuple[int, str]]:
    """The images that cannot be taken, as (id, why) in the order of ids; empty if all can.

    Cost: each image is read and decoded once, one at a time, and none is kept.
    """
    found = []
    for i in range(len(images)):
        try:
            images.take([i])
        except BadImages as error:
            found.append((i, str(error)))
    return found


def each(read: Callable[[int], T], ids: Tensor) -> list[T]:
    """read(id) for every id. Raises BadImages, naming those that raise it (`several`)."""
    found, bad = [], []
    for i in ids.tolist():
        try:
            found.append(read(i))
        except BadImages as error:
            bad.append(str(error))
    if bad:
        raise BadImages(several(bad))
    return found


def fingerprint(*parts: str | Tensor) -> str:
    """16 hex digits over `parts` and where each ends; tensors count with dtype and shape.

    >>> fingerprint("ab", "c") == fingerprint("a", "bc")
    False
    """
    state = blake2b(digest_size=8)
    for part in parts:
        if isinstance(part, Tensor):
            state.update(f"{part.dtype} {tuple(part.shape)}\0".encode())
            flat = part.detach().cpu().contiguous().numpy().reshape(-1)
            state.update(flat.view(np.uint8).data)
        else:
            data = part.encode("utf-8", "surrogateescape")
            state.update(f"text {len(data)}\0".encode() + data)
    return state.hexdigest()


def _chosen(pixels: Callable[[Tensor], Tensor], ids: Tensor, index: Tensor) -> Tensor:
    return pixels(ids[index])


def _from_memory(images: Tensor, ids: Tensor) -> Tensor:
    return from_bytes(images[ids])


def checked(x: Tensor, name: str = "images") -> Tensor:
    """`x` itself, if it is images: (N, C, H, W) float32, finite, in [0, 1].

    Raises BadImages, naming the first image that is wrong.
    """
    if x.ndim != 4 or x.dtype != torch.float32:
        raise BadImages(
            f"{name} must be float32 (N, C, H, W) in [0, 1], not {x.dtype} {tuple(x.shape)}."
        )
    inside = (x >= 0) & (x <= 1)
    if len(bad := (~inside.flatten(1).all(1)).nonzero()):
        first = int(bad[0])
        values = x[first][~inside[first]]
        raise BadImages(
            f"image {first} of {name} has the value {values[0]:.6g} ({len(values)} such, in "
            f"{len(bad)} images); pixels must lie in [0, 1]: divide 8-bit images by 255."
        )
    return x


def from_bytes(images: Tensor) -> Tensor:
    """uint8 (B, H, W, C) -> float32 (B, C, H, W) in [0, 1].

    >>> from_bytes(torch.tensor([[[[255, 51]]]], dtype=torch.uint8)).flatten()
    tensor([1.0000, 0.2000])
    """
    return images.permute(0, 3, 1, 2).contiguous().float() / 255
