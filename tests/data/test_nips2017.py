"""Folders of PNG files with a table of labels."""

import json

import numpy as np
import pytest
from PIL import Image

from besiege.core.errors import BadImages
from besiege.data.catalog import load_images

TABLE = "file,label,target\nb.png,7,3\na.png,2,5\n"


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "photos"
    made.mkdir()
    for value, name in enumerate("ab", start=1):
        Image.fromarray(np.full((4, 6, 3), value * 51, dtype=np.uint8)).save(made / f"{name}.png")
    (made / "labels.csv").write_text(TABLE)
    return made


def load(folder):
    return load_images(f"nips2017:path={folder}")


def test_ids_follow_the_table(folder):
    images = load(folder)
    assert images.shape == (3, 4, 6)
    x, y, targets = images.take([0, 1])
    assert x[:, 0, 0, 0].tolist() == pytest.approx([0.4, 0.2])
    assert (y.tolist(), targets.tolist()) == ([7, 2], [3, 5])
    assert images.classes[0] == "tench, Tinca tinca"


def test_table_beside_the_folder_and_own_classes(folder):
    (folder / "labels.csv").rename(folder.parent / "photos_labels.csv")
    names = [f"class {i}" for i in range(8)]
    (folder.parent / "imagenet_classes.json").write_text(json.dumps(names))
    assert load(folder).classes == tuple(names)


def test_without_targets(folder):
    (folder / "labels.csv").write_text("file,label\na.png,2\n")
    assert load(folder).take([0]).targets is None


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("file,class\na.png,2\n", 'lacks the column "label"'),
        ("file,label\n", "lists no images"),
        ("file,label\na.png,cat\n", '"cat" in line 2 of .* is no label'),
        ("file,label\na.png,1000\n", "label 1000 of image 0"),
        ("file,label\naa.png,2\n", r'No image .* Did you mean ".*a\.png"'),
    ],
)
def test_tables_that_are_refused(folder, table, message):
    (folder / "labels.csv").write_text(table)
    with pytest.raises(BadImages, match=message):
        load(folder)


def test_no_table_no_folder(folder):
    (folder / "labels.csv").unlink()
    with pytest.raises(BadImages, match="No table of labels"):
        load(folder)
    with pytest.raises(BadImages, match=r'Did you mean ".*photos"'):
        load(folder.parent / "photo")


def test_images_that_cannot_be_read(folder):
    Image.fromarray(np.zeros((5, 5, 3), dtype=np.uint8)).save(folder / "a.png")
    with pytest.raises(BadImages, match=r"is \(5, 5\) \(W, H\), but the first"):
        load(folder).take([0, 1])
    (folder / "a.png").write_bytes((folder / "b.png").read_bytes()[:40])
    with pytest.raises(BadImages, match="not a readable image"):
        load(folder).take([1])
