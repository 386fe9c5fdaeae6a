"""One picture in and out: what is kept beside the pixels, and what is refused."""

import io

import numpy as np
import pytest
from PIL import Image, ImageCms

from besiege.core.errors import BadImages
from besiege.data.rewriting import Picture, read_picture

NOISE = (np.arange(6 * 5 * 3) * 37 % 251).astype(np.uint8).reshape(6, 5, 3)
ALPHA = (np.arange(30) * 8).astype(np.uint8).reshape(6, 5)
ORIENTATION = 274


def saved(image, kind="PNG", **more):
    out = io.BytesIO()
    image.save(out, kind, **more)
    return out.getvalue()


def reopened(picture, ending=".png"):
    return Image.open(io.BytesIO(picture.encoded(ending)))


@pytest.mark.parametrize("ending", [".png", ".webp"])
def test_pixels_and_alpha_come_back_bit_for_bit(ending):
    """Also colours under pixels that are wholly transparent, which WebP drops unless told."""
    given = Image.fromarray(np.dstack([NOISE, ALPHA]))
    found = read_picture(saved(given), "a")
    assert np.array_equal(found.pixels, NOISE)
    again = np.asarray(reopened(found.changed(255 - found.pixels, "a"), ending))
    assert np.array_equal(again[..., :3], 255 - NOISE)
    assert np.array_equal(again[..., 3], ALPHA)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied_once(orientation):
    exif = Image.Exif()
    exif[ORIENTATION], exif[0x010F] = orientation, "maker"
    data = saved(Image.fromarray(NOISE), exif=exif)
    upright = {
        1: NOISE,
        2: NOISE[:, ::-1],
        3: NOISE[::-1, ::-1],
        4: NOISE[::-1],
        5: NOISE.transpose(1, 0, 2),
        6: NOISE[::-1].transpose(1, 0, 2),
        7: NOISE[::-1, ::-1].transpose(1, 0, 2),
        8: NOISE[:, ::-1].transpose(1, 0, 2),
    }[orientation]
    found = read_picture(data, "a")
    assert np.array_equal(found.pixels, upright)
    out = reopened(found)
    assert out.getexif().get(ORIENTATION, 1) == 1
    assert out.getexif()[0x010F] == "maker"
    assert np.array_equal(np.asarray(out), upright)


def test_the_colour_profile_is_kept():
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    found = read_picture(saved(Image.fromarray(NOISE), icc_profile=profile), "a")
    assert reopened(found).info["icc_profile"] == profile


def grey_with_clear():
    out = Image.fromarray(NOISE[..., 0])
    out.info["transparency"] = int(NOISE[0, 0, 0])
    return out


@pytest.mark.parametrize(
    ("image", "pixels", "mode"),
    [
        (Image.fromarray(NOISE[..., 0]), NOISE[..., :1], "L"),
        (Image.fromarray(np.dstack([NOISE[..., 0], ALPHA])), NOISE[..., :1], "LA"),
        (grey_with_clear(), NOISE[..., :1], "LA"),
        (Image.fromarray(NOISE[..., 0] > 99), 255 * (NOISE[..., :1] > 99), "L"),
        (Image.fromarray(NOISE).quantize(90), NOISE, "RGB"),
    ],
    ids=["grey", "grey and alpha", "grey with one clear", "two levels", "palette"],
)
def test_modes(image, pixels, mode):
    found = read_picture(saved(image), "a")
    assert np.array_equal(found.pixels, pixels)
    assert reopened(found).mode == mode


def test_an_animation_is_refused_and_the_second_view_of_a_phone_is_not():
    views = [Image.fromarray(NOISE), Image.fromarray(255 - NOISE)]
    for kind in ("PNG", "WEBP"):
        data = saved(views[0], kind, save_all=True, append_images=views[1:])
        with pytest.raises(BadImages, match=r'"a\.x" is an animation of 2 frames'):
            read_picture(data, "a.x")
    data = saved(views[0], "MPO", save_all=True, append_images=views[1:])
    assert read_picture(data, "a").pixels.shape == NOISE.shape


def test_other_formats_are_not_read():
    with pytest.raises(BadImages, match="of no format that is read"):
        read_picture(saved(Image.fromarray(NOISE), "BMP"), "a.png")


def test_alpha_and_another_size():
    larger = np.zeros((8, 8, 3), np.uint8)
    with pytest.raises(BadImages, match=r'"a" has transparent .* from 5 x 6 to 8 x 8'):
        Picture(NOISE, ALPHA).changed(larger, "a")
    opaque = Picture(NOISE, np.full((6, 5), 255, np.uint8)).changed(larger, "a")
    assert opaque.alpha.shape == (8, 8)
    assert opaque.alpha.min() == 255
