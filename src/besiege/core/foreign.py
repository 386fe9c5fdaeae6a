"""Objects in a user's own Python files, named "path.py:NAME"."""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from besiege.core.entry import parse_spec
from besiege.core.errors import BadSetting, BesiegeError, unknown
from besiege.core.files import existing

_SPEC = re.compile(r"\s*(?P<path>.+?\.py):(?P<rest>[A-Za-z_]\w*(:.*)?)\s*", re.DOTALL)
_PATH = re.compile(r"(?P<path>[^\s+=,;|(][^\s+=,;|]*\.py)(?=:[A-Za-z_])")


class Foreign(NamedTuple):
    """An object in a file, and settings for it."""

    path: Path
    name: str
    settings: dict[str, Any]


def foreign_in(spec: str) -> Foreign | None:
    """What "path.py:NAME" or "path.py:NAME:key=value" names; None for any other text.

    >>> foreign_in("mine.py:make_defense:layout=uint8")
    Foreign(path=PosixPath('mine.py'), name='make_defense', settings={'layout': 'uint8'})
    >>> foreign_in("jpeg:quality=50") is None
    True
    """
    found = _SPEC.fullmatch(spec)
    if found is None:
        return None
    name, settings = parse_spec(found["rest"])
    return Foreign(Path(found["path"]), name, settings)


def with_paths(text: str, change: Callable[[str], str]) -> str:
    """`text` with every path of a Python file in it changed.

    >>> with_paths("fd + mine.py:f + rdg:limit=0.1", "../".__add__)
    'fd + ../mine.py:f + rdg:limit=0.1'
    >>> with_paths("(a(1)/mine.py:f|b.py:f)", str.upper)
    '(A(1)/MINE.PY:f|B.PY:f)'
    """
    return _PATH.sub(lambda found: change(found["path"]), text)


def paths_in(text: str) -> list[Path]:
    """The Python files that `text` names."""
    return [Path(found["path"]) for found in _PATH.finditer(text)]


def module_at(path: Path, what: str) -> ModuleType:
    """The Python file as a module, registered so that what it defines can be pickled.

    Raises BadSetting for a file that is missing or does not run; `what` says what it is.
    """
    place = existing(path, what, BadSetting).resolve()
    name = f"besiege_{hashlib.sha256(str(place).encode()).hexdigest()[:8]}_{place.stem}"
    spec = importlib.util.spec_from_file_location(name, place)
    if spec is None or spec.loader is None:
        raise BadSetting(f"{what} {path} is no Python file: a name ending in .py is expected.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BesiegeError:
        raise
    except Exception as error:
        raise BadSetting(
            f"{what} {path} does not run: {type(error).__name__}: {error}. Try `python {path}`."
        ) from error
    return module


def made(foreign: Foreign, what: str) -> Any:
    """The object itself, or what it returns if it can be called without arguments.

    A function or class none of whose parameters must be given is a factory, and is called with the
    settings; anything else is taken as it is. Raises BadSetting or UnknownName.
    """
    module = module_at(foreign.path, what)
    if not hasattr(module, foreign.name):
        names = [n for n in vars(module) if not n.startswith("_")]
        raise unknown(what, foreign.name, names, where=str(foreign.path))
    found = getattr(module, foreign.name)
    if not (inspect.isfunction(found) or inspect.isclass(found)):
        return found
    try:
        inspect.signature(found).bind(**foreign.settings)
    except TypeError as error:
        if foreign.settings:
            raise BadSetting(f"{foreign.name} in {foreign.path}: {error}.") from error
        return found
    try:
        return found(**foreign.settings)
    except BesiegeError:
        raise
    except Exception as error:
        raise BadSetting(
            f"{foreign.name}() in {foreign.path} fails: {type(error).__name__}: {error}."
        ) from error
