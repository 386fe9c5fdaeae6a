"""Files of images as an image set: decoded by Pillow when taken, one by one.

What is done with each kind of file is in `decode`.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import PurePosixPath

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from besiege.core.errors import BadImages, BadSetting
from besiege.data.images import ImageSet, each, fingerprint, from_bytes
from besiege.data.members import Members

MOST_PIXELS = 1 << 26  # of one file, as its header says; 8192 x 8192
HELP = "Replace the file, or leave it out."
RESAMPLING = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


@dataclass(frozen=True)
class Style:
    """How a file becomes an image.

    channels: 3 (RGB) or 1 (grey). size: side of the square cut from the middle, 0 for the image as
    it is. shorter: what the shorter side is brought to before; 0 for `size`. resample: a key of
    RESAMPLING, Pillow's filter, antialiased; the longer side is rounded down and the cut begins at
    half of what is left over, rounded to even, as is usual for ImageNet. upright: turn the image as
    its EXIF orientation says.
    """

    channels: int = 3
    size: int = 0
    shorter: int = 0
    resample: str = "bilinear"
    upright: bool = False

    def __post_init__(self) -> None:
        if self.channels not in (1, 3):
            raise BadSetting(f"channels must be 3 (RGB) or 1 (grey), not {self.channels}.")
        if self.resample not in RESAMPLING:
            raise BadSetting(f'resample must be one of {", ".join(RESAMPLING)}: "{self.resample}".')
        if self.size < 0 or (self.shorter and self.shorter < self.size):
            raise BadSetting(
                f"A square of {self.size} cannot be cut from images of shorter side {self.shorter}."
            )


@dataclass(frozen=True)
class Pictures:
    """Ids (B,) -> float32 (B, C, H, W) in [0, 1] of the files `names`, all of `shape` (H, W, C)."""

    members: Members
    names: tuple[str, ...]
    style: Style
    shape: tuple[int, ...]

    def __call__(self, ids: Tensor) -> Tensor:
        """Read and decode. Raises BadImages, naming the files that are wrong."""
        return from_bytes(torch.from_numpy(np.stack(each(self._one, ids))))

    def _one(self, i: int) -> np.ndarray:
        name = self.names[i]
        where = str(self.members.where / name)
        image = decode(self.members.read(name), self.style, where)
        if image.shape != self.shape:
            raise BadImages(
                f'"{where}" is {image.shape[1::-1]} (W, H), but the first image of its set is '
                f"{self.shape[1::-1]}: all must have one size. Resize them before, or let the set "
                "do it where it takes `size`."
            )
        return image


def picture_set(
    members: Members,
    names: Sequence[str],
    labels: Sequence[int],
    classes: Sequence[str],
    style: Style,
    targets: Sequence[int] | None = None,
    name: str = "",
) -> ImageSet:
    """The files `names`, the ids in that order. Files are opened when taken.

    Only where `style` leaves the size open is a file decoded now: the first that can be.
    """
    if not names:
        raise BadImages(f'"{members.where}" holds no images where they were expected.')
    shape = _shape(members, names, style)
    y = torch.tensor(labels, dtype=torch.int64)
    goals = None if targets is None else torch.tensor(targets, dtype=torch.int64)
    files = (f"{n}\0{members.sizes[n]}" for n in names)
    return ImageSet(
        name=name or members.where.stem,
        classes=tuple(classes),
        shape=(shape[2], shape[0], shape[1]),
        labels=y,
        pixels=Pictures(members, tuple(names), style, shape),
        targets=goals,
        digest=fingerprint(repr(style), *files, y, "" if goals is None else goals),
    )


def _shape(members: Members, names: Sequence[str], style: Style) -> tuple[int, int, int]:
    """(H, W, C)."""
    if style.size:
        return style.size, style.size, style.channels
    first: BadImages | None = None
    for name in names:
        try:
            image = decode(members.read(name), style, str(members.where / name))
        except BadImages as error:
            first = first or error
            continue
        return image.shape[0], image.shape[1], style.channels
    raise BadImages(f"None of the {len(names)} images of {members.where} can be read. {first}")


def is_picture(name: str) -> bool:
    """Whether the ending of `name` is that of a format that Pillow reads."""
    return PurePosixPath(name).suffix.lower() in _endings()


@lru_cache(maxsize=1)
def _endings() -> frozenset[str]:
    formats = Image.registered_extensions()  # loads Pillow's readers
    return frozenset(e for e, kind in formats.items() if kind in Image.OPEN and kind != "EPS")


def decode(data: bytes, style: Style, where: str) -> np.ndarray:
    """The image in a file's bytes, uint8 (H, W, channels). `where` names the file in errors.

    Of several frames the first is taken. Refused is what `opened` and `converted` refuse. Raises
    BadImages.
    """
    with opened(data, where) as image:
        turned = ImageOps.exif_transpose(image) if style.upright else image
        return pixels(fitted(converted(turned, style.channels, where), style, where))


@contextmanager
def opened(data: bytes, where: str, formats: Collection[str] = ()) -> Iterator[Image.Image]:
    """The image in a file's bytes, not yet decoded; what fails inside is this file's BadImages.

    formats: those of Pillow that are read; all but EPS, which runs Ghostscript, if empty. The
    format is told by the content, whatever the ending. Refused are more than MOST_PIXELS (before
    decoding), more than 8 bits a channel, and what is empty or truncated.
    """
    if not data:
        raise BadImages(f'"{where}" is not a readable image: it is empty (0 bytes). {HELP}')
    _endings()
    readers = [k for k in formats or Image.OPEN if k != "EPS"]
    try:
        with _unwarned(), Image.open(io.BytesIO(data), formats=readers) as image:
            _check_pixels(image.size, where)
            if _is_deep(image):
                raise BadImages(_deep(where))
            yield image
    except BadImages:
        raise
    except UnidentifiedImageError:
        raise BadImages(
            f'"{where}" is not a readable image: its content is of no format that is read. {HELP}'
        ) from None
    except Image.DecompressionBombError:
        raise BadImages(
            f'"{where}" is not a readable image: it says that it has more pixels than any that is '
            f"read, as a decompression bomb does; the limit is {MOST_PIXELS}. {HELP}"
        ) from None
    except Exception as error:  # damaged files make Pillow's readers raise whatever they meet
        raise BadImages(f'"{where}" is not a readable image ({error}). {HELP}') from error


@contextmanager
def _unwarned() -> Iterator[None]:
    """Without Pillow's warning of large images: MOST_PIXELS is the stricter limit."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        yield


