"""Keys: rows, folds, batches, devices, debug mode, errors."""

import copy
import pickle
import threading

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from besiege.core import philox
from besiege.core.errors import BadSetting, BesiegeError
from besiege.core.key import Key, watch_reuse

INT64 = st.integers(-(1 << 63), (1 << 63) - 1)
PART = INT64 | st.text(max_size=12)

DRAWS = {
    "uniform": lambda key: key.uniform(3, 5),
    "uniform of one": lambda key: key.uniform(),
    "uniform of none": lambda key: key.uniform(4, 0),
    "uniform in float64": lambda key: key.uniform(7, dtype=torch.float64),
    "normal": lambda key: key.normal(2, 31),
    "laplace": lambda key: key.laplace(33),
    "integers": lambda key: key.integers(1000, 9),
    "bernoulli": lambda key: key.bernoulli(0.3, 17),
    "permutation": lambda key: key.permutation(37),
    "fold": lambda key: key.fold("a", 3).values,
    "spread": lambda key: key.spread("draw", 3).values.reshape(-1, 3),
}
WIDE = {
    "uniform": lambda key: key.uniform(3, 61, 61),
    "normal": lambda key: key.normal(3, 61, 61),
    "laplace": lambda key: key.laplace(3, 61, 61),
    "integers": lambda key: key.integers(7, 3, 61, 61),
}
IDS = [5, 0, -3, 99, 1 << 40, 7, 8, 9, 10, 11, 12, 13, -(1 << 63)]


@pytest.fixture
def key() -> Key:
    return Key.root(17, IDS).fold("stage", 2)


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and a.tolist() == b.tolist()


@pytest.mark.parametrize("name", DRAWS)
def test_rows_and_layout(key, name):
    draw = DRAWS[name](key)
    assert len(draw) == len(IDS)
    assert draw.is_contiguous()


def test_shapes_and_dtypes(key):
    for draw in (key.uniform(3, 5), key.normal(3, 5), key.laplace(3, 5)):
        assert (draw.shape, draw.dtype) == ((len(IDS), 3, 5), torch.float32)
    assert key.uniform(2, dtype=torch.float64).dtype == torch.float64
    assert key.integers(3, 2).dtype == key.permutation(2).dtype == torch.int64
    assert key.bernoulli(0.5, 2).dtype == torch.bool
    assert key.uniform().shape == (len(IDS),)


@pytest.mark.parametrize("name", DRAWS)
@pytest.mark.parametrize("size", [1, 7])
def test_equal_over_batch_splits(key, name, size):
    whole = DRAWS[name](key)
    parts = [DRAWS[name](key[i : i + size]) for i in range(0, len(key), size)]
    assert same(torch.cat(parts), whole)


@pytest.mark.parametrize("name", DRAWS)
def test_equal_over_orders_and_repetition(key, name):
    whole = DRAWS[name](key)
    order = Key.root(1, [0]).permutation(len(key))[0]
    assert same(DRAWS[name](key[order]), whole[order])
    assert same(DRAWS[name](key), whole)
    alone = Key.root(17, [IDS[4]]).fold("stage", 2)
    assert same(DRAWS[name](alone), whole[4:5])


@pytest.mark.parametrize("name", WIDE)
def test_equal_over_chunks(key, name, monkeypatch):
    """Rows longer than a chunk, and chunks that end inside a batch or a row."""
    whole = WIDE[name](key)
    for lanes in (1000, 7001, 1 << 22):
        monkeypatch.setattr(philox, "LANES_CPU", lanes)
        assert torch.equal(WIDE[name](key), whole)
    assert torch.equal(WIDE[name](key[2:3]), whole[2:3])


@pytest.mark.parametrize("name", WIDE)
def test_equal_over_thread_counts(key, name, monkeypatch):
    monkeypatch.setattr(philox, "LANES_CPU", 1 << 22)  # chunks that torch does split
    before = torch.get_num_threads()
    draws = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            draws.append(WIDE[name](key))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*draws)


@pytest.mark.parametrize("method", ["uniform", "normal", "laplace"])
def test_a_longer_draw_starts_like_a_shorter_one(key, method):
    draw = getattr(key, method)
    for n in (4, 8, 40):
        assert torch.equal(draw(101)[:, :n], draw(n))
    assert torch.equal(draw(5, 8), draw(40).reshape(-1, 5, 8))


def test_kinds_of_draws_differ(key):
    draws = [key.uniform(64), key.normal(64), key.laplace(64), key.integers(1 << 24, 64)]
    for i, a in enumerate(draws):
        for b in draws[:i]:
            assert abs(float(torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1])) < 0.15


