"""Locks that end with the process that holds them, on this machine or another."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from besiege.core.errors import BadRun

if sys.platform != "win32":
    import fcntl


@contextmanager
def hold(place: Path, *, shared: bool = False) -> Iterator[None]:
    """Hold the lock file `place` until the block ends.

    shared: any number may hold it so at once, and nobody otherwise.
    The kernel keeps the lock, and lets go when the process ends in any way; on shared file systems
    (NFS, say) their server does. The file itself stays. Where a file system knows no locks nobody
    is kept out, which costs time and no row: what is made twice is equal.

    Raises BadRun, naming who holds it.
    """
    try:
        place.parent.mkdir(exist_ok=True)
        file = open(place, "a+")  # noqa: SIM115
    except OSError as error:
        raise BadRun(
            f"{place.parents[1]} cannot be written ({error.strerror}): name another folder with "
            "--out."
        ) from error
    with file:
        if not _locked(file.fileno(), shared):
            file.seek(0)
            raise BadRun(
                f"{file.read() or 'another run'} is running on {place.parents[1]} "
                f"({place.name}): wait for it, or name another folder."
            )
        if not shared:
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}")
            file.flush()
        yield


def _locked(descriptor: int, shared: bool) -> bool:
    """Whether this process now has the lock, as far as the file system can tell."""
    if sys.platform != "win32":
        try:
            fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:  # a file system without locks
            return True
    return True
