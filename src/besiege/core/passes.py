"""The key of a forward pass, for random stages inside a network, which are handed images only."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from torch import Tensor

from besiege.core.errors import BadModel
from besiege.core.key import Key


@dataclass
class _Pass:
    """One forward pass: the key of its images, and how many calls of stages have drawn so far."""

    key: Key
    parts: tuple[int | str, ...]  # that are still to be folded in
    calls: int = 0

    def folded(self) -> Key:
        """The key; folded only once a stage asks, since most networks have none."""
        self.key, self.parts = self.key.fold(*self.parts), ()
        return self.key


_current: ContextVar[_Pass | None] = ContextVar("current", default=None)


@contextmanager
def passing(key: Key, *parts: int | str) -> Iterator[None]:
    """Inside, random stages draw for the images of one batch from `key` (B,), `parts` folded in."""
    token = _current.set(_Pass(key, parts))
    try:
        yield
    finally:
        _current.reset(token)


def pass_key() -> Key:
    """The key of the pass under way, (B,). Raises BadModel outside of `passing`."""
    return _under_way().folded()


def stage_key(x: Tensor) -> Key:
    """The key from which a stage draws in this call, for x (B, ...): another one in every call.

    Raises BadModel outside of `passing`, and where x has other rows than images came in.
    """
    now = _under_way()
    if len(now.key) != len(x):
        raise BadModel(
            f"A random stage got {len(x)} rows in a pass of {len(now.key)} images: it draws for "
            "images, which must stay on the first axis."
        )
    now.calls += 1
    return now.folded().fold("stage", now.calls)


def _under_way() -> _Pass:
    now = _current.get()
    if now is None:
        raise BadModel(
            "A random stage draws from the key of a forward pass, and there is none: ask through a "
            "besiege.Defense, or write `with passing(key):` (besiege.core.passes)."
        )
    return now
