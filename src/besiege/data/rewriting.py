"""Single pictures in and out: what a defense is to change, and all else that the file holds."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from besiege.core.errors import BadImages
from besiege.data.pictures import opened, pixels

# Ending of a file that is read -> of the one that is written: PNG unless lossless already.
ENDINGS = {".png": ".png", ".webp": ".webp", ".jpg": ".png", ".jpeg": ".png"}
READ = ("PNG", "JPEG", "WEBP")
# How each ending is written: without loss, colours under transparent pixels included.
WRITTEN: dict[str, dict[str, Any]] = {
    ".png": {"format": "PNG"},
    ".webp": {"format": "WEBP", "lossless": True, "exact": True},
}


@dataclass(frozen=True)
class Picture:
    """One picture of 8 bits a channel, upright.

    pixels: uint8 (H, W, C), C = 1 for grey, 3 for RGB. alpha: uint8 (H, W), None if there is none.
    extras: EXIF data (its orientation applied and reset) and colour profile, as Pillow saves them.
    """

    pixels: NDArray[np.uint8]
    alpha: NDArray[np.uint8] | None = None
    extras: dict[str, Any] = field(default_factory=dict)

    def changed(self, to: NDArray[np.uint8], where: str) -> Picture:
        """The same with other pixels (H, W, 1 or 3); alpha is kept as it is.

        Where the size differs, an alpha that is opaque everywhere stays so in the new size. Raises
        BadImages, naming `where`, for any other: there is no way to keep it.
        """
        alpha = self.alpha
        if alpha is not None and alpha.shape != to.shape[:2]:
            if alpha.min() < 255:
                raise BadImages(
                    f'"{where}" has transparent pixels, and the defense changes its size from '
                    f"{_spelt(alpha.shape)} to {_spelt(to.shape)}: alpha cannot be kept as it is. "
                    "Save the picture without alpha."
                )
            alpha = np.full(to.shape[:2], 255, np.uint8)
        return Picture(to, alpha, self.extras)

    def encoded(self, ending: str) -> bytes:
        """The bytes of a file, without loss; ending: a key of WRITTEN.

        WebP has no grey: there it is RGB of three equal channels.
        """
        image = Image.fromarray(self.pixels[..., 0] if self.pixels.shape[2] == 1 else self.pixels)
        if self.alpha is not None:
            image.putalpha(Image.fromarray(self.alpha))
        file = io.BytesIO()
        image.save(file, **WRITTEN[ending], **self.extras)
        return file.getvalue()


def read_picture(data: bytes, where: str) -> Picture:
    """The picture in the bytes of a PNG, JPEG or WebP file, told by its content.

    Grey stays one channel; a palette, CMYK and YCbCr become RGB. Colours under transparent pixels
    are those that the file holds. Raises BadImages, naming `where`, for what
    `data.pictures.opened` refuses, and for animations.
    """
    with opened(data, where, READ) as image:
        # MPO is a JPEG with other views behind it, as phones write them: the first is the picture.
        frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
        if frames > 1:
            raise BadImages(
                f'"{where}" is an animation of {frames} frames: save those that you need as single '
                "pictures."
            )
        icc = image.info.get("icc_profile")
        upright = ImageOps.exif_transpose(image)
        exif = upright.getexif().tobytes()
        grey = upright.mode in ("1", "L", "LA")
        clear = upright.has_transparency_data
        extras = {"exif": exif} if upright.getexif() else {}
        if icc and upright.mode != "CMYK":  # that profile would not fit RGB
            extras["icc_profile"] = icc
        if not clear:
            return Picture(pixels(upright.convert("L" if grey else "RGB")), None, extras)
        # Pillow has no way from L with one transparent grey to LA but by RGBA.
        whole = pixels(upright.convert("RGBA"))
        return Picture(whole[..., :1] if grey else whole[..., :3], whole[..., 3], extras)


def _spelt(shape: tuple[int, ...]) -> str:
    """Width x height of an array (H, W, ...)."""
    return f"{shape[1]} x {shape[0]}"
