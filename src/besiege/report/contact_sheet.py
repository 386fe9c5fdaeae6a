"""Contact sheets: lines of small labelled pictures in one image."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Pixels: TypeAlias = "NDArray[np.uint8]"  # (H, W, 1 or 3)
GAP = 8  # px between panels
TEXT = 12  # px
LINE = 15  # px from one line of a caption to the next
INK, PAPER, FRAME = "#222222", "#ffffff", "#c8c8c8"


class Panel(NamedTuple):
    """One picture and its caption.

    smooth: whether it is shrunk by the mean over boxes; a difference is not, or it would fade.
    """

    caption: str
    pixels: Pixels
    smooth: bool = True


def contact_sheet(
    lines: Sequence[Sequence[Panel]], side: int = 160, title: str = ""
) -> Image.Image:
    """One RGB image of `lines`, each panel within side x side px under its caption.

    Larger pictures are shrunk, smaller ones enlarged by a whole number, so that pixels stay pixels;
    all have a frame of one pixel. A caption that does not fit is broken into lines.
    """
    font = ImageFont.load_default(TEXT)
    captions = [[_broken(p.caption, side, font) for p in line] for line in lines]
    heads = [LINE * max(len(c) for c in line) + 4 for line in captions]
    pictures = [[_fitted(p, side) for p in line] for line in lines]
    tall = [max(picture.height for picture in line) for line in pictures]
    top = GAP + (LINE + GAP if title else 0)
    width = GAP + max(len(line) for line in lines) * (side + GAP)
    sheet = Image.new("RGB", (width, top + sum(heads) + sum(tall) + GAP * len(lines)), PAPER)
    pen = ImageDraw.Draw(sheet)
    pen.text((GAP, GAP), title, INK, font)
    for texts, row, head, height in zip(captions, pictures, heads, tall, strict=True):
        for column, (text, picture) in enumerate(zip(texts, row, strict=True)):
            left = GAP + column * (side + GAP)
            for number, words in enumerate(text):
                pen.text((left, top + number * LINE), words, INK, font)
            corner = left - 1, top + head - 1
            far = left + picture.width, top + head + picture.height
            pen.rectangle((corner, far), outline=FRAME)
            sheet.paste(picture, (left, top + head))
        top += head + height + GAP
    return sheet


def before_and_after(
    pairs: Iterable[tuple[str, Pixels, Pixels]], title: str = "", side: int = 240
) -> Image.Image:
    """A line for each (name, before, after): both, and their difference magnified.

    Where the sizes differ, the difference is to `after` brought to the size of `before`.
    """
    lines = []
    for name, before, after in pairs:
        factor, difference = difference_of(before, after)
        sized = "" if before.shape == after.shape else f", now {after.shape[1]} x {after.shape[0]}"
        lines.append(
            (
                Panel(name, before),
                Panel(f"after{sized}", after),
                Panel(f"difference x {factor}" if factor else "no difference", difference, False),
            )
        )
    return contact_sheet(lines, side, title)


def difference_of(before: Pixels, after: Pixels) -> tuple[int, Pixels]:
    """Factor, and after - before magnified by it around grey; (0, grey) where they are equal.

    The factor is the largest whole one at which 1 % of the values or fewer are cut, at most 64.
    Where the sizes differ, `after` is brought to that of `before` first (bilinear).
    """
    colours = max(before.shape[2], after.shape[2])
    size = before.shape[1], before.shape[0]
    one, other = (_image(p, colours) for p in (before, after))
    if other.size != size:
        other = other.resize(size, Image.Resampling.BILINEAR)
    change = _floats(other) - _floats(one)
    common = float(np.quantile(np.abs(change), 0.99))
    factor = int(min(max(1.0, 0.5 / max(common, 1e-3)), 64)) if change.any() else 0
    return factor, np.rint((0.5 + factor * change).clip(0, 1) * 255).astype(np.uint8)


def _floats(image: Image.Image) -> NDArray[np.float32]:
    """(H, W, C) in [0, 1]."""
    return np.asarray(np.atleast_3d(np.asarray(image)), np.float32) / np.float32(255)


def _image(pixels: Pixels, channels: int = 3) -> Image.Image:
    image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    return image.convert("RGB") if channels == 3 else image


def _fitted(panel: Panel, side: int) -> Image.Image:
    """Within side x side."""
    image = _image(panel.pixels)
    longest = max(image.size)
    if longest > side:
        width, height = (max(1, round(s * side / longest)) for s in image.size)
        kind = Image.Resampling.BOX if panel.smooth else Image.Resampling.NEAREST
        return image.resize((width, height), kind)
    times = side // longest
    return image.resize((image.width * times, image.height * times), Image.Resampling.NEAREST)


def _broken(text: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> list[str]:
    """`text` in lines of at most `width` px, broken after , + / and spaces where it can be."""
    lines = [""]
    for mark in text:
        if font.getlength(lines[-1] + mark) > width and lines[-1]:
            kept = max(lines[-1].rfind(stop) for stop in ", +/") + 1
            head, tail = lines[-1][:kept], lines[-1][kept:]
            lines[-1:] = [head.rstrip(), tail] if kept else [lines[-1], ""]
        lines[-1] += mark
    return lines
