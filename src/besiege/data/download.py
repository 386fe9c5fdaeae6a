"""Files from the internet, known by their hash; nothing is fetched unless it is asked for."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlparse
from urllib.request import urlopen

from besiege.core.errors import BadImages

CHUNK = 1 << 20  # bytes
TIMEOUT = 60.0  # seconds without an answer

Progress = Callable[[int, int], None]  # bytes so far, bytes in all (0 if unknown)


def fetched(url: str, sha256: str, folder: str | Path, progress: Progress | None = None) -> Path:
    """The file of `url` in `folder`, under the name that it has there; fetched if it is missing.

    sha256: 64 hex digits; a file with another hash never gets its name. A file that is there is
    hashed and kept. Raises BadImages for another hash or if nothing could be fetched.
    """
    home = Path(folder).expanduser()
    path = home / Path(urlparse(url).path).name
    if path.exists():
        with path.open("rb") as file:
            _check(_copied(file, None, 0, None), sha256, str(path), "Delete it to fetch it anew.")
        return path
    try:
        home.mkdir(parents=True, exist_ok=True)
        handle, part = tempfile.mkstemp(prefix=f"{path.name}.", suffix=".part", dir=home)
    except OSError as error:
        raise BadImages(f'"{home}" cannot take a download ({error}).') from error
    try:
        with os.fdopen(handle, "wb") as out, urlopen(url, timeout=TIMEOUT) as source:
            total = int(source.headers.get("Content-Length") or 0)
            found = _copied(source, out, total, progress)
        _check(found, sha256, url, "The file was changed there or on its way; it is not kept.")
        os.replace(part, path)
    except (OSError, HTTPException, ValueError) as error:
        raise BadImages(
            f"{url} could not be fetched ({error}). Fetch it by hand into {home}."
        ) from error
    finally:
        Path(part).unlink(missing_ok=True)
    return path


def _copied(source: BinaryIO, out: BinaryIO | None, total: int, progress: Progress | None) -> str:
    """The SHA-256 of what `source` holds, written to `out` on the way."""
    state, done = hashlib.sha256(), 0
    while chunk := source.read(CHUNK):
        state.update(chunk)
        done += len(chunk)
        if out is not None:
            out.write(chunk)
        if progress is not None:
            progress(done, total)
    return state.hexdigest()


def _check(found: str, sha256: str, what: str, to_do: str) -> None:
    if found != sha256.lower():
        raise BadImages(f"{what} has the SHA-256 {found}, but {sha256} was expected. {to_do}")
