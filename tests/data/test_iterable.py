"""Collections of (image, label): what torch and Hugging Face data sets give."""

import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from besiege.core.errors import BadImages
from besiege.data.images import audit
from besiege.data.iterable import from_iterable

ARRAYS = (np.arange(4 * 5 * 6 * 3) % 256).astype(np.uint8).reshape(4, 5, 6, 3)
WANTED = torch.from_numpy(ARRAYS.copy()).permute(0, 3, 1, 2).float() / 255
LABELS = [2, 0, 1, 1]


class Rows(list):
    """A list with the columns of a Hugging Face data set."""

    column_names = ("img", "fine")

    def __getitem__(self, key):
        if isinstance(key, str):
            return [row[key] for row in self]
        return super().__getitem__(key)


def pairs(images, labels=LABELS):
    return list(zip(images, labels, strict=True))


FORMS = {
    "array": lambda: from_iterable(pairs(ARRAYS)),
    "pil": lambda: from_iterable(pairs(map(Image.fromarray, ARRAYS))),
    "tensor": lambda: from_iterable(pairs(WANTED)),
    "half labels": lambda: from_iterable(pairs(WANTED.double(), torch.tensor(LABELS))),
    "numpy labels": lambda: from_iterable(pairs(ARRAYS, np.array(LABELS))),
    "generator": lambda: from_iterable(p for p in pairs(ARRAYS)),
    "tables": lambda: from_iterable([{"image": x, "label": y} for x, y in pairs(ARRAYS)]),
    "columns": lambda: from_iterable(
        Rows({"img": x, "fine": y} for x, y in pairs(ARRAYS)), columns=("img", "fine")
    ),
    "labels": lambda: from_iterable(pairs(ARRAYS, "none"), labels=LABELS),
    "torch": lambda: from_iterable(
        torch.utils.data.TensorDataset(WANTED, torch.tensor(LABELS)), classes=["a", "b", "c"]
    ),
}


@pytest.mark.parametrize("made", FORMS.values(), ids=FORMS)
def test_the_same_images_from_every_form(made):
    images = made()
    assert (images.shape, len(images.classes)) == ((3, 5, 6), 3)
    assert images.labels.tolist() == LABELS
    x, y, targets = images.take([3, 1, 3])
    assert torch.equal(x, WANTED[[3, 1, 3]])
    assert (y.tolist(), targets) == ([1, 0, 1], None)
    assert audit(images) == []


def test_images_are_read_when_taken():
    class Counting:
        read = 0

        def __len__(self):
            return 4

        def __getitem__(self, i):
            Counting.read += 1
            return ARRAYS[i], LABELS[i]

    images = from_iterable(Counting(), labels=LABELS)
    assert Counting.read == 2
    images.take([1, 2])
    assert Counting.read == 4


def test_grey_and_colour():
    grey, colour = Image.fromarray(ARRAYS[0, ..., 0]), Image.fromarray(ARRAYS[1])
    assert from_iterable([(grey, 0)]).shape == (1, 5, 6)
    mixed = from_iterable([(colour, 0), (grey, 1), (ARRAYS[0, ..., 0], 1)])
    x = mixed.take([1, 2]).x
    assert torch.equal(x[0], WANTED[0, :1].expand(3, -1, -1))
    assert torch.equal(x[0], x[1])
    with pytest.raises(BadImages, match=r"item 1 of items is \(3, 5, 6\) .* item 0 is \(1, 5, 6\)"):
        from_iterable([(grey, 0), (colour, 0)]).take([1])


def test_augmentation_is_noticed():
    class Growing:
        calls = 0.0

        def __len__(self):
            return 2

        def __getitem__(self, i):
            Growing.calls += 0.01
            return torch.full((3, 4, 4), Growing.calls), 0

    with pytest.raises(BadImages, match="without augmentation"):
        from_iterable(Growing())


def test_a_set_pickles():
    images = from_iterable(pairs(ARRAYS))
    assert torch.equal(pickle.loads(pickle.dumps(images)).take([2]).x, WANTED[2:3])


BAD = {
    "range": (WANTED[1] * 255, "divide 8-bit images by 255"),
    "nan": (WANTED[1] * float("nan"), "value nan"),
    "integers": (torch.zeros(3, 5, 6, dtype=torch.uint8), r"not Tensor torch\.uint8 \(3, 5, 6\)"),
    "float array": (ARRAYS[1] / 255, "not ndarray float64"),
    "text": ("a.png", "not str"),
    "order": (torch.zeros(5, 6, 3), "has 5 channels, not 1 or 3"),
    "size": (ARRAYS[1, :4], r"is \(3, 4, 6\) \(C, H, W\), but item 0"),
    "clear": (Image.new("RGBA", (6, 5)), "transparent"),
}


@pytest.mark.parametrize(("bad", "message"), BAD.values(), ids=BAD)
def test_a_bad_item_is_named_when_taken(bad, message):
    images = from_iterable(pairs([ARRAYS[0], bad, ARRAYS[2], ARRAYS[3]]))
    with pytest.raises(BadImages, match=message) as caught:
        images.take([0, 1])
    assert "item 1 of items" in str(caught.value)
    assert audit(images) == [(1, str(caught.value))]


def test_a_truncated_file_in_a_pil_image(tmp_path):
    Image.fromarray(ARRAYS[1]).save(tmp_path / "a.bmp")
    (tmp_path / "a.bmp").write_bytes((tmp_path / "a.bmp").read_bytes()[:120])
    with Image.open(tmp_path / "a.bmp") as image:
        images = from_iterable([(ARRAYS[0], 0), (image, 0)])
        with pytest.raises(BadImages, match="item 1 of items is not a readable image"):
            images.take([1])


@pytest.mark.parametrize(
    ("items", "more", "message"),
    [
        ([], {}, "holds no items"),
        ([(ARRAYS[0], "cat")], {}, "item 0 of items has the label 'cat'"),
        ([(ARRAYS[0], 0.5)], {}, r"the label 0\.5, which is no integer"),
        ([(ARRAYS[0], True)], {}, "the label True"),
        ([(ARRAYS[0], 0), (ARRAYS[0],)], {}, "item 1 of items is no pair"),
        ([{"img": ARRAYS[0], "label": 0}], {}, r"columns \['img', 'label'\]; name others"),
        ([(ARRAYS[0], 0)], {"labels": [0, 1]}, "1 items, but 2 labels"),
        ([(ARRAYS[0], 3)], {"classes": ["a"]}, "label 3 of image 0"),
        ([(ARRAYS[0], -1)], {}, "label -1 of image 0"),
    ],
)
def test_what_is_refused(items, more, message):
    with pytest.raises(BadImages, match=message):
        from_iterable(items, **more)


def test_a_data_set_that_raises():
    class Broken:
        def __len__(self):
            return 3

        def __getitem__(self, i):
            if i == 1:
                raise OSError("disk")
            return ARRAYS[i], 0

    with pytest.raises(BadImages, match=r"item 1 of items cannot be read \(OSError\('disk'\)\)"):
        from_iterable(Broken())
    assert [i for i, _ in audit(from_iterable(Broken(), labels=[0, 0, 0]))] == [1]
