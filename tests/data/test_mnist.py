"""MNIST: idx files, plain and compressed."""

import gzip
from struct import pack

import numpy as np
import pytest
import torch

from besiege.core.errors import BadImages, BadSetting
from besiege.data import mnist
from besiege.data.catalog import load_images

IMAGES = (np.arange(3 * 28 * 28) % 256).astype(np.uint8).reshape(3, 28, 28)
LABELS = np.array([7, 0, 9], np.uint8)


def idx(array):
    return pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def write(path, images=None, labels=None, stem="t10k", dash="-", compressed=False):
    path.mkdir(parents=True, exist_ok=True)
    for name, data in (
        (f"{stem}-images{dash}idx3-ubyte", idx(IMAGES) if images is None else images),
        (f"{stem}-labels{dash}idx1-ubyte", idx(LABELS) if labels is None else labels),
    ):
        whole = gzip.compress(data) if compressed else data
        (path / (name + compressed * ".gz")).write_bytes(whole)
    return path


@pytest.mark.parametrize("dash", "-.")
@pytest.mark.parametrize("compressed", [False, True])
def test_read_as_written(tmp_path, dash, compressed):
    write(tmp_path / "MNIST" / "raw", dash=dash, compressed=compressed)
    images = load_images(f"mnist:path={tmp_path}")
    x, y, _ = images.take([2, 0])
    assert images.shape == (1, 28, 28)
    assert torch.equal((x[:, 0] * 255).round().byte(), torch.from_numpy(IMAGES[[2, 0]]))
    assert (y.tolist(), images.classes[7]) == ([9, 7], "7")


def test_parts_and_fashion(tmp_path):
    write(tmp_path)
    write(tmp_path, idx(IMAGES[:2]), idx(LABELS[:2]), stem="train")
    images = load_images(f"mnist:path={tmp_path},part=train,kind=fashion")
    assert (len(images), images.classes[9]) == (2, "Ankle boot")
    with pytest.raises(BadSetting, match='got "val" and "digits"'):
        load_images(f"mnist:path={tmp_path},part=val")


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (b"", None, "begins with nothing"),
        (idx(IMAGES)[:-1], None, r"2367 bytes, but 2368 were announced \(\(3, 28, 28\)\)"),
        (pack(">BBBB3I", 0, 0, 8, 3, 2**31, 2**31, 2**31), None, "were announced"),
        (idx(LABELS), None, "begins with 00 00 08 01, not 00 00 08 03"),
        (b"\0\0\x0d\3" + idx(IMAGES)[4:], None, "begins with 00 00 0d 03"),
        (None, idx(LABELS[:2]), "holds 3 images, but 2 labels"),
        (None, idx(LABELS + 1), "label 10 of image 2"),
    ],
)
@pytest.mark.parametrize("compressed", [False, True])
def test_damaged_files(tmp_path, images, labels, message, compressed):
    write(tmp_path, images, labels, compressed=compressed)
    with pytest.raises(BadImages, match=message):
        load_images(f"mnist:path={tmp_path}")


def test_truncated_missing_and_ambiguous(tmp_path):
    path = write(tmp_path / "a", compressed=True)
    file = path / "t10k-images-idx3-ubyte.gz"
    file.write_bytes(file.read_bytes()[:-12])
    with pytest.raises(BadImages, match=r"idx3-ubyte\.gz\" is not a readable \.gz"):
        load_images(f"mnist:path={tmp_path}")
    file.unlink()
    with pytest.raises(BadImages, match="holds no file t10k-images-idx3-ubyte or"):
        load_images(f"mnist:path={tmp_path}")
    write(path)
    write(tmp_path / "b")
    with pytest.raises(BadImages, match=r"2 files \(a/t10k.*b/t10k.*exactly one is needed"):
        load_images(f"mnist:path={tmp_path}")


def test_download(tmp_path, monkeypatch):
    from hashlib import sha256

    write(tmp_path / "there", compressed=True)
    hashes = {
        f"t10k-{what}": sha256((tmp_path / "there" / f"t10k-{what}-{n}-ubyte.gz").read_bytes())
        for what, n in (("images", "idx3"), ("labels", "idx1"))
    }
    hexes = {name: digest.hexdigest() for name, digest in hashes.items()}
    kind = (mnist.DIGITS, f"{(tmp_path / 'there').as_uri()}/", hexes)
    monkeypatch.setitem(mnist.KINDS, "digits", kind)
    images = load_images(f"mnist:path={tmp_path / 'here'},download=true")
    assert images.labels.tolist() == [7, 0, 9]
    assert len(list((tmp_path / "here").iterdir())) == 2
