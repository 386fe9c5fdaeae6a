"""Building a database of patches: rows are squares of images, bad images are passed over."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from besiege.core.errors import BadImages, BadSetting
from besiege.data.images import ImageSet
from besiege.data.patches import BATCH, build


def numbered(count: int = 3 * BATCH + 5, broken: tuple[int, ...] = ()) -> ImageSet:
    """Images whose pixels say which image (channel 0), row (1) and column (2) they are."""
    i, r, c = torch.meshgrid(torch.arange(count), torch.arange(8), torch.arange(11), indexing="ij")
    x = torch.stack([i, r, c], 1).float() / 255
    images = ImageSet.of(x, torch.zeros(count, dtype=torch.int64))

    def pixels(ids: Tensor) -> Tensor:
        if bad := [j for j in ids.tolist() if j in broken]:
            raise BadImages(f"image {bad[0]} is broken")
        return images.pixels(ids)

    return replace(images, pixels=pixels)


def squares(path: Path, size: int) -> np.ndarray:
    return np.load(path).reshape(-1, 3, size, size).astype(int)


def test_each_patch_is_a_square_of_an_image_at_random(tmp_path: Path) -> None:
    told: list[int] = []
    base, bad = build(numbered(), tmp_path / "db.npy", 3000, size=4, seed=3, on_done=told.append)
    found = squares(tmp_path / "db.npy", 4)
    assert not bad
    assert base.pixels.shape == (3000, 48)
    assert told[-1] == 3000
    assert told == sorted(told)
    image, row, column = (found[:, c, 0, 0] for c in range(3))
    at = np.arange(4)
    assert (found[:, 0] == image[:, None, None]).all()
    assert (found[:, 1] == row[:, None, None] + at[:, None]).all()
    assert (found[:, 2] == column[:, None, None] + at).all()
    for value, high in ((image, 3 * BATCH + 5), (row, 5), (column, 8)):
        counts = np.bincount(value, minlength=high)
        assert len(counts) == high
        mean = 3000 / high
        assert abs(counts - mean).max() < 5 * mean**0.5
    assert abs(np.corrcoef(row, column)[0, 1]) < 0.08


def test_a_smaller_database_is_how_a_larger_one_begins(tmp_path: Path) -> None:
    for name, count, seed in (("a", 50, 0), ("b", 400, 0), ("c", 50, 1)):
        build(numbered(), tmp_path / f"{name}.npy", count, seed=seed)
    a, b, c = (np.load(tmp_path / f"{n}.npy") for n in "abc")
    np.testing.assert_array_equal(a, b[:50])
    assert (a != c).any()


def test_images_that_cannot_be_read_are_passed_over(tmp_path: Path) -> None:
    broken = (0, 3, 70)
    _, bad = build(numbered(broken=broken), tmp_path / "db.npy", 2000, size=3)
    assert set(bad) == set(broken)
    assert "image 70 is broken" in bad[70]
    found = squares(tmp_path / "db.npy", 3)
    assert not set(found[:, 0].ravel()) & set(broken)
    assert (found[:, 1, 2, 0] - found[:, 1, 0, 0] == 2).all()  # no row was left empty
    assert json.loads((tmp_path / "db.json").read_text())["passed_over"] == [0, 3, 70]


def test_what_it_was_made_of_stands_beside_it(tmp_path: Path) -> None:
    images = numbered()
    base, _ = build(images, tmp_path / "db.npy", 10, size=2, seed=7)
    about = json.loads((tmp_path / "db.json").read_text())
    assert about == {
        "patches": 10,
        "size": 2,
        "channels": 3,
        "digest": base.digest,
        "seed": 7,
        "source": "images",
        "source_digest": images.digest,
        "source_images": len(images),
        "passed_over": [],
    }


def test_a_file_that_is_there_stays_unless_forced(tmp_path: Path) -> None:
    path = tmp_path / "db.npy"
    build(numbered(), path, 5)
    before = path.read_bytes()
    with pytest.raises(BadSetting, match="is there already"):
        build(numbered(), path, 9)
    assert path.read_bytes() == before
    base, _ = build(numbered(), path, 9, force=True)
    assert len(base.pixels) == 9


def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(BadImages, match=r"no image to cut patches from\. The first: image 0"):
        build(numbered(6, broken=tuple(range(6))), tmp_path / "db.npy", 50)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "count", "size", "says"),
    [
        ("db.npz", 5, 5, "is a .npy file"),
        ("no/db.npy", 5, 5, "there is no folder"),
        ("db.npy", 0, 5, "at least 1 patch"),
        ("db.npy", 5, 1, "from 2 to 9"),
        ("db.npy", 5, 9, "8 x 11 pixels, smaller than patches of 9 x 9"),
    ],
)
def test_wrong_settings(tmp_path: Path, name: str, count: int, size: int, says: str) -> None:
    with pytest.raises((BadSetting, BadImages), match=says):
        build(numbered(), tmp_path / name, count, size)
