"""The bits of keys and draws, against an implementation in plain Python integers."""

import ast
import hashlib
import math
import os
import struct
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from besiege.core import philox, words
from besiege.core.key import Key

INT64 = st.integers(-(1 << 63), (1 << 63) - 1)
ROOT, FOLD, DRAW = 1, 2, 3
INTEGER, TEXT, UNIFORM, NORMAL, LAPLACE, INTEGERS, PERMUTATION = range(1, 8)


def reference(counter: tuple[int, ...], key: tuple[int, int]) -> tuple[int, ...]:
    """Philox 4x32-10 as the paper writes it."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        a, b = 0xD2511F53 * c0, 0xCD9E8D57 * c2
        c0, c1, c2, c3 = (
            (b >> 32) ^ c1 ^ k0,
            b % 2**32,
            (a >> 32) ^ c3 ^ k1,
            a % 2**32,
        )
        k0, k1 = (k0 + 0x9E3779B9) % 2**32, (k1 + 0xBB67AE85) % 2**32
    return c0, c1, c2, c3


def split(v: int) -> tuple[int, int]:
    return v % 2**32, (v >> 32) % 2**32


def signed(v: int) -> int:
    return (v + 2**63) % 2**64 - 2**63


def block(key: int, value: int, kind: int, domain: int) -> tuple[int, ...]:
    return reference((*split(value), kind, domain), split(key))


def child(key: int, value: int, kind: int, domain: int) -> int:
    low, high, *_ = block(key, value, kind, domain)
    return signed(low | high << 32)


def fold(key: int, part: int | str) -> int:
    if isinstance(part, int):
        return child(key, part, INTEGER, FOLD)
    digest = hashlib.blake2b(part.encode(), digest_size=8).digest()
    return child(key, struct.unpack("<q", digest)[0], TEXT, FOLD)


def row(key: int, n: int, kind: int) -> list[int]:
    """The first n words of one kind of draw."""
    return [w for i in range(-(-n // 4)) for w in block(key, i, kind, DRAW)][:n]


def run(counter: tuple[int, ...], key: tuple[int, int]) -> tuple[int, ...]:
    even = torch.tensor(counter[::2]).reshape(2, 1, 1)
    odd = torch.tensor(counter[1::2]).reshape(2, 1, 1)
    keys = philox.round_keys(torch.tensor([signed(key[0] | key[1] << 32)]))
    pairs = philox.encrypt(even, odd, keys).flatten().tolist()
    return tuple(w for p in pairs for w in split(p))


# Published with the Random123 library (kat_vectors): counter, key, output.
KNOWN = [
    ("00000000 " * 4, "00000000 " * 2, "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff " * 4, "ffffffff " * 2, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    (
        "243f6a88 85a308d3 13198a2e 03707344",
        "a4093822 299f31d0",
        "d16cfe09 94fdcceb 5001e420 24126ea1",
    ),
]


@pytest.mark.parametrize("implementation", [run, reference])
@pytest.mark.parametrize("counter, key, output", KNOWN)
def test_known_answers(implementation, counter, key, output):
    counter, key, output = ([int(w, 16) for w in text.split()] for text in (counter, key, output))
    assert implementation(tuple(counter), tuple(key)) == tuple(output)


@settings(deadline=None, max_examples=200, derandomize=True)
@given(st.lists(st.integers(0, 2**32 - 1), min_size=6, max_size=6))
def test_any_counter_and_key(numbers):
    counter, key = tuple(numbers[:4]), (numbers[4], numbers[5])
    assert run(counter, key) == reference(counter, key)


@settings(deadline=None, max_examples=100, derandomize=True)
@given(INT64, st.lists(INT64, max_size=5), st.lists(INT64 | st.text(max_size=9), max_size=4))
def test_root_and_fold(seed, ids, parts):
    key = Key.root(seed, ids)
    expected = [child(seed, i, 0, ROOT) for i in ids]
    assert key.values.tolist() == expected
    for part in parts:
        expected = [fold(v, part) for v in expected]
    assert key.fold(*parts).values.tolist() == expected


@settings(deadline=None, max_examples=60, derandomize=True)
@given(INT64, st.lists(INT64, min_size=1, max_size=4), st.integers(0, 40))
def test_uniform_and_integers(seed, ids, n):
    key = Key.root(seed, ids).fold("u")
    rows = [[w >> 8 for w in row(v, n, UNIFORM)] for v in key.values.tolist()]
    assert (key.uniform(n).double() * 2**24).tolist() == rows
    rows64 = [row(v, 2 * n, UNIFORM) for v in key.values.tolist()]
    rows = [[(a | b << 32) >> 11 for a, b in zip(r[::2], r[1::2], strict=True)] for r in rows64]
    assert (key.uniform(n, dtype=torch.float64) * 2**53).tolist() == rows
    rows64 = [row(v, 2 * n, INTEGERS) for v in key.values.tolist()]
    for high in (1, 10, 2**31):
        rows = [
            [((a | b << 32) * high) >> 64 for a, b in zip(r[::2], r[1::2], strict=True)]
            for r in rows64
        ]
        assert key.integers(high, n).tolist() == rows


def test_stream_of_many_blocks():
    """A row longer than a chunk, where the block number counts on across chunks."""
    key = Key.root(3, [5])
    n = 4 * philox.LANES_CPU + 4 * 7
    got = (key.uniform(n).double() * 2**24).long()[0, -40:].tolist()
    value = key.values.item()
    expected = [w >> 8 for i in range(n // 4 - 10, n // 4) for w in block(value, i, UNIFORM, DRAW)]
    assert got == expected


def test_permutation_sorts_63_bit_words():
    key = Key.root(3, [5, 6])
    for got, v in zip(key.permutation(50).tolist(), key.values.tolist(), strict=True):
        w = row(v, 100, PERMUTATION)
        numbers = [(a | b << 32) % 2**63 for a, b in zip(w[::2], w[1::2], strict=True)]
        assert got == sorted(range(50), key=numbers.__getitem__)


def exponential(word: int) -> float:
    """-log((2k + 1) / 2^31) in float64, by log1p where the argument is near 1."""
    return -math.log1p(-(2**31 - 2 * (word >> 2) - 1) / 2**31)


def box_muller(w: list[int]) -> list[float]:
    """Words (0, 2) and (1, 3) of a block make elements (0, 2) and (1, 3)."""
    z = [0.0] * 4
    for j in (0, 1):
        radius = math.sqrt(2 * exponential(w[j])) * (-1 if w[j + 2] >> 31 else 1)
        angle = (w[j + 2] % 2**31 + 2**30) % 2**31 - 2**30
        z[j] = radius * math.sin(math.pi / 2 * (2**30 - abs(angle)) / 2**30)
        z[j + 2] = radius * math.sin(math.pi / 2 * angle / 2**30)
    return z


def test_normal_and_laplace_are_accurate():
    key = Key.root(11, [2])
    w = row(key.values.item(), 40_000, NORMAL)
    numbers = [z for i in range(0, len(w), 4) for z in box_muller(w[i : i + 4])]
    exact = torch.tensor(numbers, dtype=torch.float64)
    assert ((key.normal(len(w))[0] - exact).abs() <= 1e-6 * exact.abs()).all()
    w = row(key.values.item(), 40_000, LAPLACE)
    numbers = [exponential(v) * (-1 if v & 1 else 1) for v in w]
    exact = torch.tensor(numbers, dtype=torch.float64)
    assert ((key.laplace(len(w))[0] - exact).abs() <= 1e-6 * exact.abs()).all()


def test_exponential_at_its_ends():
    """Where the logarithm changes its octave, and where u is nearest to 0 and to 1."""
    edges = {0, 1, 2, 3, 2**32 - 1, 2**32 - 4, 2**31 - 1, 2**31}
    edges |= {round(2**32 * math.sqrt(0.5) * 0.5**k) + d for k in range(20) for d in range(-9, 9)}
    got = words.exponential(torch.tensor([signed_word(w) for w in edges], dtype=torch.int32))
    exact = torch.tensor([exponential(w) for w in edges], dtype=torch.float64)
    assert ((got - exact).abs() <= 4e-7 * exact).all()
    assert got.max() == pytest.approx(31 * math.log(2))
    assert got.min() == 2.0**-31


def signed_word(w: int) -> int:
    return (w + 2**31) % 2**32 - 2**31


def digests() -> dict[str, str]:
    key = Key.root(2026, [0, -1, 1 << 40]).fold("golden", -7)
    draws = {
        "values": key.values,
        "uniform": key.uniform(1001),
        "uniform64": key.uniform(7, dtype=torch.float64),
        "normal": key.normal(1001),
        "laplace": key.laplace(1001),
        "integers": key.integers(1000, 9),
        "permutation": key.permutation(100),
    }
    return {
        name: hashlib.blake2b(v.numpy().tobytes(), digest_size=6).hexdigest()
        for name, v in draws.items()
    }


PINNED = {
    "values": "42f5bee11545",
    "uniform": "4838a2ed981e",
    "uniform64": "893756847c50",
    "normal": "56ae3c10e07a",
    "laplace": "80f03e6cad1c",
    "integers": "bbfa24c94fc5",
    "permutation": "caa77d57333e",
}


def test_bits_are_pinned():
    """Once released, a key's draws never change: not by version, processor or device."""
    assert digests() == PINNED


@pytest.mark.parametrize(
    "name, value",
    [
        ("ATEN_CPU_CAPABILITY", "default"),
        ("ATEN_CPU_CAPABILITY", "avx2"),
        ("MKL_ENABLE_INSTRUCTIONS", "AVX2"),
        ("MKL_CBWR", "COMPATIBLE"),
    ],
)
def test_bits_on_other_processors(name, value):
    """The same bits from scalar code and from narrower vectors, of torch and of MKL."""
    environment = {**os.environ, name: value}
    script = f"import runpy; print(runpy.run_path({__file__!r})['digests']())"
    out = subprocess.run(
        [sys.executable, "-c", script], env=environment, check=True, capture_output=True, text=True
    )
    assert ast.literal_eval(out.stdout) == PINNED
