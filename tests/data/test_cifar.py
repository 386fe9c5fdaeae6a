"""CIFAR: both layouts give the same images, and a pickle can run nothing."""

import io
import os
import pickle
import tarfile

import numpy as np
import pytest
import torch

from besiege.core.errors import BadImages, BadSetting
from besiege.data import cifar, download
from besiege.data.catalog import load_images

PIXELS = (np.arange(12 * 3072) * 31 % 256).astype(np.uint8).reshape(12, 3072)
LABELS = [3, 0, 9, 1, 2, 4, 5, 6, 7, 8, 1, 2]  # two images a file
FINE, COARSE = [99, 0], [19, 4]
NAMES = [f"class{i}" for i in range(100)]


def python10(protocol=2):
    files = {"batches.meta": {"label_names": NAMES[:10]}}
    for i, name in enumerate(["test_batch", *(f"data_batch_{j}" for j in range(1, 6))]):
        rows = slice(2 * i, 2 * i + 2)
        files[name] = {"data": PIXELS[rows], "labels": LABELS[rows]}
    return {
        f"cifar-10-batches-py/{name}": pickle.dumps(value, protocol)
        for name, value in files.items()
    }


def binary10():
    files = {"batches.meta.txt": "\n".join(NAMES[:10]).encode() + b"\n\n"}
    for i, name in enumerate(["test_batch", *(f"data_batch_{j}" for j in range(1, 6))]):
        rows = zip(LABELS[2 * i : 2 * i + 2], PIXELS[2 * i : 2 * i + 2], strict=True)
        files[f"{name}.bin"] = b"".join(bytes([y]) + x.tobytes() for y, x in rows)
    return {f"cifar-10-batches-bin/{name}": data for name, data in files.items()}


def python100():
    batch = {b"data": PIXELS[:2], b"fine_labels": FINE, b"coarse_labels": COARSE}
    meta = {"fine_label_names": NAMES, "coarse_label_names": NAMES[:20]}
    files = {"train": batch, "test": batch, "meta": meta}
    return {f"cifar-100-python/{name}": pickle.dumps(value) for name, value in files.items()}


def binary100():
    rows = zip(COARSE, FINE, PIXELS, strict=False)
    batch = b"".join(bytes([c, f]) + x.tobytes() for c, f, x in rows)
    files = {"train.bin": batch, "test.bin": batch}
    files["fine_label_names.txt"] = "\n".join(NAMES).encode()
    files["coarse_label_names.txt"] = "\n".join(NAMES[:20]).encode()
    return {f"cifar-100-binary/{name}": data for name, data in files.items()}


def unpacked(path, files):
    for name, data in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path


def archived(path, files, name="any.tar.gz"):
    path.mkdir(exist_ok=True)
    with tarfile.open(path / name, "w:gz") as archive:
        for member, data in files.items():
            info = tarfile.TarInfo(member)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path / name


@pytest.mark.parametrize("write", [unpacked, archived])
@pytest.mark.parametrize("files", [binary10, python10, lambda: python10(0), lambda: python10(5)])
def test_cifar10_in_every_layout(tmp_path, write, files):
    path = write(tmp_path, files())
    for part, rows in (("test", slice(0, 2)), ("train", slice(2, 12))):
        images = load_images(f"cifar10:path={path},part={part}")
        x, y, _ = images.take(range(len(images)))
        wanted = torch.from_numpy(PIXELS[rows].copy()).reshape(-1, 3, 32, 32)
        assert torch.equal((x * 255).round().byte(), wanted)
        assert (y.tolist(), images.classes) == (LABELS[rows], tuple(NAMES[:10]))
    first = load_images(f"cifar10:path={path}")
    assert first.digest != images.digest
    assert first.shape == (3, 32, 32)


@pytest.mark.parametrize("files", [binary100, python100])
def test_cifar100(tmp_path, files):
    path = unpacked(tmp_path, files())
    images = load_images(f"cifar100:path={path},part=train")
    assert (images.labels.tolist(), len(images.classes)) == (FINE, 100)
    coarse = load_images(f"cifar100:path={path},labels=coarse")
    assert (coarse.labels.tolist(), len(coarse.classes)) == (COARSE, 20)
    wanted = torch.from_numpy(PIXELS[:2].copy()).reshape(-1, 3, 32, 32)
    assert torch.equal((coarse.take([0, 1]).x * 255).round().byte(), wanted)


def test_a_folder_that_holds_the_archive(tmp_path):
    archived(tmp_path, python10(), "cifar-10-python.tar.gz")
    assert len(load_images(f"cifar10:path={tmp_path},part=train")) == 10