def converted(image: Image.Image, channels: int, where: str) -> Image.Image:
    """`image` as RGB or, for one channel, grey (ITU-R 601 luma), by Pillow's `convert`.

    Grey becomes RGB of three equal channels, a palette its colours, CMYK and YCbCr RGB without
    colour profiles. Alpha is dropped where it is opaque everywhere. Refused are transparent pixels,
    which have no colour of their own, and more than 8 bits a channel, which Pillow would clip.
    Raises BadImages.
    """
    if image.mode.startswith(("I", "F")):
        raise BadImages(_deep(where))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        if image.getchannel("A").getextrema()[0] != 255:
            raise BadImages(
                f'"{where}" has transparent pixels, whose colour depends on what lies behind: put '
                "it on a background and save it without alpha."
            )
    return image.convert("RGB" if channels == 3 else "L")


def fitted(image: Image.Image, style: Style, where: str) -> Image.Image:
    """The square that `style` asks for, or `image` itself where it asks for none."""
    if not style.size:
        return image
    short, long = sorted(image.size)
    to = style.shorter or style.size
    if short != to:
        longer = to * long // short
        size = (to, longer) if image.width <= image.height else (longer, to)
        _check_pixels(size, where)
        image = image.resize(size, RESAMPLING[style.resample])
    left, top = round((image.width - style.size) / 2), round((image.height - style.size) / 2)
    return image.crop((left, top, left + style.size, top + style.size))


def pixels(image: Image.Image) -> np.ndarray:
    """uint8 (H, W, C) of an RGB or grey image."""
    return np.atleast_3d(np.array(image))


def _check_pixels(size: tuple[int, int], where: str) -> None:
    if size[0] * size[1] > MOST_PIXELS:
        raise BadImages(
            f'"{where}" has {size[0]} x {size[1]} pixels; the limit is {MOST_PIXELS}. Make it '
            "smaller, or leave it out if it is not an image that you know."
        )


def _is_deep(image: Image.Image) -> bool:
    """Whether Pillow would cut 16 bits a channel to 8 while it decodes."""
    tiles = getattr(image, "tile", None) or [("", None, 0, "")]
    raw = tiles[0][3]
    mode = raw[0] if isinstance(raw, tuple) and raw else raw
    return str(mode).endswith((";16B", ";16L", ";16N"))


def _deep(where: str) -> str:
    return (
        f'"{where}" has more than 8 bits a channel, which would be cut or clipped: save it with '
        "8 bits, scaled as you mean it."
    )
