"""Folders and archives of image files: layouts, order, sizes, and what is refused."""

import io
import pickle
import tarfile
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from besiege.core.errors import BadImages, BadSetting
from besiege.data.catalog import load_images
from besiege.data.folder import counterparts, file_names


def png(value, height=4, width=6):
    """A PNG of one colour."""
    out = io.BytesIO()
    Image.fromarray(np.full((height, width, 3), value, np.uint8)).save(out, "PNG")
    return out.getvalue()


CLASSES = {"cat/b.png": png(51), "cat/a.png": png(102), "dog/c.png": png(153)}
TABLE = {"b.png": png(51), "a.png": png(102), "labels.csv": b"filename,label\nb.png,2\na.png,0\n"}


def write_folder(path, files):
    for name, data in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return f"folder:path={path}"


def write_zip(path, files):
    with zipfile.ZipFile(path / "set.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return f"zip:path={path}/set.zip"


def write_tar(path, files):
    with tarfile.open(path / "set.tar", "w") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return f"zip:path={path}/set.tar"


@pytest.fixture(params=[write_folder, write_zip, write_tar])
def load(request, tmp_path):
    def loaded(files, more=""):
        return load_images(request.param(tmp_path, files) + more)

    return loaded


def greys(images):
    """The value of each image of one colour."""
    return (images.take(range(len(images))).x[:, 0, 0, 0] * 255).round().int().tolist()


def test_class_folders(load):
    images = load({**CLASSES, "dog/.hidden.png": b"", "dog/notes.txt": b"", ".DS_Store": b""})
    assert (images.classes, images.shape, images.targets) == (("cat", "dog"), (3, 4, 6), None)
    assert greys(images) == [102, 51, 153]
    assert images.take([2, 0, 2]).y.tolist() == [1, 0, 1]
    assert torch.equal(pickle.loads(pickle.dumps(images)).take([1]).x, images.take([1]).x)


def test_all_images_without_labels(load):
    files = {"b.png": png(51), "cat/a.png": png(102), "labels.csv": b"filename,label\nb.png,2\n"}
    images = load(files, ",labels=none")
    assert (greys(images), images.labels.tolist()) == ([51, 102], [0, 0])
    assert images.classes == ("unlabelled",)


def test_table(load):
    images = load(TABLE)
    assert (greys(images), images.labels.tolist()) == ([102, 51], [0, 2])
    assert images.classes == ("0", "1", "2")


def test_table_with_names_and_targets_below_another_folder(load):
    table = b"\xef\xbb\xbffilename,label,target\nx/b.png,dog,ant\nx/a.png,ant,dog\n"
    images = load(
        {"top/x/b.png": png(1), "top/x/a.png": png(2), "top/t.csv": table}, ",labels=t.csv"
    )
    assert images.classes == ("ant", "dog")
    assert (images.labels.tolist(), images.targets.tolist()) == ([0, 1], [1, 0])


def test_a_folder_around_all_is_looked_through(load):
    assert load({f"photos/{n}": data for n, data in CLASSES.items()}).classes == ("cat", "dog")


def test_size_resizes_the_shorter_side_and_cuts_the_middle(load):
    wide = np.zeros((8, 24, 3), np.uint8)
    wide[:, 8:16] = 255
    out = io.BytesIO()
    Image.fromarray(wide).save(out, "PNG")
    images = load({"a/tall.png": png(51, 16, 8), "a/wide.png": out.getvalue()}, ",size=8")
    assert images.shape == (3, 8, 8)
    assert torch.equal(images.take([1]).x, torch.ones(1, 3, 8, 8))
    assert greys(images) == [51, 255]


def test_one_channel(load):
    assert load(CLASSES, ",channels=1").take([0]).x.shape == (1, 1, 4, 6)


def test_sizes_that_differ_are_told_when_taken(load):
    images = load({**CLASSES, "dog/d.png": png(0, 5, 5)})
    with pytest.raises(BadImages, match=r"d\.png\" is \(5, 5\) \(W, H\), but the first .*\(6, 4\)"):
        images.take([3])
    assert len(images.take([0, 1, 2]).x) == 3


def test_folders_named_by_numbers(load):
    files = {f"{n}/{n}.png": png(n) for n in (0, 1, 2, 10)}
    with pytest.raises(BadImages, match=r'"10" of .* label 2 in the order of text.*but 10 as a'):
        load(files)
    assert load(files, ",order=text").labels.tolist() == [0, 1, 2, 3]
    numbered = load(files, ",order=number")
    assert (numbered.labels.tolist(), len(numbered.classes)) == ([0, 1, 10, 2], 11)
    assert greys(numbered) == [0, 1, 10, 2]
    with pytest.raises(BadSetting, match='"text" or "number", not "size"'):
        load(files, ",order=size")


@pytest.mark.parametrize(
    ("files", "more", "message"),
    [
        ({"a.png": png(0)}, "", r'a\.png" is in no class folder \(1 such\)'),
        ({"a/notes.txt": b""}, "", "holds no images"),
        ({**TABLE, "labels.csv": b"file,label\n"}, "", 'lacks the column "filename"'),
        ({**TABLE, "labels.csv": b"filename,label\nc.png,1\n"}, "", 'no file "c.png"'),
        ({**TABLE, "labels.csv": b"filename,label\na.png,1\na.png,2\n"}, "", "a second time"),
        ({**TABLE, "labels.csv": b"filename,label\na.png,1\nb.png,cat\n"}, "", r"numbers \(1\)"),
        ({**TABLE, "labels.csv": b"filename,label\na.png,1\nb.png\n"}, "", "is empty"),
        ({**TABLE, "labels.csv": b"filename,label\n"}, "", "holds no images"),
        ({**TABLE, "labels.csv": b"\xff\xfe"}, "", "is not UTF-8"),
        ({**TABLE, "labels.csv": b"filename,label\n../b.png,1\n"}, "", "there is no file"),
        (CLASSES, ",labels=none.csv", 'no file "none.csv"'),
        (CLASSES, ",order=number", "are not all numbers"),
    ],
)
def test_layouts_that_are_refused(load, files, more, message):
    with pytest.raises(BadImages, match=message):
        load(files, more)


@pytest.mark.parametrize("more", ["channels=2", "size=-1"])
def test_settings_that_are_refused(tmp_path, more):
    with pytest.raises(BadSetting):
        load_images(f"{write_folder(tmp_path, CLASSES)},{more}")


@pytest.mark.parametrize("write", [write_zip, write_tar])
@pytest.mark.parametrize(
    "name", ["../a/x.png", "/a/x.png", "a/../../x.png", "..\\a\\x.png", "C:/a/x.png", "C:\\x.png"]
)
def test_unsafe_paths(tmp_path, write, name):
    with pytest.raises(BadImages, match="unsafe path"):
        load_images(write(tmp_path, {**CLASSES, name: png(0)}))


def test_links_in_a_tar(tmp_path):
    with tarfile.open(tmp_path / "set.tar", "w") as archive:
        info = tarfile.TarInfo("cat/a.png")
        info.type, info.linkname = tarfile.SYMTYPE, "secret.png"
        archive.addfile(info)
    with pytest.raises(BadImages, match="is a link or no plain file"):
        load_images(f"zip:path={tmp_path}/set.tar")


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_members_of_one_name(tmp_path):
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        archive.writestr("cat/a.png", png(1))
        archive.writestr("cat/a.png", png(2))
    with pytest.raises(BadImages, match="two files named"):
        load_images(f"zip:path={tmp_path}/set.zip")


def test_archives_that_cannot_be_read(tmp_path):
    write_tar(tmp_path, CLASSES)
    whole = (tmp_path / "set.tar").read_bytes()
    with tarfile.open(tmp_path / "set.tar.gz", "w:gz"):
        pass
    with pytest.raises(BadImages, match=r"Unpack a compressed \.tar"):
        load_images(f"zip:path={tmp_path}/set.tar.gz")
    images = load_images(f"zip:path={tmp_path}/set.tar")
    (tmp_path / "set.tar").write_bytes(whole[:530])
    with pytest.raises(BadImages, match=r"b\.png\" cannot be read \(the archive ends after"):
        images.take([1])
    with pytest.raises(BadImages, match="is a folder: say folder:path"):
        load_images(f"zip:path={tmp_path}")
    with pytest.raises(BadImages, match="is no folder: for an archive say zip:path"):
        load_images(f"folder:path={tmp_path}/set.tar")


def test_a_damaged_member_of_a_zip(tmp_path):
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        for name, data in CLASSES.items():
            archive.writestr(name, data)
    data = bytearray((tmp_path / "set.zip").read_bytes())
    data[data.index(b"IDAT") + 6] ^= 255
    (tmp_path / "set.zip").write_bytes(data)
    images = load_images(f"zip:path={tmp_path}/set.zip")
    with pytest.raises(BadImages, match=r"cat/b\.png\" cannot be read \(Bad CRC-32"):
        images.take([1])
    assert len(images.take([0, 2]).y) == 2


def test_linked_class_folders_are_followed_but_not_in_a_circle(tmp_path):
    write_folder(tmp_path / "real", {"x/a.png": png(7)})
    spec = write_folder(tmp_path / "set", {"dog/d.png": png(9)})
    (tmp_path / "set" / "cat").symlink_to(tmp_path / "real" / "x")
    (tmp_path / "set" / "dog" / "up").symlink_to(tmp_path / "set")
    assert greys(load_images(spec)) == [7, 9]


def test_digest_is_over_names_and_sizes(tmp_path):
    digest = {}
    for write in (write_folder, write_zip, write_tar):
        made = tmp_path / write.__name__
        made.mkdir()
        digest[write] = load_images(write(made, CLASSES)).digest
    assert len(set(digest.values())) == 1
    assert len(digest[write_zip]) == 16
    other = tmp_path / "other"
    renamed = {n.replace("b.png", "e.png"): data for n, data in CLASSES.items()}
    longer = {**CLASSES, "dog/c.png": CLASSES["dog/c.png"] + b" "}
    for number, files in enumerate((renamed, longer)):
        assert load_images(write_folder(other / str(number), files)).digest != digest[write_zip]
    again = load_images(f"{write_folder(tmp_path / 'again', CLASSES)},size=4")
    assert again.digest != digest[write_zip]


def test_counterparts_have_the_ids_and_labels_of_the_clean_set(tmp_path):
    clean = load_images(write_folder(tmp_path / "clean", CLASSES))
    files = {n.replace(".png", ".bmp"): png(9) for n in CLASSES} | {"cat/a.bmp": png(7)}
    points = counterparts(clean, write_folder(tmp_path / "adv", files).removeprefix("folder:path="))
    assert (greys(points), greys(clean)) == ([7, 9, 9], [102, 51, 153])
    assert file_names(points) == ("cat/a.bmp", "cat/b.bmp", "dog/c.bmp")
    assert torch.equal(points.labels, clean.labels)
    assert points.digest != clean.digest


def test_only_files_have_counterparts(tmp_path):
    with pytest.raises(BadImages, match="is no set of files"):
        counterparts(load_images("digits"), str(tmp_path))
    assert file_names(load_images("digits")) == ()
