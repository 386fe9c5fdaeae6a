"""Packed files: read as written, refused with a reason."""

import numpy as np
import pytest
import torch

from besiege.core.errors import BadImages
from besiege.data.catalog import load_images

IMAGES = np.arange(3 * 4 * 5 * 3, dtype=np.uint8).reshape(3, 4, 5, 3)
LABELS = np.array([1, 0, 1], dtype=np.uint8)


@pytest.fixture
def pack(tmp_path):
    def write(**arrays):
        np.savez(tmp_path / "set.npz", **arrays)
        return load_images(f"packed:path={tmp_path}/set.npz")

    return write


def test_read_as_written(pack):
    names = np.array([b"cat", b"dog"])
    images = pack(images=IMAGES, labels=LABELS, classes=names, targets=1 - LABELS)
    assert (images.name, images.classes, images.shape) == ("set", ("cat", "dog"), (3, 4, 5))
    x, y, targets = images.take([2, 0])
    assert torch.equal(x * 255, torch.from_numpy(IMAGES[[2, 0]]).permute(0, 3, 1, 2).float())
    assert y.tolist() == [1, 1]
    assert targets.tolist() == [0, 0]


def test_classes_are_optional(pack):
    assert pack(images=IMAGES, labels=LABELS).classes == ("0", "1")


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": IMAGES}, 'lacks the array "labels"'),
        ({"images": IMAGES / 255, "labels": LABELS}, r"must be uint8 \(N, H, W, C\), not float64"),
        ({"images": IMAGES[0], "labels": LABELS}, r"not uint8 \(4, 5, 3\)"),
        ({"images": IMAGES, "labels": LABELS[:2]}, "3 images, but 2 labels"),
        ({"images": IMAGES, "labels": LABELS, "classes": ["cat"]}, "label 1 of image 0"),
        ({"images": IMAGES, "labels": np.array([{}, 0, 1])}, r"not a readable \.npz"),
    ],
)
def test_what_is_refused(pack, arrays, message):
    with pytest.raises(BadImages, match=message):
        pack(**arrays)


def test_missing_or_broken_file(tmp_path):
    path = tmp_path / "set.npz"
    path.write_bytes(b"PK broken")
    with pytest.raises(BadImages, match=r"not a readable \.npz"):
        load_images(f"packed:path={path}")
    with pytest.raises(BadImages, match=r'Did you mean ".*set\.npz"'):
        load_images(f"packed:path={tmp_path}/sets.npz")
