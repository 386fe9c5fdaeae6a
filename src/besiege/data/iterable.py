"""Any Python collection of (image, label), as data sets of torch or Hugging Face are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from besiege.core.errors import BadImages
from besiege.data.images import ImageSet, checked, each, from_bytes
from besiege.data.pictures import converted, pixels


def from_iterable(
    items: Iterable[Any],
    classes: Sequence[str] | None = None,
    labels: Sequence[int] | None = None,
    name: str = "items",
    columns: tuple[str, str] = ("image", "label"),
) -> ImageSet:
    """The pairs (image, label) of `items`, or tables with the `columns` of the two.

    An image is a PIL image, a uint8 array (H, W, C) or (H, W), or a float tensor (C, H, W) in
    [0, 1]; all have the size of the first. Grey images become RGB where the first is RGB. EXIF
    orientation is not applied, and modes are treated as in besiege.data.pictures.converted.
    What has a length and is indexed is read again whenever an id is taken, so it must not augment:
    the first item is read twice to see. Any other iterable is read once and kept. classes: names;
    by default as many as the largest label needs. labels: spares reading every item now, as
    `dataset.targets` of torchvision. A Hugging Face data set has its column read instead.
    The result has no digest. Raises BadImages, naming the item.
    """
    indexed = hasattr(items, "__getitem__") and hasattr(items, "__len__")
    kept: Any = items if indexed else list(items)
    if not (count := len(kept)):
        raise BadImages(f"{name} holds no items.")
    if labels is None and hasattr(kept, "column_names"):
        labels = kept[columns[1]]
    pairs = _Pairs(kept, columns, name)
    given = pairs.labels() if labels is None else labels
    y = torch.tensor([_label(v, i, name) for i, v in enumerate(given)], dtype=torch.int64)
    if len(y) != count:
        raise BadImages(f"{name}: {count} items, but {len(y)} labels.")
    first, again = pairs.image(0), pairs.image(0)
    if not torch.equal(first, again):
        raise BadImages(
            f"item 0 of {name} differs when it is read again: take the data set without "
            "augmentation, since an id must always give the same image."
        )
    names = classes if classes is not None else [str(i) for i in range(int(y.max()) + 1)]
    shape = (first.shape[0], first.shape[1], first.shape[2])
    return ImageSet(name, tuple(names), shape, y, _Pixels(pairs, shape))


@dataclass(frozen=True)
class _Pairs:
    """Items by number."""

    items: Any
    columns: tuple[str, str]
    name: str

    def _item(self, i: int) -> Any:
        try:
            return self.items[i]
        except Exception as error:  # a stranger's code
            raise BadImages(f"item {i} of {self.name} cannot be read ({error!r}).") from error

    def _part(self, i: int, part: int) -> Any:
        item = self._item(i)
        key = self.columns[part] if isinstance(item, Mapping) else part
        try:
            return item[key]
        except (KeyError, IndexError, TypeError) as error:
            has = f"columns {list(item)}" if isinstance(item, Mapping) else type(item).__name__
            raise BadImages(
                f"item {i} of {self.name} is no pair (image, label) nor a table with the columns "
                f"{self.columns}: it has {has}; name others with columns=(IMAGE, LABEL)."
            ) from error

    def labels(self) -> list[Any]:
        """The label of each item."""
        return [self._part(i, 1) for i in range(len(self.items))]

    def image(self, i: int, channels: int = 0) -> Tensor:
        """float32 (C, H, W); channels: those of the set, 0 for those of the image itself."""
        where = f"item {i} of {self.name}"
        value = self._part(i, 0)
        if isinstance(value, Image.Image):
            return _from_pillow(value, channels, where)
        if isinstance(value, np.ndarray) and value.dtype == np.uint8 and value.ndim in (2, 3):
            x = from_bytes(torch.from_numpy(np.atleast_3d(value).copy())[None])[0]
        elif isinstance(value, Tensor) and value.is_floating_point() and value.ndim == 3:
            x = checked(value.detach().cpu().float()[None], where)[0]
        else:
            kind = f"{getattr(value, 'dtype', '')} {tuple(getattr(value, 'shape', ()))}".strip()
            raise BadImages(
                f"{where} must be a PIL image, a uint8 array (H, W, C) or a float tensor (C, H, W) "
                f"in [0, 1], not {type(value).__name__} {kind}."
            )
        if len(x) not in (1, 3):
            raise BadImages(
                f"{where} has {len(x)} channels, not 1 or 3 (arrays are (H, W, C), tensors "
                "(C, H, W))."
            )
        return x.expand(3, -1, -1) if channels == 3 else x


@dataclass(frozen=True)
class _Pixels:
    """Ids (B,) -> float32 (B, C, H, W)."""

    pairs: _Pairs
    shape: tuple[int, int, int]

    def __call__(self, ids: Tensor) -> Tensor:
        return torch.stack(each(self._one, ids))

    def _one(self, i: int) -> Tensor:
        image = self.pairs.image(i, self.shape[0])
        if tuple(image.shape) != self.shape:
            raise BadImages(
                f"item {i} of {self.pairs.name} is {tuple(image.shape)} (C, H, W), but item 0 "
                f"is {self.shape}: all must have one shape; convert them before."
            )
        return image


def _from_pillow(image: Image.Image, channels: int, where: str) -> Tensor:
    grey = image.mode in ("1", "L")
    try:
        some = converted(image, 1 if grey and channels != 3 else 3, where)
        return from_bytes(torch.from_numpy(pixels(some).copy())[None])[0]
    except BadImages:
        raise
    except Exception as error:  # a file that is read now: damaged ones raise whatever they meet
        raise BadImages(f"{where} is not a readable image ({error}).") from error


def _label(value: Any, i: int, name: str) -> int:
    number = value.item() if isinstance(value, Tensor | np.generic | np.ndarray) else value
    if isinstance(number, bool) or not isinstance(number, int):
        raise BadImages(f"item {i} of {name} has the label {value!r}, which is no integer.")
    return number
