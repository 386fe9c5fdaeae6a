"""Keyed random numbers: an example's draws depend on (seed, id, folds) alone.

A `Key` holds one 64-bit number per example. Nothing is consumed by drawing: the same key gives the
same numbers again, so a new draw takes a new key, made by `fold`. Rows never meet: any batch size,
order, chunk, thread count or device gives the same bits.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from enum import IntEnum
from hashlib import blake2b

import torch
from torch import Tensor

from besiege.core import words
from besiege.core.errors import BadSetting, BesiegeError
from besiege.core.philox import Convert, halves, hashed, stream


class _Domain(IntEnum):
    """Last word of a counter: what a key is used for."""

    ROOT = 1
    FOLD = 2
    DRAW = 3


class _Kind(IntEnum):
    """Third word of a counter: what is folded or drawn, so that kinds share no words."""

    INTEGER = 1
    TEXT = 2
    UNIFORM = 3
    NORMAL = 4
    LAPLACE = 5
    INTEGERS = 6
    PERMUTATION = 7


_drawn: ContextVar[set[int] | None] = ContextVar("drawn", default=None)


@contextmanager
def watch_reuse() -> Iterator[None]:
    """Raise BesiegeError when, inside, numbers are drawn twice from one key (the debug mode).

    Folding a key is never a reuse. Two equal rows within one draw are one example twice.

    >>> key = Key.root(0, [7])
    >>> with watch_reuse():
    ...     first, second = key.fold("a").uniform(), key.fold("a").normal()
    Traceback (most recent call last):
    besiege.core.errors.BesiegeError: Numbers were drawn twice from the key root/a ...
    """
    token = _drawn.set(set())
    try:
        yield
    finally:
        _drawn.reset(token)


@dataclass(frozen=True, eq=False)
class Key:
    """One 64-bit key per example.

    values: (B,) int64. origins: (B,) int64, what `root` gave. trail: the folds since, for messages.

    >>> key = Key.root(seed=0, ids=[3, 1, 4])
    >>> key.fold("noise", 2).uniform(2, 2).shape
    torch.Size([3, 2, 2])
    >>> alone = Key.root(0, [4]).fold("noise", 2).uniform(2, 2)
    >>> bool((key.fold("noise", 2).uniform(2, 2)[2:] == alone).all())
    True
    """

    values: Tensor
    origins: Tensor
    trail: tuple[int | str, ...] = ()

    @classmethod
    def root(
        cls, seed: int, ids: Tensor | Sequence[int], device: torch.device | str | None = None
    ) -> Key:
        """The keys of the examples `ids` (B,) under `seed`; both any 64-bit integers.

        Keys of different (seed, id) are equal with probability 2^-64. Raises BadSetting for
        a seed or ids that are no integers.
        """
        index = _ids(ids).to(device)
        start = torch.full_like(index, _int64("The seed", seed))
        values = hashed(start, index, 0, _Domain.ROOT)
        return cls(values, values)

    def fold(self, *parts: int | str) -> Key:
        """A new stream for each example: fold(a, b) is fold(a).fold(b); 3 and "3" differ.

        Raises BadSetting for a part that is neither int (64 bits with sign) nor str.
        """
        values = self.values
        for part in parts:
            kind, number = _fold_part(part)
            count = torch.tensor([number], device=values.device)
            values = hashed(values, count, kind, _Domain.FOLD)
        return Key(values, self.origins, self.trail + parts)

    def spread(self, name: str, n: int) -> Key:
        """B * n rows, example by example: row b * n + i is example b folded with (name, i)."""
        n = _size("spread(name, n): n", n)
        base = self.fold(name).values.repeat_interleave(n)
        index = torch.arange(n, device=self.device).repeat(len(self))
        values = hashed(base, index, _Kind.INTEGER, _Domain.FOLD)
        return Key(values, self.origins.repeat_interleave(n), (*self.trail, name, f"0..{n - 1}"))

    def origin(self) -> Key:
        """What `root` gave, however folded since."""
        return Key(self.origins, self.origins)

    def __getitem__(self, index: Tensor | slice | Sequence[int]) -> Key:
        """The rows `index`: a slice, a list, or a tensor of integers or booleans."""
        if isinstance(index, int):
            raise BadSetting(f"A key is taken by rows: key[{index}:{index + 1}], not key[{index}].")
        return replace(self, values=self.values[index], origins=self.origins[index])

    def __len__(self) -> int:
        return len(self.values)

    @property
    def device(self) -> torch.device:
        """Where the keys are, and where draws are made."""
        return self.values.device

    def to(self, device: torch.device | str) -> Key:
        """The same keys on `device`."""
        return replace(self, values=self.values.to(device), origins=self.origins.to(device))

    def uniform(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """Uniform in [0, 1), (B, *shape): multiples of 2^-24, or of 2^-53 in float64.

        Element j of a row in float32 is the upper 24 bits of the row's word j, whatever the
        shape. Raises BadSetting for another dtype.
        """
        if dtype == torch.float64:
            return self._draw(_Kind.UNIFORM, shape, words.uniform64, torch.float64)
        if dtype != torch.float32:
            raise BadSetting(f"uniform draws float32 or float64, not {dtype}: convert the result.")
        return self._draw(_Kind.UNIFORM, shape, words.uniform32, torch.float32)

    def normal(self, *shape: int) -> Tensor:
        """Standard normal float32, (B, *shape), |z| <= 6.55, Box-Muller to 1e-6 relative."""
        return self._draw(_Kind.NORMAL, shape, words.normal, torch.float32)

    def laplace(self, *shape: int) -> Tensor:
        """Laplace of scale 1 (variance 2) float32, (B, *shape), |z| <= 21.49."""
        return self._draw(_Kind.LAPLACE, shape, words.laplace, torch.float32)

    def integers(self, high: int, *shape: int) -> Tensor:
        """Uniform integers in [0, high), (B, *shape) int64, 1 <= high <= 2^31.

        64 bits times high, upper word: the bias of a value is below high / 2^64.
        """
        high = _whole("integers(high): high", high, 1, 1 << 31)
        bits = self._draw(_Kind.INTEGERS, shape, _same, torch.int64)
        low, upper = halves(bits).mul_(high)
        return torch.bitwise_right_shift(upper + (low >> 32), 32)

    def bernoulli(self, p: float, *shape: int) -> Tensor:
        """True with probability `p` (to 2^-24), (B, *shape) bool. BadSetting outside [0, 1]."""
        if not 0 <= p <= 1:
            raise BadSetting(f"bernoulli(p): p must lie in [0, 1], got {p}.")
        return torch.lt(self.uniform(*shape), p)

    def permutation(self, n: int) -> Tensor:
        """A permutation of 0..n-1 in each row, (B, n) int64: the order of 63-bit numbers."""
        bits = self._draw(_Kind.PERMUTATION, (n,), _same, torch.int64)
        return (bits & ((1 << 63) - 1)).argsort(dim=1, stable=True)

    def _draw(
        self, kind: _Kind, shape: Sequence[int], convert: Convert, dtype: torch.dtype
    ) -> Tensor:
        """Enough blocks of the kind's stream for `shape`, converted and cut to it."""
        shape = [_size("Each axis of the shape", n) for n in shape]
        self._watch()
        count, width = math.prod(shape), 16 // dtype.itemsize
        source = torch.int32 if dtype.itemsize == 4 else torch.int64
        out = stream(self.values, -(-count // width), kind, _Domain.DRAW, convert, source)
        return out.view(dtype)[:, :count].reshape(len(self), *shape).contiguous()

    def _watch(self) -> None:
        """Record a draw under `watch_reuse`; raise if one of the rows was drawn from before."""
        drawn = _drawn.get()
        if drawn is None:
            return
        rows = set(self.values.tolist())
        if again := len(rows & drawn):
            name = "/".join(map(str, ("root", *self.trail)))
            raise BesiegeError(
                f"Numbers were drawn twice from the key {name} ({again} of {len(rows)} rows), so "
                "the draws may be equal or overlap. Fold what tells them apart into each, as in "
                'key.fold("angle").uniform().'
            )
        drawn |= rows


def _same(bits: Tensor) -> Tensor:
    """The words as they are."""
    return bits


def _fold_part(part: int | str) -> tuple[_Kind, int]:
    """What a part of a fold puts into the counter: an int itself, 64 bits of a text's hash."""
    if not isinstance(part, str):
        return _Kind.INTEGER, _int64("A fold part that is not a str", part)
    digest = blake2b(part.encode(), digest_size=8).digest()
    return _Kind.TEXT, int.from_bytes(digest, "little", signed=True)


def _whole(name: str, value: int, low: int, high: int) -> int:
    """`value` if it is an integer (Python's or NumPy's) in [low, high]."""
    try:
        number = operator.index(value)
    except TypeError:
        raise BadSetting(
            f"{name} must be an integer, got {value!r} ({type(value).__name__})."
        ) from None
    if not low <= number <= high:
        raise BadSetting(f"{name} must lie in [{low}, {high}], got {number}.")
    return number


def _int64(name: str, value: int) -> int:
    """`value` if it is an integer of 64 bits."""
    return _whole(name, value, -(1 << 63), (1 << 63) - 1)


def _size(name: str, value: int) -> int:
    """`value` if it can be a length."""
    return _whole(name, value, 0, (1 << 63) - 1)


def _ids(ids: Tensor | Sequence[int]) -> Tensor:
    """`ids` as int64 (B,)."""
    if not isinstance(ids, Tensor):
        return torch.tensor([_int64("An id", i) for i in ids], dtype=torch.int64)
    if ids.ndim != 1 or ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool:
        raise BadSetting(
            f"ids are a row of integers (B,), got {ids.dtype} of shape {tuple(ids.shape)}."
        )
    return ids.to(torch.int64)
