"""Catalog entries: a component is its own file and one `Entry` line."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Generic, TypeVar

from besiege.core.errors import BadSetting, BesiegeError, one_of, unknown

T = TypeVar("T")


@dataclass(frozen=True)
class Entry(Generic[T]):
    """One component of a catalog; laws, `besiege list`, `besiege explain` and the docs follow.

    factory: called with keyword parameters only; their names and defaults are the settings.
    source: paper and equation, or who defined it.
    cases: tiny parameter sets on which the laws are run.
    known_failures: law name -> reason; a listed law must fail, or the list is stale.
    """

    name: str
    factory: Callable[..., T]
    source: str
    cases: tuple[Mapping[str, Any], ...] = ({},)
    known_failures: Mapping[str, str] = field(default_factory=dict)

    @property
    def summary(self) -> str:
        """First line of the factory's docstring."""
        return (inspect.getdoc(self.factory) or "").split("\n", 1)[0]

    @property
    def cost(self) -> str:
        """What the factory's docstring says after "Cost:", without its full stop.

        >>> Entry("parse", parse_spec, "test").cost
        ''
        """
        text = inspect.getdoc(self.factory) or ""
        found = re.search(r"\bCost:(.*?)(\n\s*\n|\bSource:|$)", text, re.DOTALL)
        return " ".join(found[1].split()).rstrip(".") if found else ""

    @property
    def parameters(self) -> dict[str, Any]:
        """Parameter name -> default (`inspect.Parameter.empty` where one must be given)."""
        return {
            name: p.default
            for name, p in inspect.signature(self.factory).parameters.items()
            if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
        }

    @property
    def specs(self) -> tuple[str, ...]:
        """Its cases as they are written in a chain or an experiment.

        >>> Entry("rdg", int, "house", cases=({}, {"limit": 0.15, "drift": True})).specs
        ('rdg', 'rdg:limit=0.15,drift=true')
        """
        return tuple(_spelt(self.name, case) for case in self.cases)


def _spelt(name: str, settings: Mapping[str, Any]) -> str:
    """What `parse_spec` splits into these; objects, which no text can give, by their names."""
    texts = [f"{k}={_shown(v)}" for k, v in settings.items()]
    return f"{name}:{','.join(texts)}" if texts else name


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return f"({', '.join(map(_shown, value))})"
    if isinstance(value, bool):
        return str(value).lower()
    return str(getattr(value, "name", getattr(value, "__name__", value)))


class Catalog(Mapping[str, Entry[T]]):
    """An immutable, ordered set of entries of one kind."""

    def __init__(self, kind: str, entries: Iterable[Entry[T]]) -> None:
        self.kind = kind
        self._entries: dict[str, Entry[T]] = {}
        for entry in entries:
            if entry.name in self._entries:
                raise BadSetting(
                    f'Two {kind}s are named "{entry.name}": {self._entries[entry.name].source} and '
                    f"{entry.source}. Rename one of them."
                )
            self._entries[entry.name] = entry

    def __getitem__(self, name: str) -> Entry[T]:
        if name not in self._entries:
            raise unknown(self.kind, name, self._entries)
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, name: object) -> bool:  # Mapping's own expects a KeyError
        return name in self._entries

    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:  # immutable, hence fit to be a default of a dataclass
        return id(self)

    def extended(self, entries: Iterable[Entry[T]]) -> Catalog[T]:
        """A new catalog with `entries` added; a name that is taken is an error."""
        return Catalog(self.kind, [*self._entries.values(), *entries])

    def build(self, spec: str, **extra: Any) -> T:
        """The component that `spec` ("name" or "name:key=value,key=value") describes.

        Raises UnknownName for a name or parameter, BadSetting for a value that its factory refuses.
        """
        name, params = parse_spec(spec)
        entry = self[name]
        params = {**params, **extra}
        for key in params:
            one_of("parameter", key, entry.parameters, f"{self.kind} {name}")
        try:
            return entry.factory(**params)
        except BesiegeError:
            raise
        except (TypeError, ValueError) as error:
            raise BadSetting(
                f"{self.kind} {spec!r}: {error}. `besiege explain {name}` lists its parameters."
            ) from error


def parse_spec(spec: str) -> tuple[str, dict[str, Any]]:
    """Split "name:key=value,key=value"; values are read by `parse_value`.

    >>> parse_spec("rdg:limit=0.15,cells=4")
    ('rdg', {'limit': 0.15, 'cells': 4})
    """
    name, _, rest = spec.strip().partition(":")
    params: dict[str, Any] = {}
    for part in filter(None, (p.strip() for p in rest.split(","))):
        key, sign, value = part.partition("=")
        if not sign:
            raise BadSetting(
                f'"{part}" in "{spec}" is not key=value, as in rdg:limit=0.15,cells=4.'
            )
        params[key.strip()] = parse_value(value.strip())
    return name.strip(), params


def parse_value(text: str) -> bool | int | float | str:
    """Booleans, integers, floats and fractions; anything else stays text.

    >>> [parse_value(t) for t in ("true", "4", "0.5", "8/255", "released")]
    [True, 4, 0.5, 0.03137254901960784, 'released']
    """
    if text in ("true", "false"):
        return text == "true"
    for kind in (int, float, lambda t: float(Fraction(t))):
        try:
            return kind(text)
        except (ValueError, ZeroDivisionError):
            continue
    return text
