"""The protocol of image sets: stable ids, and labels and pixels that can be scored."""

import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

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


SIZED = some(30, targets=(torch.arange(30) + 1) % 3)


@given(st.integers(1, 30), st.integers(1, 30), st.integers(-(2**63), 2**63 - 1))
def test_a_small_subset_begins_a_large_one(one, other, seed):
    few, many = (SIZED.subset(n, seed) for n in sorted((one, other)))
    x, y, targets = many.take(range(len(few)))
    assert torch.equal(few.take(range(len(few))).x, x)
    assert torch.equal(few.labels, y)
    assert torch.equal(few.targets, targets)
    assert torch.equal(few.take([len(few) - 1]).x, x[-1:])
    distinct = many.take(range(len(many))).x.flatten(1).unique(dim=0)
    assert len(distinct) == len(many)


@given(st.integers(1, 30))
def test_a_subset_ranks_by_id_alone(n):
    """Dropping the last images of a set keeps the order of the others."""
    part = ImageSet.of(SIZED.take(range(n)).x, SIZED.labels[:n], classes=3)
    every, some_of = SIZED.subset(30, 5).take(range(30)).x, part.subset(n, 5).take(range(n)).x
    same = (every[None] == some_of[:, None]).flatten(2).all(2)
    assert torch.equal(same.sum(1), torch.ones(n, dtype=torch.int64))
    assert torch.all(same.int().argmax(1).diff() > 0)


def test_subsets_by_seed():
    first = SIZED.subset(10, 0)
    assert not torch.equal(first.take(range(10)).x, SIZED.subset(10, 1).take(range(10)).x)
    assert not torch.equal(first.take(range(10)).x, SIZED.take(range(10)).x)
    assert first.name == "images (10 of 30, seed 0)"
    assert len({SIZED.digest, first.digest, SIZED.subset(10, 1).digest}) == 3
    assert first.digest == SIZED.subset(10).digest
    unnamed = ImageSet("a", ("0",), (3, 4, 4), SIZED.labels * 0, SIZED.pixels)
    assert unnamed.subset(3).digest == ""
    with pytest.raises(BadImages, match=r"images \(10 of 30, seed 0\) has no image 10"):
        first.take([10])
    for wrong in (0, 31):
        with pytest.raises(BadSetting, match=rf"holds 1 to 30 images .* not {wrong}"):
            SIZED.subset(wrong)
    chosen = SIZED.subset(20).subset(20, 3)
    assert torch.equal(pickle.loads(pickle.dumps(chosen)).take([4]).x, chosen.take([4]).x)


def test_digest_is_over_content():
    x, y = torch.zeros(2, 1, 2, 2), torch.tensor([0, 1])
    other = x.clone()
    other[1, 0, 1, 1] = 0.5
    sets = [
        ImageSet.of(x, y),
        ImageSet.of(other, y),
        ImageSet.of(x, y.flip(0)),
        ImageSet.of(x, y, targets=y),
        ImageSet.of(x.reshape(2, 1, 1, 4), y),
        ImageSet.of_bytes(x.byte().permute(0, 2, 3, 1), y, ["a", "b"]),
    ]
    assert len({s.digest for s in sets}) == len(sets)
    assert (
        ImageSet.of(x.clone(), y.clone(), name="b").digest == sets[0].digest == "eccf1899681e137c"
    )


def test_digests_of_the_catalog():
    digests = [DATASETS[name].factory(**case).digest for name, case in CASES]
    assert all(len(d) == 16 and set(d) <= set("0123456789abcdef") for d in digests)
    assert len(set(digests)) == len(CASES)
    assert digests == [DATASETS[name].factory(**case).digest for name, case in CASES]
