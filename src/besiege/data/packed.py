"""Image sets packed in one NumPy file."""

from __future__ import annotations

import zipfile

import numpy as np
import torch

from besiege.core.errors import BadImages
from besiege.core.files import existing
from besiege.data.images import ImageSet


def packed(path: str) -> ImageSet:
    """Images of one size in one .npz file.

    path: a file with `images` uint8 (N, H, W, C) and `labels` (N,); may have `classes` (K,), names
    in label order as text or bytes, and `targets` (N,). Raises BadImages for anything else.
    """
    found = existing(path, "packed images", BadImages)
    try:
        with np.load(found) as file:
            arrays = {k: file[k] for k in ("images", "labels", "classes", "targets") if k in file}
    except (OSError, ValueError, EOFError, TypeError, zipfile.BadZipFile) as error:
        raise BadImages(f'"{found}" is not a readable .npz file ({error}).') from error
    for key in ("images", "labels"):
        if key not in arrays:
            raise BadImages(
                f'"{found}" lacks the array "{key}": packed images are written with '
                "numpy.savez_compressed(path, images=..., labels=..., classes=...)."
            )
    images = arrays["images"]
    if images.dtype != np.uint8 or images.ndim != 4:
        raise BadImages(
            f'"images" in "{found}" must be uint8 (N, H, W, C), not {images.dtype} {images.shape}.'
        )
    labels = _integers(arrays["labels"])
    names = arrays.get("classes", np.arange(int(labels.max(initial=-1)) + 1))
    return ImageSet.of_bytes(
        torch.from_numpy(images),
        torch.from_numpy(labels),
        [n.decode() if isinstance(n, bytes) else str(n) for n in names],
        torch.from_numpy(_integers(arrays["targets"])) if "targets" in arrays else None,
        name=found.stem,
    )


def _integers(values: np.ndarray) -> np.ndarray:
    return np.asarray(values).astype(np.int64)
