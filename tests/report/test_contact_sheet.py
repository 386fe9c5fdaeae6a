"""Contact sheets: where each picture is, what a difference shows, and captions that fit."""

import numpy as np
from PIL import ImageFont

from besiege.report.contact_sheet import (
    GAP,
    TEXT,
    Panel,
    _broken,
    before_and_after,
    contact_sheet,
    difference_of,
)

RAMP = np.tile(np.arange(0, 200, 10, np.uint8)[:, None, None], (1, 20, 3))


def box(sheet, column, side, height):
    """The panel of the first line that ends at the bottom, (height, side, 3)."""
    left = GAP + column * (side + GAP)
    bottom = sheet.height - GAP
    return np.asarray(sheet)[bottom - height : bottom, left : left + side]


def test_pixels_of_the_pictures():
    """Enlarged by a whole number, shrunk by the mean of boxes, each under its caption."""
    checks = (np.indices((40, 40)).sum(0) % 2 * 200).astype(np.uint8)[..., None]
    sheet = contact_sheet([[Panel("a", RAMP), Panel("b", checks)]], side=20)
    assert np.array_equal(box(sheet, 0, 20, 20), RAMP)
    assert (box(sheet, 1, 20, 20) == 100).all()
    twice = contact_sheet([[Panel("a", RAMP)]], side=45)
    assert np.array_equal(box(twice, 0, 40, 40), RAMP.repeat(2, 0).repeat(2, 1))
    sharp = contact_sheet([[Panel("b", checks, smooth=False)]], side=20)
    assert set(np.unique(box(sharp, 0, 20, 20))) <= {0, 200}


def test_a_difference_is_magnified_around_grey():
    after = RAMP.copy()
    after[:10] += 2
    factor, shown = difference_of(RAMP, after)
    assert factor == 63  # 0.5 / (2 / 255), rounded down
    assert (shown[:10] == round(127.5 + 63 * 2)).all()
    assert np.isin(shown[10:], (127, 128)).all()


def test_no_difference_says_so_and_large_ones_are_not_magnified():
    assert difference_of(RAMP, RAMP)[0] == 0
    assert difference_of(RAMP, 255 - RAMP)[0] == 1


def test_one_stray_pixel_does_not_hide_the_rest():
    after = RAMP + 1
    after[0, 0] = 255
    assert difference_of(RAMP, after)[0] == 64


def test_sizes_and_colours_may_differ():
    larger = RAMP.repeat(2, 0).repeat(2, 1)
    factor, shown = difference_of(RAMP, larger)
    assert shown.shape == RAMP.shape
    _, grey = difference_of(RAMP[..., :1], RAMP)
    assert grey.shape == RAMP.shape
    assert factor >= 1
    sheet = before_and_after([("a.png", RAMP, larger)], "title", side=20)
    assert np.array_equal(box(sheet, 0, 20, 20), RAMP)
    assert abs(box(sheet, 1, 20, 20).astype(int) - RAMP).max() == 0


def test_captions_break_where_they_can():
    font = ImageFont.load_default(TEXT)
    text = "rdg:limit=0.25,sampling=nearest,corner=upper-left"
    lines = _broken(text, 150, font)
    assert "".join(lines) == text
    assert len(lines) > 1
    assert all(line.endswith(",") for line in lines[:-1])
    assert all(font.getlength(line) <= 150 for line in lines)
    assert "".join(_broken("x" * 90, 60, font)) == "x" * 90