def test_strided_values_and_inference_mode(key):
    doubled = torch.stack([key.values, torch.zeros_like(key.values)], 1)
    strided = Key(doubled[:, 0], key.origins)
    assert not strided.values.is_contiguous()
    with torch.inference_mode():
        inside = Key.root(17, IDS).fold("stage", 2)
        drawn = inside.normal(9)
    for other in (strided, inside):
        assert same(other.normal(9), key.normal(9))
        assert same(other.fold("x").values, key.fold("x").values)
    assert same(drawn, key.normal(9))


def test_default_dtype_does_not_matter(key):
    expected = key.normal(9), key.uniform(9)
    torch.set_default_dtype(torch.float64)
    try:
        assert same(key.normal(9), expected[0])
        assert same(key.uniform(9), expected[1])
    finally:
        torch.set_default_dtype(torch.float32)


def test_nothing_global_is_touched(key):
    before = torch.get_rng_state()
    for draw in DRAWS.values():
        draw(key)
    assert torch.equal(torch.get_rng_state(), before)


@settings(deadline=None, max_examples=150, derandomize=True)
@given(INT64, INT64, PART, PART)
def test_folds_of_different_parts_differ(seed, example, a, b):
    assume(a != b)
    key = Key.root(seed, [example])
    keys = [key, key.fold(a), key.fold(b), key.fold(a, b), key.fold(b, a), key.fold(a, a)]
    values = {k.values.item() for k in keys}
    assert len(values) == len(keys)


@settings(deadline=None, max_examples=50, derandomize=True)
@given(st.lists(PART, max_size=5), INT64)
def test_fold_is_fold_by_fold_and_its_origin_is_the_root(parts, number):
    key = Key.root(3, [1, 2])
    step = key
    for part in parts:
        step = step.fold(part)
    assert same(key.fold(*parts).values, step.values)
    assert same(step.origin().values, key.values)
    assert same(step.origin().fold("x").values, key.fold("x").values)
    assert key.fold(number).values.tolist() != key.fold(str(number)).values.tolist()


def test_fold_of_numpy_integers():
    key = Key.root(np.int64(3), np.array([1, 2]))
    assert same(key.fold(np.int32(4)).values, Key.root(3, [1, 2]).fold(4).values)


def test_spread_is_fold_by_name_and_number(key):
    wide = key.spread("draw", 4)
    assert len(wide) == 4 * len(key)
    for i in range(4):
        narrow = key.fold("draw", i)
        assert same(wide.values[i::4], narrow.values)
        assert same(wide[torch.arange(i, len(wide), 4)].normal(5), narrow.normal(5))
    assert same(wide.origin().values, key.origin().values.repeat_interleave(4))
    assert len(key.spread("draw", 0)) == 0


def test_rows_are_taken(key):
    mask = torch.arange(len(key)) % 3 == 0
    for index in (slice(2, 9, 3), [4, 1], torch.tensor([4, 4]), mask):
        taken = key[index]
        assert same(taken.values, key.values[index])
        assert same(taken.origin().values, key.origin().values[index])
    assert len(key) == len(IDS)
    with pytest.raises(BadSetting, match=r"key\[3:4\]"):
        key[3]


def test_empty_batch():
    key = Key.root(0, []).fold("a")
    assert key.uniform(3, 4).shape == (0, 3, 4)
    assert key.permutation(5).shape == (0, 5)
    assert len(key.spread("draw", 3)) == 0


def test_seed_and_id_are_not_cut_to_32_bits():
    """torch's own CPU generator forgets the upper half of a seed."""
    seeds = [Key.root(s, [0]).values.item() for s in (1, 1 + (1 << 32), -1, (1 << 32) - 1)]
    assert len(set(seeds)) == 4
    ids = Key.root(1, [1, 1 + (1 << 32), -1, (1 << 32) - 1]).values.tolist()
    assert len(set(ids)) == 4
    assert Key.root(1, [2]).values.item() != Key.root(2, [1]).values.item()


def test_a_million_roots_do_not_collide():
    ids = torch.arange(250_000)
    keys = [Key.root(s, ids).values for s in (0, 1)] + [Key.root(0, ids - 250_000).values]
    keys.append(Key.root(0, ids).fold(0).values)
    assert len(torch.cat(keys).unique()) == 1_000_000


def test_pickles_and_copies(key):
    for other in (pickle.loads(pickle.dumps(key)), copy.deepcopy(key), key.to("cpu")):
        assert same(other.normal(3), key.normal(3))
        assert same(other.origin().values, key.origin().values)
        assert other.trail == ("stage", 2)


