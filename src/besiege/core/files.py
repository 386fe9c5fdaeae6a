"""Files that a user names: one way to say that they are not there."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path

from besiege.core.errors import BesiegeError


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
