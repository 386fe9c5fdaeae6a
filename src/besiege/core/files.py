"""Files that a user names: one way to say that they are not there, one to write them whole."""

from __future__ import annotations

import os
from contextlib import suppress
from difflib import get_close_matches
from pathlib import Path

from besiege.core.errors import BadRun, BesiegeError


def existing(path: str | Path, what: str, error: type[BesiegeError]) -> Path:
    """`path` as a Path (with ~ expanded) if something is there; else `error`, naming the nearest.

    >>> from besiege.core.errors import BadModel
    >>> existing("no/such.safetensors", "weights", BadModel)
    Traceback (most recent call last):
    besiege.core.errors.BadModel: No weights at "no/such.safetensors": there is no folder "no".
    """
    found = Path(path).expanduser()
    if found.exists():
        return found
    folder = found.parent
    if not folder.is_dir():
        raise error(f'No {what} at "{path}": there is no folder "{folder}".')
    names = sorted(p.name for p in folder.iterdir())
    near = get_close_matches(found.name, names, n=1, cutoff=0.5)
    hint = (
        f' Did you mean "{folder / near[0]}"?'
        if near
        else f" Its folder holds {len(names)} others."
    )
    raise error(f'No {what} at "{path}".{hint}')


def write_whole(path: Path, data: bytes) -> None:
    """Write the file at `path` whole or not at all, making its folder; BadRun where it cannot be.

    It is written beside its place and renamed, so that a reader finds the old file or the new one.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside.write_bytes(data)
        beside.replace(path)
    except OSError as error:
        raise BadRun(f'"{path}" cannot be written ({error}).') from error
    finally:
        with suppress(OSError):
            beside.unlink()
