"""The protocol of image sets: stable ids, and labels and pixels that can be scored."""

import pickle

import pytest
import torch

from besiege.core.errors import BadImages, BadSetting, UnknownName
from besiege.core.key import Key
from besiege.data.catalog import DATASETS, load_images
from besiege.data.images import ImageSet


def some(n=5, **more):
    x = Key.root(0, range(n)).uniform(3, 4, 4)
    return ImageSet.of(x, torch.arange(n) % 3, **more)


CASES = [(entry.name, case) for entry in DATASETS.values() for case in entry.cases]


@pytest.mark.parametrize(("name", "case"), CASES)
def test_laws_of_a_set(name, case):
    images = DATASETS[name].factory(**case)
    every = images.take(range(len(images)))
    assert every.x.shape == (len(images), *images.shape)
    assert every.x.dtype == torch.float32
    assert 0 <= every.x.min() < every.x.max() <= 1
    assert every.y.dtype == torch.int64
    assert every.y.max() < len(images.classes)
    last = len(images) - 1
    few = images.take([last, 0, last])
    assert torch.equal(few.x, every.x[[last, 0, last]])
    assert torch.equal(few.y, every.y[[last, 0, last]])
    assert images.take([]).x.shape == (0, *images.shape)
    assert torch.equal(pickle.loads(pickle.dumps(images)).take([0]).x, every.x[:1])


def test_targets_come_along():
    assert some().take([1]).targets is None
    images = some(targets=torch.tensor([1, 2, 3, 1, 2]))
    assert len(images.classes) == 4
    assert images.take(torch.tensor([2, 0])).targets.tolist() == [3, 1]


@pytest.mark.parametrize("wrong", [5, -1])
def test_ids_that_are_not_there(wrong):
    with pytest.raises(BadImages, match=f"no image {wrong}: its ids go from 0 to 4"):
        some().take([0, wrong])


@pytest.mark.parametrize(
    ("value", "message"),
    [(float("nan"), "value nan"), (255.0, "value 255"), (-0.1, "value -0.1")],
)
def test_pixels_that_cannot_be_scored(value, message):
    x = torch.zeros(4, 3, 2, 2)
    x[2, 1, 0, 1] = value
    with pytest.raises(BadImages, match=f"image 2 of images has the {message}"):
        ImageSet.of(x, torch.zeros(4, dtype=torch.int64))


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (torch.zeros(2, 3, 4), torch.tensor([0, 1]), "must be float32"),
        (torch.zeros(2, 3, 4, 4).double(), torch.tensor([0, 1]), "torch.float64"),
        (torch.zeros(2, 3, 4, 4), torch.tensor([0]), "2 images, but 1 labels"),
        (torch.zeros(2, 3, 4, 4), torch.tensor([0, 2]), "label 2 of image 1"),
        (torch.zeros(2, 3, 4, 4), torch.tensor([0.0, 1.0]), "must be int64"),
    ],
)
def test_images_and_labels_that_do_not_fit(x, y, message):
    with pytest.raises(BadImages, match=message):
        ImageSet.of(x, y, classes=2)


def test_digits_are_split_by_class_and_never_shared():
    train, test = load_images("digits:part=train"), load_images("digits")
    assert len(train) + len(test) == 1797
    for part, share in ((train, 0.75), (test, 0.25)):
        counts = part.labels.bincount(minlength=10)
        assert torch.all((counts - share * 179.7).abs() <= share * 10)
    x, held_out = (s.take(range(len(s))).x.flatten(1) for s in (train, test))
    assert torch.cdist(held_out, x).min() > 0.1
    with pytest.raises(BadSetting, match='"test" or "train", not "all"'):
        load_images("digits:part=all")


def test_unknown_names():
    with pytest.raises(UnknownName, match='Did you mean "digits"'):
        load_images("digit")
    with pytest.raises(UnknownName, match='Did you mean "part"'):
        load_images("digits:parts=test")
