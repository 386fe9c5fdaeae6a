"""One bad file among good ones: the set opens, the file is named when taken, audit lists it."""

import io
import warnings
import zlib
from struct import pack

import numpy as np
import pytest
import torch
from PIL import Image

from besiege.core.errors import BadImages
from besiege.data import members, pictures
from besiege.data.catalog import load_images
from besiege.data.images import ImageSet, audit

NOISE = (np.arange(16 * 16 * 3) * 37 % 251).astype(np.uint8).reshape(16, 16, 3)


def saved(image, kind="PNG", **more):
    out = io.BytesIO()
    image.save(out, kind, **more)
    return out.getvalue()


def chunk(kind, data):
    return pack(">I", len(data)) + kind + data + pack(">I", zlib.crc32(kind + data))


def png(width, height, depth=8, colour=2, rows=b""):
    """A PNG by hand, which may announce any size."""
    head = pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


GOOD = saved(Image.fromarray(NOISE))
RGBA = np.dstack([NOISE, np.full((16, 16), 255, np.uint8)])
CLEAR = RGBA.copy()
CLEAR[3, 5, 3] = 254
BAD = {
    "empty": (b"", r"is empty \(0 bytes\)"),
    "text": (b"no image at all", "of no format that is read"),
    "truncated png": (GOOD[:120], "not a readable image"),
    "truncated jpeg": (saved(Image.fromarray(NOISE), "JPEG")[:500], "not a readable image"),
    "flipped bit": (GOOD[:60] + bytes([GOOD[60] ^ 8]) + GOOD[61:], "not a readable image"),
    "large": (png(8193, 8192), r"8193 x 8192 pixels; the limit is 67108864"),
    "larger than Pillow warns of": (png(9500, 9500), "limit is 67108864"),
    "larger than Pillow opens": (png(60000, 60000), "decompression bomb.*limit is 67108864"),
    "transparent": (saved(Image.fromarray(CLEAR)), "transparent pixels"),
    "clear colour": (
        saved(Image.fromarray(NOISE), transparency=tuple(NOISE[0, 0].tolist())),
        "transparent pixels",
    ),
    "16 bit grey": (saved(Image.new("I;16", (16, 16), 40000)), "more than 8 bits"),
    "16 bit rgb": (png(16, 16, 16, 2, 16 * (b"\0" + 96 * b"a")), "more than 8 bits"),
    "float": (saved(Image.new("F", (16, 16)), "TIFF"), "more than 8 bits"),
    "eps": (saved(Image.fromarray(NOISE), "EPS"), "of no format that is read"),
    "other size": (saved(Image.new("RGB", (15, 16))), r"is \(15, 16\) \(W, H\), but the first"),
}


@pytest.fixture
def opened(tmp_path):
    def opened_with(data, more="", first="m.png"):
        (tmp_path / "cat").mkdir(exist_ok=True)
        for name in ("a", "z"):
            (tmp_path / "cat" / f"{name}.png").write_bytes(GOOD)
        (tmp_path / "cat" / first).write_bytes(data)
        return load_images(f"folder:path={tmp_path}{more}")

    return opened_with


@pytest.mark.parametrize(("data", "message"), BAD.values(), ids=BAD)
def test_a_bad_file_is_named_when_taken(opened, data, message):
    limits = Image.MAX_IMAGE_PIXELS, torch.get_num_threads()
    images = opened(data)
    assert len(images) == 3
    assert len(images.take([0, 2]).x) == 2
    with pytest.raises(BadImages, match=message) as caught:
        images.take([0, 1])
    assert "m.png" in str(caught.value)
    assert audit(images) == [(1, str(caught.value))]
    assert (Image.MAX_IMAGE_PIXELS, torch.get_num_threads()) == limits


@pytest.mark.filterwarnings("default::PIL.Image.DecompressionBombWarning")
def test_the_limit_holds_where_pillow_only_warns(opened):
    images = opened(png(9500, 9500))
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        with pytest.raises(BadImages, match="limit is"):
            images.take([1])
    assert not seen