def test_frozen(key):
    with pytest.raises(AttributeError):
        key.values = key.origins


@pytest.mark.gpu
def test_same_bits_on_the_accelerator(key):
    if not torch.cuda.is_available():
        pytest.skip("no accelerator here: bits on it cannot be compared")
    for draw in (*DRAWS.values(), *WIDE.values()):
        assert same(draw(key.to("cuda")).cpu(), draw(key))
    assert Key.root(17, IDS, device="cuda").device.type == "cuda"
    assert same(Key.root(17, IDS, device="cuda").values.cpu(), Key.root(17, IDS).values)


class TestWatchReuse:
    def test_names_the_key(self, key):
        with watch_reuse():
            key.uniform(3)
            with pytest.raises(BesiegeError, match=r"root/stage/2 \(13 of 13 rows\).*fold\("):
                key.normal(4)

    @pytest.mark.parametrize("name", DRAWS)
    def test_every_draw_counts_and_no_fold(self, key, name):
        with watch_reuse():
            DRAWS[name](key)
            if name in ("fold", "spread"):
                DRAWS[name](key)
            else:
                with pytest.raises(BesiegeError, match="twice"):
                    DRAWS[name](key)

    def test_the_same_fold_again_is_reuse_and_another_is_not(self, key):
        with watch_reuse():
            for part in ("a", "b", 0, "0", 1):
                key.fold(part).uniform()
            key.spread("draw", 5).uniform()
            with pytest.raises(BesiegeError, match="root/stage/2/b"):
                key.fold("b").uniform()

    def test_one_common_row_is_enough(self, key):
        with watch_reuse():
            key[:4].uniform()
            key[4:8].uniform()
            with pytest.raises(BesiegeError, match="1 of 3 rows"):
                key[7:10].uniform()

    def test_equal_rows_of_one_draw_are_padding(self, key):
        with watch_reuse():
            assert key[[0, 1, 0]].uniform().shape == (3,)

    def test_ends_with_its_block_and_nests(self, key):
        key.uniform()
        with watch_reuse():
            key.uniform()
            with watch_reuse():
                key.uniform()
            with pytest.raises(BesiegeError, match="twice"):
                key.uniform()
        key.uniform()

    def test_other_threads_are_not_watched(self, key):
        failures = []

        def draw_twice():
            try:
                key.uniform()
                key.uniform()
            except BesiegeError as error:
                failures.append(error)

        with watch_reuse():
            key.uniform()
            thread = threading.Thread(target=draw_twice)
            thread.start()
            thread.join()
        assert not failures


@pytest.mark.parametrize(
    "act, message",
    [
        (lambda k: k.uniform(-1), r"axis of the shape must lie in \[0, .*got -1"),
        (lambda k: k.uniform(2.0), "axis of the shape must be an integer, got 2.0"),
        (lambda k: k.normal((2, 3)), r"must be an integer, got \(2, 3\)"),
        (lambda k: k.uniform(2, dtype=torch.float16), "float32 or float64, not torch.float16"),
        (lambda k: k.integers(0, 2), r"high must lie in \[1, 2147483648\], got 0"),
        (lambda k: k.integers(2.5), "high must be an integer, got 2.5"),
        (lambda k: k.integers((1 << 31) + 1), "high must lie in"),
        (lambda k: k.bernoulli(1.01, 3), r"p must lie in \[0, 1\], got 1.01"),
        (lambda k: k.bernoulli(float("nan")), "got nan"),
        (lambda k: k.permutation(-2), "got -2"),
        (lambda k: k.fold(0.5), r"fold part that is not a str must be an integer, got 0.5 \(float"),
        (lambda k: k.fold("a", None), "NoneType"),
        (lambda k: k.fold(1 << 63), "must lie in"),
        (lambda k: k.spread("a", -1), r"spread\(name, n\): n must lie in"),
        (lambda k: Key.root(1.0, [1]), "seed must be an integer, got 1.0"),
        (lambda k: Key.root(1 << 64, [1]), "seed must lie in"),
        (lambda k: Key.root(0, [1.5]), "id must be an integer, got 1.5"),
        (lambda k: Key.root(0, torch.zeros(2)), "row of integers .*float32"),
        (lambda k: Key.root(0, torch.zeros(2, 2, dtype=torch.int64)), r"shape \(2, 2\)"),
    ],
)
def test_bad_arguments(key, act, message):
    with pytest.raises(BadSetting, match=message):
        act(key)
