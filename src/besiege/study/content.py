"""What an object in Python is, told by what it holds and the same in every process."""

from __future__ import annotations

import hashlib
import inspect
import re
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import partial
from pathlib import PurePath
from types import CellType, CodeType, FunctionType, MethodType, ModuleType

import numpy as np
import torch
from torch import Tensor, nn

from besiege.models.sources import weights_hash

_PLAIN = (
    bool
    | int
    | float
    | complex
    | str
    | bytes
    | None
    | PurePath
    | Enum
    | torch.dtype
    | torch.device
    | np.generic
)
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


def content(value: object) -> str:
    """A text that names `value` by its content, without addresses.

    A module by its class, settings and weights; a function by its name, code and what it closes
    over or reads of its own Python module; arrays by a hash; dataclasses and other objects by their
    class and attributes.

    >>> content({"b": 1, "a": (0.5, len)})
    "{'a': (0.5, builtins.len), 'b': 1}"
    >>> content(nn.Linear(1, 1)) == content(nn.Linear(1, 1))
    False
    """
    return _text(value, ())


def _text(value: object, above: tuple[int, ...]) -> str:
    """`content` of a value inside those whose ids are `above`, which may hold each other."""
    if value is ... or isinstance(value, _PLAIN):
        return repr(value)
    if id(value) in above:
        return "..."
    inside = (*above, id(value))
    if isinstance(value, Tensor):
        return _array(value.dtype, value.shape, _bytes(value))
    if isinstance(value, np.ndarray):
        return _array(value.dtype, value.shape, np.ascontiguousarray(value).tobytes())
    if isinstance(value, Mapping):
        pairs = sorted((_text(k, inside), _text(v, inside)) for k, v in value.items())
        return f"{{{', '.join(f'{k}: {v}' for k, v in pairs)}}}"
    if isinstance(value, tuple | list):
        return f"({', '.join(_text(v, inside) for v in value)})"
    if isinstance(value, set | frozenset):
        return f"{{{', '.join(sorted(_text(v, inside) for v in value))}}}"
    return f"{_qualified(value)}{_held(value, inside)}"


def _held(value: object, inside: tuple[int, ...]) -> str:
    """What an object holds, in brackets; "" for what is no more than its name."""
    held: object
    if isinstance(value, nn.Module):
        held = (weights_hash(value), _settings(value))
    elif isinstance(value, FunctionType):
        held = (value.__code__, _reached(value), value.__defaults__, value.__kwdefaults__)
    elif isinstance(value, CodeType):
        held = (value.co_code, value.co_names, value.co_consts)
    elif isinstance(value, MethodType):
        held = value.__self__
    elif isinstance(value, partial):
        held = (value.func, value.args, value.keywords)
    elif isinstance(value, type | ModuleType) or inspect.isbuiltin(value):
        return ""
    elif is_dataclass(value):
        held = {field.name: getattr(value, field.name) for field in fields(value)}
    elif hasattr(value, "__dict__"):
        held = vars(value)
    else:
        return f"({_ADDRESS.sub('', repr(value))})"
    return f"({_text(held, inside)})"


def _reached(function: FunctionType) -> dict[str, object]:
    """What a function closes over, and the values and neighbours of its module that it names."""
    cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
    closed = {name: _inside(cell) for name, cell in cells}
    around = {n: function.__globals__.get(n) for n in function.__code__.co_names}
    own = {
        name: value
        for name, value in around.items()
        if isinstance(value, _PLAIN | Tensor | np.ndarray | nn.Module)
        or (isinstance(value, FunctionType) and value.__module__ == function.__module__)
    }
    return {**own, **closed}


def _inside(cell: CellType) -> object:
    try:
        return cell.cell_contents
    except ValueError:  # not bound yet
        return None


def _settings(module: nn.Module) -> list[tuple[str, str, dict[str, object]]]:
    """Name, class and plain settings of each part of a module, which its weights do not tell."""
    return [
        (name, _qualified(part), {k: v for k, v in vars(part).items() if _is_setting(k, v)})
        for name, part in module.named_modules()
    ]


def _is_setting(name: str, value: object) -> bool:
    if isinstance(value, tuple | list):
        return not name.startswith("_") and all(_is_setting("", v) for v in value)
    return not name.startswith("_") and isinstance(value, _PLAIN | Tensor | FunctionType)


def _qualified(value: object) -> str:
    """Module and name of a function or class, or of an object's class."""
    named = value if hasattr(value, "__qualname__") else type(value)
    return f"{getattr(named, '__module__', '')}.{getattr(named, '__qualname__', '')}"


def _array(dtype: object, shape: tuple[int, ...], values: bytes) -> str:
    return f"{dtype}{tuple(shape)}#{hashlib.sha256(values).hexdigest()[:16]}"


def _bytes(tensor: Tensor) -> bytes:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes()