def test_a_file_that_went_away(opened, tmp_path):
    images = opened(GOOD)
    (tmp_path / "cat" / "m.png").unlink()
    with pytest.raises(BadImages, match=r"m\.png\" cannot be read"):
        images.take([1])
    (tmp_path / "cat" / "m.png").symlink_to(tmp_path / "nowhere.png")
    again = load_images(f"folder:path={tmp_path}")
    assert [i for i, _ in audit(again)] == [1]


def test_all_that_are_bad_are_named_and_each_file_is_read_once(tmp_path, monkeypatch):
    (tmp_path / "cat").mkdir()
    for i in range(9):
        (tmp_path / "cat" / f"{i}.png").write_bytes(GOOD if i == 4 else b"")
    images = load_images(f"folder:path={tmp_path}")
    read, seen = members.Members.read, []
    monkeypatch.setattr(members.Members, "read", lambda m, n: seen.append(n) or read(m, n))
    with pytest.raises(BadImages) as caught:
        images.take(range(9))
    assert len(seen) == len(set(seen)) == 9
    lines = str(caught.value).splitlines()
    assert [f"{i}.png" in line for i, line in zip((0, 1, 2, 3, 5), lines, strict=False)] == 5 * [
        True
    ]
    assert lines[5:] == ["  and 3 more."]


def test_too_many_bytes(opened, monkeypatch):
    images = opened(GOOD)
    monkeypatch.setattr(members, "MOST_BYTES", len(GOOD) - 1)
    with pytest.raises(BadImages, match=f"has {len(GOOD)} bytes; files of images may have"):
        images.take([0])


def test_resizing_a_strip_stays_within_the_limit(opened, monkeypatch):
    monkeypatch.setattr(pictures, "MOST_PIXELS", 16 * 16 * 4)
    images = opened(saved(Image.new("RGB", (100, 1))), ",size=16")
    with pytest.raises(BadImages, match="1600 x 16 pixels"):
        images.take([1])


def test_the_first_file_may_be_bad(opened):
    images = opened(b"", first="0.png")
    assert images.shape == (3, 16, 16)
    assert [i for i, _ in audit(images)] == [0]


def test_all_files_bad(tmp_path):
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "a.png").write_bytes(b"")
    with pytest.raises(BadImages, match=r"None of the 1 images of .* can be read.*a\.png"):
        load_images(f"folder:path={tmp_path}")


def test_audit_of_a_good_set():
    assert audit(ImageSet.of(torch.zeros(3, 1, 2, 2), torch.tensor([0, 1, 1]))) == []


def expected(image, mode="RGB"):
    return np.atleast_3d(np.array(image.convert(mode)))


RGB, L = Image.fromarray(NOISE), Image.fromarray(NOISE[..., 0])
CMYK = RGB.convert("CMYK")
TREATED = {
    "grey": (saved(L), expected(L)),
    "1 bit": (saved(L.convert("1")), expected(L.convert("1"))),
    "palette": (saved(RGB.quantize(8)), expected(RGB.quantize(8))),
    "opaque alpha": (saved(Image.fromarray(RGBA)), NOISE),
    "cmyk": (saved(CMYK, "TIFF"), expected(CMYK)),
    "bmp as png": (saved(RGB, "BMP"), NOISE),
    "first frame": (saved(RGB, save_all=True, append_images=[RGB.rotate(90)]), NOISE),
}


@pytest.mark.parametrize(("data", "wanted"), TREATED.values(), ids=TREATED)
def test_modes_that_are_read(opened, data, wanted):
    found = opened(data).take([1]).x[0] * 255
    assert np.array_equal(found.round().byte().permute(1, 2, 0).numpy(), wanted.astype(np.uint8))


def test_exif_orientation(opened, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    images = opened(saved(RGB, exif=exif))
    turned = torch.from_numpy(np.rot90(NOISE, -1).copy()).permute(2, 0, 1).float() / 255
    assert torch.equal(images.take([1]).x[0], turned)


def test_grey_weights(opened):
    found = opened(saved(Image.new("RGB", (16, 16), (255, 0, 0))), ",channels=1").take([1]).x
    assert found.unique().mul(255).tolist() == [76]
