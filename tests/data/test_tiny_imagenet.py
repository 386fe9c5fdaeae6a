"""Tiny ImageNet: labels by sorted WordNet ids, annotations that cover all images."""

import io
import zipfile

import pytest
from PIL import Image

from besiege.core.errors import BadImages, BadSetting
from besiege.data.catalog import load_images


def jpeg(value, mode="RGB"):
    out = io.BytesIO()
    Image.new(mode, (64, 64), value if mode == "L" else (value,) * 3).save(out, "JPEG", quality=95)
    return out.getvalue()


BOX = "\t0\t0\t62\t62\n"
FILES = {
    "wnids.txt": b"n02\nn01\n",  # as published, in no order
    "words.txt": b"n01\ttench, Tinca tinca\nn03\tother\n",
    "val/val_annotations.txt": f"val_2.JPEG\tn01{BOX}val_10.JPEG\tn02{BOX}".encode(),
    "val/images/val_2.JPEG": jpeg(20),
    "val/images/val_10.JPEG": jpeg(100, "L"),
    "train/n02/images/n02_0.JPEG": jpeg(30),
    "train/n02/n02_boxes.txt": b"",
    "train/n01/images/n01_1.JPEG": jpeg(40),
    "train/n01/images/n01_0.JPEG": jpeg(50),
}


@pytest.fixture
def path(tmp_path):
    def written(files):
        for name, data in files.items():
            file = tmp_path / "tiny-imagenet-200" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(data)
        return tmp_path

    return written


def greys(images):
    return (images.take(range(len(images))).x[:, 0, 9, 9] * 255).round().int().tolist()


def test_val(path):
    images = load_images(f"tiny-imagenet:path={path(FILES)}")
    assert images.classes == ("tench, Tinca tinca", "n02")
    assert images.shape == (3, 64, 64)
    assert (images.labels.tolist(), greys(images)) == ([1, 0], [100, 20])


def test_train(path):
    images = load_images(f"tiny-imagenet:path={path(FILES)}/tiny-imagenet-200,part=train")
    assert (images.labels.tolist(), greys(images)) == ([0, 0, 1], [50, 40, 30])


def test_in_its_archive(tmp_path):
    with zipfile.ZipFile(tmp_path / "tiny.zip", "w") as archive:
        for name, data in FILES.items():
            archive.writestr(f"tiny-imagenet-200/{name}", data)
    images = load_images(f"tiny-imagenet:path={tmp_path}/tiny.zip")
    assert (images.labels.tolist(), greys(images)) == ([1, 0], [100, 20])


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"val/images/val_3.JPEG": jpeg(1)}, r"val_3\.JPEG\" has no line"),
        ({"val/val_annotations.txt": b"val_2.JPEG\tn01\n"}, r"val_10\.JPEG\" has no line"),
        (
            {"val/val_annotations.txt": FILES["val/val_annotations.txt"] + b"v.JPEG\tn01\n"},
            r"v\.JPEG\" is not there",
        ),
        ({"val/val_annotations.txt": b"val_2.JPEG n01\n"}, "Line 1 of .* is not FILE, tab, ID"),
        ({"wnids.txt": b"n01\n"}, r"val_10\.JPEG\" is of class \"n02\", not in"),
    ],
)
def test_what_is_refused(path, changed, message):
    with pytest.raises(BadImages, match=message):
        load_images(f"tiny-imagenet:path={path({**FILES, **changed})}")


def test_other_folders(path):
    files = {n: data for n, data in FILES.items() if "annotations" not in n}
    where = path(files)
    with pytest.raises(BadImages, match=r"lacks .*val_annotations\.txt.*folder:path"):
        load_images(f"tiny-imagenet:path={where}")
    (where / "tiny-imagenet-200" / "wnids.txt").unlink()
    with pytest.raises(BadImages, match=r"no wnids\.txt"):
        load_images(f"tiny-imagenet:path={where}")
    with pytest.raises(BadSetting, match='"val" or "train", not "test"'):
        load_images(f"tiny-imagenet:path={where},part=test")
