"""`--set a.b=1`: changes to settings before they are validated, by the keys of the file."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

from besiege.core.errors import BadSetting, unknown

STEP = re.compile(r"([^.\[\]]+)|\[(\d+)\]")


def override(settings: Mapping[str, Any], changes: Sequence[str]) -> dict[str, Any]:
    """`settings` with `changes` made, each "key=value".

    A key is "engine.batch", "recipe[1].steps", or "recipe.NAME.steps" with the name (or kind) of
    an item. A value is read as TOML, and as text where it is none.
    Raises BadSetting or UnknownName for a change that leads nowhere; whether a key exists is the
    schema's to say.

    >>> override({"engine": {"batch": 64}}, ["engine.batch=7", "name=mine"])
    {'engine': {'batch': 7}, 'name': 'mine'}
    """
    whole: dict[str, Any] = deepcopy(dict(settings))
    for change in changes:
        key, sign, value = change.partition("=")
        if not sign or not key.strip():
            raise BadSetting(f'--set "{change}" is not key=value, as in engine.batch=7.')
        _put(whole, key.strip(), _value(value.strip()), change)
    return whole


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _put(whole: dict[str, Any], key: str, value: Any, change: str) -> None:
    steps = [m[1] if m[1] else int(m[2]) for m in STEP.finditer(key)]
    here: Any = whole
    for step, after in zip(steps, [*steps[1:], None], strict=True):
        if isinstance(here, list):
            here_index = _index(here, step, change)
            if after is None:
                here[here_index] = value
                return
            here = here[here_index]
        elif not isinstance(here, dict):
            raise BadSetting(f'--set "{change}": {here!r} holds no "{step}".')
        elif after is None:
            here[str(step)] = value
        else:
            inner = here.setdefault(str(step), {})
            if isinstance(inner, str):  # data = "digits" stands for [data] source = "digits"
                inner = here[str(step)] = {"source": inner}
            here = inner


def _index(items: list[Any], step: str | int, change: str) -> int:
    """The number of the item that `step` names."""
    if isinstance(step, int):
        if step >= len(items):
            raise BadSetting(f'--set "{change}": there are {len(items)} items, numbered from 0.')
        return step
    names = [str(i.get("name", i.get("kind", ""))) for i in items if isinstance(i, dict)]
    if step not in names:
        raise unknown("item", step, names, where=f'--set "{change}"')
    return names.index(step)
