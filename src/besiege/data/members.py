"""Files by name in a folder or an archive: listed at once, read one at a time, never extracted."""

from __future__ import annotations

import os
import re
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path, PurePosixPath

from besiege.core.errors import BadImages
from besiege.core.files import existing

MOST_BYTES = 1 << 28  # of one file; a larger one is refused before it is read


@dataclass(frozen=True)
class Members:
    """The files of a folder or an archive.

    where: the folder or archive. sizes: name ("/" between folders) -> bytes, sorted by name as
    text, so that the order is the same on every machine. reader: (where, name) -> content.
    """

    where: Path
    sizes: dict[str, int]
    reader: Callable[[Path, str], bytes]

    def read(self, name: str) -> bytes:
        """The content of one file. Raises BadImages, naming the file."""
        path = self.where / name
        if self.sizes[name] > MOST_BYTES:
            raise BadImages(
                f'"{path}" has {self.sizes[name]} bytes; files of images may have {MOST_BYTES}.'
            )
        try:
            return self.reader(self.where, name)
        except (OSError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
            # RuntimeError: what zipfile raises for a password or an unknown compression
            raise BadImages(f'"{path}" cannot be read ({error}).') from error

    def named(self, name: str) -> list[str]:
        """The files whose name without folders is `name`, those in the fewest folders first."""
        found = (n for n in self.sizes if PurePosixPath(n).name == name)
        return sorted(found, key=lambda n: (n.count("/"), n))

    def text(self, name: str) -> str:
        """The content of one UTF-8 text file. Raises BadImages, naming the file."""
        try:
            return self.read(name).decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise BadImages(f'"{self.where / name}" is not UTF-8 text ({error}).') from error


def open_members(path: str | Path, what: str) -> Members:
    """The files at `path`: a folder, a .zip or a plain .tar. Hidden files are left out.

    Raises BadImages for anything else, and for archives with unsafe paths, links or two files of
    one name.
    """
    found = existing(path, what, BadImages)
    if found.is_dir():
        return Members(found, _sorted(found, _in_folder(found)), read_file)
    try:
        if zipfile.is_zipfile(found):
            return Members(found, _sorted(found, _in_zip(found)), _from_zip)
        offsets = dict(_in_tar(found))
    except (OSError, EOFError, tarfile.TarError, zipfile.BadZipFile) as error:
        raise BadImages(
            f'"{found}" is neither a folder nor a readable .zip or plain .tar ({error}). Unpack a '
            "compressed .tar, or make it a .zip: its files cannot be reached one by one."
        ) from error
    sizes = _sorted(found, ((name, size) for name, (_, size) in offsets.items()))
    return Members(found, sizes, partial(_from_tar, offsets))


def read_file(folder: Path, name: str) -> bytes:
    """The content of a file of a folder."""
    return (folder / name).read_bytes()


def check_safe(path: str, where: Path) -> str:
    """`path` itself, if it stays in the archive `where`. Raises BadImages."""
    parts = re.split(r"[/\\]", path)
    if path.startswith(("/", "\\")) or ".." in parts or "\0" in path or ":" in parts[0]:
        raise BadImages(
            f'"{where}" holds the unsafe path "{path}", which leads out of the archive. Do not '
            "unpack it; get it anew from a source that you trust."
        )
    return path


def _sorted(where: Path, files: Iterable[tuple[str, int]]) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for name, size in files:
        if name in sizes:
            raise BadImages(f'"{where}" holds two files named "{name}": ids would be ambiguous.')
        if not any(part.startswith((".", "__MACOSX")) for part in name.split("/")):
            sizes[name] = size
    return dict(sorted(sizes.items()))


def _in_folder(folder: Path) -> Iterator[tuple[str, int]]:
    """Files of a folder; links are followed, but not back up to a folder that holds them."""
    for root, folders, files in os.walk(folder, followlinks=True):
        here = Path(root)
        folders[:] = [f for f in folders if not f.startswith(".") and not _is_loop(here / f)]
        for file in files:
            path = here / file
            size = path.stat().st_size if path.exists() else 0  # a dead link fails when taken
            yield path.relative_to(folder).as_posix(), size


def _is_loop(folder: Path) -> bool:
    return folder.is_symlink() and folder.parent.resolve().is_relative_to(folder.resolve())


def _in_zip(path: Path) -> Iterator[tuple[str, int]]:
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            check_safe(info.orig_filename, path)
            if not info.is_dir():
                yield info.filename, info.file_size


def _in_tar(path: Path) -> Iterator[tuple[str, tuple[int, int]]]:
    """Name -> (offset, bytes)."""
    with tarfile.open(path, "r:") as archive:
        seen = set()
        for info in archive:
            name = check_safe(info.name, path).removeprefix("./")
            if info.isdir():
                continue
            if not info.isreg() or info.issparse():
                raise BadImages(f'"{path}": "{name}" is a link or no plain file: pack the file.')
            if name in seen:
                raise BadImages(f'"{path}" holds two files named "{name}".')
            seen.add(name)
            yield name, (info.offset_data, info.size)


def _from_tar(offsets: dict[str, tuple[int, int]], where: Path, name: str) -> bytes:
    start, size = offsets[name]
    with where.open("rb") as file:
        file.seek(start)
        data = file.read(size)
    if len(data) < size:
        raise EOFError(f"the archive ends after {len(data)} of {size} bytes")
    return data


def _from_zip(where: Path, name: str) -> bytes:
    state = where.stat()
    return _opened(where, os.getpid(), state.st_mtime_ns, state.st_size).read(name)


@lru_cache(maxsize=4)
def _opened(where: Path, process: int, changed: int, size: int) -> zipfile.ZipFile:
    """The archive, opened once in each process: forks would share the position in the file."""
    return zipfile.ZipFile(where)
