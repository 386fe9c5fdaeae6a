"""Errors a user can meet.

BesiegeError
├── UnknownName      a name is in no catalog, file or chain; the nearest one is named
├── BadSetting       a parameter or a key of an experiment file has a wrong value
├── BadImages        pixels, labels or shapes that no judge can score
├── OutsideThreat    a point that the threat does not admit
├── BadModel         a network in training mode, weights that do not fit, logits that are none
└── BadRun           a run folder that cannot be written, read or resumed
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches


class BesiegeError(Exception):
    """What is wrong, what came, what was expected, where, and what to do."""


class UnknownName(BesiegeError):
    """A name that is in no catalog, file or chain."""


class BadSetting(BesiegeError):
    """A parameter, or a key of an experiment file, with a wrong value."""


class BadImages(BesiegeError):
    """Pixels, labels or shapes that cannot be scored."""


class OutsideThreat(BesiegeError):
    """A point that the threat does not admit."""


class BadModel(BesiegeError):
    """A classifier that cannot be evaluated as it is."""


class BadRun(BesiegeError):
    """A run folder that cannot be written, read or resumed."""


def several(sentences: Sequence[str], most: int = 5) -> str:
    """The first `most` of the sentences, one a line, and how many more there are.

    >>> print(several(["a is bad.", "b is bad.", "c is bad."], most=2))
    a is bad.
      b is bad.
      and 1 more.
    """
    rest = [f"and {len(sentences) - most} more."] if len(sentences) > most else []
    return "\n  ".join([*sentences[:most], *rest])


def unknown(kind: str, name: str, valid: Iterable[str], where: str = "") -> UnknownName:
    """The error for `name`, naming the nearest valid one.

    >>> print(unknown("transform", "jpg", ["jpeg", "bits"]))
    Unknown transform: "jpg". Did you mean "jpeg"? Valid: bits, jpeg.
    """
    names = sorted(set(valid))
    near = get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f' Did you mean "{near[0]}"?' if near else ""
    place = f" in {where}" if where else ""
    return UnknownName(f'Unknown {kind}{place}: "{name}".{hint} Valid: {", ".join(names)}.')


def one_of(kind: str, name: str, valid: Iterable[str], where: str = "") -> None:
    """Raise `unknown` unless `name` is one of `valid`.

    >>> one_of("rounding", "floor", ("nearest", "floor"), "transform bits")
    """
    if name not in valid:
        raise unknown(kind, name, valid, where)