class Calls:
    """Pickled as a call of `function`."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


EVIL = {
    "os.system": lambda mark: Calls(os.system, f"touch {mark}"),
    "eval": lambda mark: Calls(eval, f"open({str(mark)!r}, 'w')"),
    "getattr": lambda mark: Calls(getattr, "", "join"),
    "exec in data": lambda mark: {"data": Calls(exec, f"open({str(mark)!r}, 'w')"), "labels": [1]},
    "numpy": lambda mark: Calls(np.savetxt, str(mark), [1]),
    "inner name": lambda mark: Calls(np.ndarray.tofile, PIXELS, str(mark)),
    "codec": lambda mark: Calls(__import__("codecs").encode, "a", "zip"),
}


@pytest.mark.parametrize("evil", EVIL.values(), ids=EVIL)
@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
@pytest.mark.parametrize("write", [unpacked, archived])
def test_a_pickle_runs_nothing(tmp_path, evil, protocol, write):
    mark = tmp_path / "ran"
    data = pickle.dumps(evil(mark), protocol)
    path = write(tmp_path / "set", {**python10(), "cifar-10-batches-py/test_batch": data})
    why = "not a readable pickle" if evil is EVIL["codec"] else "refused: it asks to run"
    with pytest.raises(BadImages, match=f"test_batch is {why}"):
        load_images(f"cifar10:path={path}")
    assert not mark.exists()
    if protocol == 2:
        pickle.loads(data) if evil is EVIL["os.system"] else None
        assert mark.exists() == (evil is EVIL["os.system"])  # the same bytes do run elsewhere


def test_as_python_2_wrote_it():
    raw = PIXELS[:2].tobytes()
    array = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\0tU\x01btR"
    dtype = b"cnumpy\ndtype\n(U\x02u1K\0K\x01tR(K\x03U\x01|NNNJ\xff\xff\xff\xffK\xffK\0tb"
    text = b"T" + len(raw).to_bytes(4, "little") + raw
    state = b"(K\x01K\x02M\x00\x0c\x86" + dtype + b"\x89" + text + b"tb"
    found = cifar.unpickled(b"\x80\x02}U\x04data" + array + state + b"s.", "x")
    assert np.array_equal(found["data"].array, PIXELS[:2])


def test_column_order_and_byte_order():
    for array in (np.asfortranarray(PIXELS[:2]), PIXELS[:2].astype(">i4")):
        for protocol in (2, 5):
            found = cifar.unpickled(pickle.dumps(array, protocol), "x").array
            assert np.array_equal(found, array)


@pytest.mark.parametrize("array", [np.array([[1], {}], object), np.zeros(2), np.array(["a"])])
def test_arrays_of_anything_else(array):
    with pytest.raises(BadImages, match="x is not a readable pickle"):
        cifar.unpickled(pickle.dumps(array), "x")


def test_only_what_is_listed_is_looked_up():
    for module, name in cifar.ALLOWED:
        assert module.split(".")[0] in ("numpy", "_codecs")
        assert name in ("_reconstruct", "_frombuffer", "ndarray", "dtype", "encode")
    for data in (b"cposix\nsystem\n.", b"\x80\x02\x82\x01.", b"Pabc\n."):
        with pytest.raises(BadImages, match=r"^x is "):
            cifar.unpickled(data, "x")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not a readable pickle"),
        (pickle.dumps({"data": PIXELS})[:-9], "not a readable pickle"),
        (pickle.dumps([1]), "holds no table, but list"),
        (pickle.dumps({"data": PIXELS[:2]}), 'lacks "labels"; it has data'),
        (pickle.dumps({"data": PIXELS[:2], "labels": [1]}), "2 images, but 1 labels"),
        (pickle.dumps({"data": PIXELS[:2], "labels": ["a", "b"]}), "must be .* integers"),
        (pickle.dumps({"data": PIXELS[:2, :9], "labels": [1, 2]}), r"\(2, 9\)"),
        (pickle.dumps({"data": PIXELS[:2] / 255, "labels": [1, 2]}), "an array of f8"),
        (pickle.dumps({"data": PIXELS[:2].astype(int), "labels": [1, 2]}), "be a uint8 array"),
        (pickle.dumps({"data": PIXELS[:2], "labels": [1, 10]}), "label 10 of image 1"),
    ],
)
def test_damaged_pickles(tmp_path, data, message):
    path = unpacked(tmp_path, {**python10(), "cifar-10-batches-py/test_batch": data})
    with pytest.raises(BadImages, match=message):
        load_images(f"cifar10:path={path}")


def test_damaged_binaries_and_archives(tmp_path):
    files = binary10()
    name = "cifar-10-batches-bin/test_batch.bin"
    path = unpacked(tmp_path / "short", {**files, name: files[name][:-1]})
    with pytest.raises(BadImages, match="6145 bytes, no multiple of 3073"):
        load_images(f"cifar10:path={path}")
    archive = archived(tmp_path, files)
    whole = archive.read_bytes()
    archive.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BadImages, match=r"not a readable \.tar\.gz"):
        load_images(f"cifar10:path={archive}")
    with pytest.raises(BadImages, match="unsafe path"):
        load_images(f"cifar10:path={archived(tmp_path, {**files, '../x': b''})}")


def test_what_is_missing_is_named(tmp_path):
    unpacked(tmp_path, binary100())
    with pytest.raises(BadImages, match=r'lacks "test_batch\.bin".*and "test_batch"'):
        load_images(f"cifar10:path={tmp_path}")
    with pytest.raises(BadSetting, match='"test" or "train", not "val"'):
        load_images(f"cifar10:path={tmp_path},part=val")
    with pytest.raises(BadSetting, match='"fine" or "coarse"'):
        load_images(f"cifar100:path={tmp_path},labels=all")


def test_downloads_only_on_demand_and_refuses_another_hash(tmp_path, monkeypatch):
    archived(tmp_path / "there", binary10(), "cifar-10-binary.tar.gz")
    monkeypatch.setattr(cifar, "HOME", f"{(tmp_path / 'there').as_uri()}/")
    home = tmp_path / "here"
    home.mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(download, "urlopen", None)
        with pytest.raises(BadImages, match="download=true"):
            load_images(f"cifar10:path={home}")
    with pytest.raises(BadImages, match=r"has the SHA-256 .* but c4a38c50"):
        load_images(f"cifar10:path={home},download=true")
    assert list(home.iterdir()) == []
