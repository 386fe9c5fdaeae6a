"""A defense applied to files of pictures: what a deployed pre-processing would hand on."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from besiege.core.errors import BadImages, BadRun, BadSetting, BesiegeError, unknown
from besiege.core.files import existing, write_whole
from besiege.core.key import Key
from besiege.data.images import from_bytes
from besiege.data.members import Members, open_members, read_file
from besiege.data.rewriting import ENDINGS, WRITTEN, Picture, read_picture
from besiege.defenses.transform import Transform
from besiege.study.progress import Event

BATCH = 1 << 21  # pixels that a defense is given at once; a larger picture comes alone
WAITING = 1 << 25  # pixels of all pictures that wait for others of their size


class Pair(NamedTuple):
    """A picture before and after the defense, uint8 (H, W, C); the sizes may differ."""

    name: str
    before: NDArray[np.uint8]
    after: NDArray[np.uint8]


@dataclass(frozen=True)
class Protected:
    """What became of the files: those written, why others were not, and the first pairs."""

    written: tuple[Path, ...]
    skipped: tuple[str, ...]  # one sentence a file, which it names
    pairs: tuple[Pair, ...]


class _Waiting(NamedTuple):
    name: str
    picture: Picture

    @property
    def size(self) -> int:
        """Pixels."""
        height, width, _ = self.picture.pixels.shape
        return int(height * width)


def protect(
    chain: Transform,
    source: str | Path,
    out: str | Path,
    *,
    seed: int = 0,
    form: str = "",
    force: bool = False,
    keep: int = 0,
    on_event: Callable[[Event], None] | None = None,
) -> Protected:
    """Apply `chain` to a picture, or to all PNG, JPEG and WebP files below a folder.

    out: a folder, made where it is missing, that gets the same relative names; for one picture
        also the name of a file. PNG and WebP files keep their format, without loss; JPEG becomes
        PNG, since to compress again would be one more defense, which nobody evaluated.
    form: "png" or "webp" to write all files in. force: overwrite files that are there already.
    keep: of how many pictures, the first by name, to return the pair before and after.

    The result is rounded to 8 bit. A file's draws depend on `seed`, its name relative to `source`
    and the chain alone, and so does what is written. Hidden files, and those with other endings,
    are left out. A file that cannot be read, or that the defense fails on, is skipped and named;
    all others are written, each whole or not at all.
    Raises BadImages where there is nothing to protect, BadRun where files would be overwritten,
    BadSetting for names that would collide and for an `out` inside of `source`.
    """
    members, targets = _plan(Path(source).expanduser(), Path(out).expanduser(), form)
    if not force:
        _refuse_to_overwrite(targets.values())
    start, names, shown = time.monotonic(), list(targets), set(list(targets)[:keep])
    skipped: dict[str, str] = {}
    pairs: dict[str, Pair] = {}
    written: list[Path] = []

    def report() -> None:
        if on_event:
            done = len(written) + len(skipped)
            on_event(Event("", chain.name, done, len(names), time.monotonic() - start))

    report()
    for batch in _batches(_read(members, names, skipped)):
        for (name, picture), done in zip(batch, _defended(chain, batch, seed), strict=True):
            where = str(members.where / name)
            try:
                if isinstance(done, str):
                    raise BadImages(f'"{where}": {done}')
                _write(targets[name], picture.changed(done, where), where)
            except BadImages as error:
                skipped[name] = str(error)
                continue
            written.append(targets[name])
            if name in shown:
                pairs[name] = Pair(name, picture.pixels, done)
        report()
    report()
    return Protected(
        tuple(sorted(written)),
        tuple(skipped[n] for n in names if n in skipped),
        tuple(pairs[n] for n in names if n in pairs),
    )


def _plan(source: Path, out: Path, form: str) -> tuple[Members, dict[str, Path]]:
    """The files to read, and for each where it goes."""
    existing(source, "picture or folder of pictures", BadImages)
    endings = {ending[1:]: ending for ending in WRITTEN}
    if form and form not in endings:
        raise unknown("format", form, endings, where="protect")
    if source.is_dir():
        if out.resolve().is_relative_to(source.resolve()):
            raise BadSetting(
                f'"{out}" lies in "{source}", whose pictures it would be mixed with: choose '
                "another --out."
            )
        members = open_members(source, "folder of pictures")
        names = [n for n in members.sizes if PurePosixPath(n).suffix.lower() in ENDINGS]
    else:
        members = Members(source.parent, {source.name: source.stat().st_size}, read_file)
        names = [source.name] if source.suffix.lower() in ENDINGS else []
    if not names:
        raise BadImages(f'"{source}" holds no pictures: expected is {", ".join(ENDINGS)}.')
    if not source.is_dir() and out.suffix and not out.is_dir():
        targets = {source.name: _named(out, form)}
    else:
        targets = {n: out / _renamed(PurePosixPath(n), endings.get(form)) for n in names}
    if not source.is_dir() and targets[source.name].resolve() == source.resolve():
        raise BadSetting(f'"{source}" would be overwritten by its result: choose another --out.')
    first: dict[Path, str] = {}
    for name, target in targets.items():
        if (other := first.setdefault(target, name)) != name:
            raise BadSetting(
                f'"{members.where / other}" and "{members.where / name}" would both be written to '
                f'"{target}": rename one of them.'
            )
    return members, targets


def _refuse_to_overwrite(targets: Iterable[Path]) -> None:
    if there := [p for p in targets if p.exists()]:
        raise BadRun(
            f'"{there[0]}" is there already ({len(there)} such): nothing was written. Choose '
            "another --out, or overwrite with --force."
        )


def _renamed(name: PurePosixPath, ending: str | None) -> PurePosixPath:
    """The relative name of the result: the same stem, and the same ending where it can be."""
    own = name.suffix.lower()
    wanted = ending or ENDINGS[own]
    return name if own == wanted else name.with_suffix(wanted)


def _named(out: Path, form: str) -> Path:
    """`out` as the name of one file, if its ending says what is to be written."""
    able = [f".{form}"] if form else list(WRITTEN)
    if out.suffix.lower() not in able:
        raise BadSetting(
            f'"{out}" cannot be written: a result goes to {" or ".join(able)}, since compression '
            "with loss would be one more defense."
        )
    return out


def _read(members: Members, names: Sequence[str], skipped: dict[str, str]) -> Iterator[_Waiting]:
    for name in names:
        try:
            yield _Waiting(name, read_picture(members.read(name), str(members.where / name)))
        except BadImages as error:
            skipped[name] = str(error)


def _batches(pictures: Iterable[_Waiting]) -> Iterator[list[_Waiting]]:
    """Pictures of one shape together, as many as BATCH pixels; at most WAITING are held."""
    held: dict[tuple[int, ...], list[_Waiting]] = {}
    for one in pictures:
        shape = one.picture.pixels.shape
        group = held.setdefault(shape, [])
        group.append(one)
        if one.size * (len(group) + 1) > BATCH:
            yield held.pop(shape)
        elif sum(w.size for g in held.values() for w in g) > WAITING:
            yield held.pop(max(held, key=lambda s: len(held[s]) * s[0] * s[1]))
    yield from held.values()


def _defended(
    chain: Transform, batch: Sequence[_Waiting], seed: int
) -> list[NDArray[np.uint8] | str]:
    """What the chain makes of pictures of one shape, (H, W, C) each, or why it fails on one."""
    try:
        return list(
            apply_chain(chain, [w.name for w in batch], [w.picture.pixels for w in batch], seed)
        )
    except Exception as error:  # links fail as they like, on small images say
        if len(batch) > 1:
            return [_defended(chain, [one], seed)[0] for one in batch]
        said = str(error) if isinstance(error, BesiegeError) else f"{type(error).__name__}: {error}"
        return [f"the defense {chain.name} fails on it ({said})"]


def apply_chain(
    chain: Transform, names: Sequence[str], pictures: Sequence[NDArray[np.uint8]], seed: int
) -> NDArray[np.uint8]:
    """Pictures (H, W, C) of one shape behind `chain`, uint8 (B, H', W', C'), rounded.

    names: what tells their draws apart. Raises BadImages for a result that is no picture.
    """
    x = from_bytes(torch.from_numpy(np.stack(pictures)))
    key = Key.root(seed, [name_id(n) for n in names]).fold("protect")
    with torch.no_grad():
        y = chain.forward(x, chain.draw(key, (x.shape[1], x.shape[2], x.shape[3])))
    if y.ndim != 4 or len(y) != len(x) or y.shape[1] not in (1, 3) or 0 in y.shape:
        raise BadImages(f"it returns {tuple(y.shape)} for {tuple(x.shape)}: no pictures")
    if not bool(y.isfinite().all()):
        raise BadImages("it returns pixels that are NaN or infinite")
    return (y * 255).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).numpy()


def name_id(name: str) -> int:
    """The id of a picture: 64 bits of a hash of its name.

    >>> name_id("cat/1.png") == name_id("cat/2.png")
    False
    """
    return int.from_bytes(blake2b(name.encode(), digest_size=8).digest(), "little", signed=True)


def _write(path: Path, picture: Picture, where: str) -> None:
    """Encode and write, whole or not at all."""
    try:
        data = picture.encoded(path.suffix.lower())
    except Exception as error:  # WebP has a largest side, say
        raise BadImages(f'"{where}" cannot be written to "{path}" ({error}).') from error
    write_whole(path, data)
