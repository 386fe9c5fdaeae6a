"""ImageNet: every form of its labels, and the usual resize and cut."""

import io

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from besiege.core.errors import BadImages, BadSetting
from besiege.data.catalog import load_images

WNIDS = [f"n{10000000 + 7 * i}" for i in range(1000)]
NAMES = [f"ILSVRC2012_val_{i:08d}.JPEG" for i in (1, 2, 3)]
LABELS = [65, 970, 0]
PHOTO = (np.arange(40 * 61 * 3) * 37 % 251).astype(np.uint8).reshape(40, 61, 3)


def jpeg(array=PHOTO, **more):
    out = io.BytesIO()
    Image.fromarray(array).save(out, "JPEG", **more)
    return out.getvalue()


def meta(order):
    """The development kit's meta.mat: ID i + 1 is WNIDS[order[i]]; then one more synset."""
    out = io.BytesIO()
    rows = [(i + 1, WNIDS[w]) for i, w in enumerate(order)] + [(1001, "n00000001")]
    synsets = np.array(
        [(np.float64(i), wnid) for i, wnid in rows], dtype=[("ILSVRC2012_ID", "O"), ("WNID", "O")]
    )
    savemat(out, {"synsets": synsets[:, None]})
    return out.getvalue()


@pytest.fixture
def load(tmp_path):
    def loaded(files, more="", images=True):
        for name, data in {**(dict.fromkeys(NAMES, jpeg()) if images else {}), **files}.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_bytes(data.encode() if isinstance(data, str) else data)
        return load_images(f"imagenet:path={tmp_path}{more}")

    return loaded


SYNSETS = {"synset_words.txt": "".join(f"{w} some, words\n" for w in WNIDS)}
PAIRS = list(zip(NAMES, LABELS, strict=True))
KAGGLE = "".join(f"{n[:-5]},{WNIDS[y]} 1 2 3 4 {WNIDS[0]} 9 9 9 9\n" for n, y in PAIRS[::-1])
TABLES = {
    "caffe": {"val.txt": "".join(f"{n} {y}\n" for n, y in PAIRS)},
    "more lines": {"val.txt": "".join(f"{n} {y}\n" for n, y in [*PAIRS, ("x.JPEG", 3)])},
    "csv": {"labels.csv": "filename,label\n" + "".join(f"{n},{y}\n" for n, y in PAIRS)},
    "wnids": {**SYNSETS, "val.txt": "".join(f"{n}\t{WNIDS[y]}\n" for n, y in PAIRS)},
    "kaggle": {**SYNSETS, "LOC_val_solution.csv": f"ImageId,PredictionString\n{KAGGLE}"},
    "kit": {
        "ILSVRC2012_validation_ground_truth.txt": "".join(f"{1000 - y}\n" for y in LABELS),
        "meta.mat": meta(range(999, -1, -1)),
    },
}


@pytest.mark.parametrize("files", TABLES.values(), ids=TABLES)
def test_labels(load, files):
    images = load(files)
    assert images.labels.tolist() == LABELS
    assert (len(images.classes), images.classes[0]) == (1000, "tench, Tinca tinca")
    assert images.take([0]).x.shape == (1, 3, 224, 224)


def test_class_folders(load):
    files = {f"{WNIDS[y]}/{n}": jpeg() for n, y in PAIRS}
    with pytest.raises(BadImages, match=r"names 3 WordNet ids\. All 1000 are needed"):
        load(files, images=False)
    assert load({**SYNSETS, **files}, images=False).labels.tolist() == [0, 65, 970]
    every = {f"all/{w}/{i}.JPEG": b"" for i, w in enumerate(WNIDS)}
    whole = load(every, "/all", images=False)
    assert whole.labels.tolist() == list(range(1000))


def test_as_torchvision_does(load):
    """Resize(46) and CenterCrop(32): 61 x 40 -> int(46 * 61 / 40) x 46, offsets 19 and 7."""
    images = load(TABLES["caffe"], ",size=32,shorter=46,resample=bicubic")
    with Image.open(io.BytesIO(jpeg())) as image:
        resized = np.array(image.resize((70, 46), Image.Resampling.BICUBIC))
    wanted = resized[7:39, 19:51]
    found = (images.take([1]).x[0] * 255).round().byte().permute(1, 2, 0).numpy()
    assert np.array_equal(found, wanted)


def test_upright_photographs_and_the_default_scale(load):
    images = load({**TABLES["caffe"], NAMES[0]: jpeg(PHOTO.transpose(1, 0, 2))}, ",size=56")
    with Image.open(io.BytesIO(jpeg(PHOTO.transpose(1, 0, 2)))) as image:
        resized = np.array(image.resize((64, 97), Image.Resampling.BILINEAR))
    found = (images.take([0]).x[0] * 255).round().byte().permute(1, 2, 0).numpy()
    assert np.array_equal(found, resized[20:76, 4:60])  # (97 - 56) / 2 = 20.5, to even


def test_orientation_is_not_applied(load):
    exif = Image.Exif()
    exif[0x0112] = 6
    images = load({**TABLES["caffe"], NAMES[0]: jpeg(exif=exif)}, ",size=32")
    assert (images.take([0]).x == images.take([1]).x).all()


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "is in no folder named by a WordNet id"),
        ({"val.txt": f"{NAMES[0]} 1\n"}, 'no line for the image "ILSVRC2012_val_00000002"'),
        ({"val.txt": f"{NAMES[0]} 1\n{NAMES[0]} 1\n"}, "Line 2 of .*named once"),
        ({"val.txt": f"{NAMES[0]} cat\n"}, "Line 1 of"),
        ({"val.txt": "".join(f"{n} 1000\n" for n in NAMES)}, "label 1000 of image 0"),
        ({"val.txt": TABLES["wnids"]["val.txt"]}, "All 1000 are needed"),
        (
            {"val.txt": "".join(f"{n} n00000009\n" for n in NAMES), **SYNSETS},
            "but not n00000009. All 1000",
        ),
        ({"val.txt": "490\n361\n171\n"}, "development kit are not the usual labels"),
        ({**TABLES["kit"], "ILSVRC2012_validation_ground_truth.txt": "1\n"}, "1 lines for 3"),
        ({**TABLES["kit"], "ILSVRC2012_validation_ground_truth.txt": "0\n" * 3}, "number 0,"),
        ({**TABLES["kit"], "meta.mat": b"none"}, "is not the meta.mat of the kit"),
        ({**TABLES["caffe"], f"x/{NAMES[0]}": jpeg()}, "holds images of one name"),
    ],
)
def test_labels_that_are_refused(load, files, message):
    with pytest.raises(BadImages, match=message):
        load(files)


def test_settings_that_are_refused(load):
    with pytest.raises(BadSetting, match=r"square of 224 cannot be cut from .* 200"):
        load(TABLES["caffe"], ",shorter=200")
    with pytest.raises(BadSetting, match="bilinear, bicubic, lanczos"):
        load(TABLES["caffe"], ",resample=nearest")
    with pytest.raises(BadImages, match=r'no file "gt\.txt"'):
        load(TABLES["caffe"], ",labels=gt.txt")
