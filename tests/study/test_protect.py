"""A defense applied to files: names, draws, what is skipped, and that nothing is lost."""

import io
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from PIL import Image

from besiege.core.errors import BadImages, BadRun, BadSetting, UnknownName
from besiege.core.key import Key
from besiege.defenses.catalog import parse_chain
from besiege.defenses.transform import Chain, Transform
from besiege.study import protect as module
from besiege.study.protect import name_id, protect

NOISY = parse_chain("noise:scale=0.1")
FLIPPED = parse_chain("brightness:levels=16")


def picture(number, height=9, width=7, channels=3):
    size = height * width * channels
    values = (np.arange(size) * (31 + number) % 251).astype(np.uint8)
    return values.reshape(height, width, channels).squeeze()


def write(path, pixels, **more):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **more)


def read(path):
    with Image.open(path) as image:
        return np.asarray(image)


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "in"
    write(folder / "a.png", picture(1))
    write(folder / "b.JPG", picture(2))
    write(folder / "deep" / "c.webp", picture(3), lossless=True)
    write(folder / "deep" / "d.v2.jpeg", picture(4))
    write(folder / "e.bmp", picture(5))
    write(folder / ".hidden.png", picture(6))
    return folder


def test_names_and_pixels(source, tmp_path):
    done = protect(FLIPPED, source, tmp_path / "out")
    names = {p.relative_to(tmp_path / "out").as_posix() for p in done.written}
    assert names == {"a.png", "b.png", "deep/c.webp", "deep/d.v2.png"}
    assert {p for p in (tmp_path / "out").rglob("*") if p.is_file()} == set(done.written)
    assert done.skipped == ()
    for name, number in (("a.png", 1), ("deep/c.webp", 3)):
        darker = np.clip(picture(number).astype(int) - 16, 0, 255)
        assert np.array_equal(read(tmp_path / "out" / name), darker)
    jpeg = read(source / "b.JPG").astype(int)
    assert np.array_equal(read(tmp_path / "out" / "b.png"), np.clip(jpeg - 16, 0, 255))


@pytest.mark.parametrize("form", ["png", "webp"])
def test_one_format_for_all(source, tmp_path, form):
    done = protect(Chain(), source, tmp_path / "out", form=form)
    assert {p.suffix for p in done.written} == {f".{form}"}
    assert np.array_equal(read(tmp_path / "out" / f"a.{form}"), picture(1))


def test_draws_are_those_of_the_name_alone(source, tmp_path):
    protect(NOISY, source, tmp_path / "many", seed=5)
    whole = read(tmp_path / "many" / "a.png")
    for name in ("b.JPG", "deep", "e.bmp"):
        (source / name).rename(tmp_path / name)
    write(source / "0.png", picture(9))
    protect(NOISY, source, tmp_path / "few", seed=5)
    assert np.array_equal(read(tmp_path / "few" / "a.png"), whole)
    protect(NOISY, source / "a.png", tmp_path / "one.png", seed=5)
    assert np.array_equal(read(tmp_path / "one.png"), whole)
    protect(NOISY, source, tmp_path / "other", seed=6)
    assert not np.array_equal(read(tmp_path / "other" / "a.png"), whole)
    x = torch.from_numpy(picture(1) / np.float32(255)).permute(2, 0, 1)[None]
    draw = NOISY.draw(Key.root(5, [name_id("a.png")]).fold("protect"), (3, 9, 7))
    alone = (NOISY.forward(x, draw) * 255).round()[0].permute(1, 2, 0)
    assert np.array_equal(whole, alone.numpy())


def test_equal_pictures_under_two_names_are_changed_differently(tmp_path):
    for name in ("a", "b"):
        write(tmp_path / "in" / f"{name}.png", picture(1))
    protect(NOISY, tmp_path / "in", tmp_path / "out")
    assert not np.array_equal(read(tmp_path / "out" / "a.png"), read(tmp_path / "out" / "b.png"))


@dataclass(frozen=True)
class Counting(Transform):
    """Remembers the batches that it is given."""

    seen: list
    name: str = "counting"

    def forward(self, x, draw):
        self.seen.append(tuple(x.shape))
        return x


def test_pictures_of_one_size_go_together(tmp_path, monkeypatch):
    for i in range(7):
        write(tmp_path / "in" / f"{i}.png", picture(i, 9, 7 if i % 2 else 8))
    seen = []
    protect(Counting(seen), tmp_path / "in", tmp_path / "a")
    assert sorted(seen) == [(3, 3, 9, 7), (4, 3, 9, 8)]
    seen.clear()
    monkeypatch.setattr(module, "BATCH", 2 * 9 * 8)
    protect(Counting(seen), tmp_path / "in", tmp_path / "b")
    assert sorted(s[0] for s in seen) == [1, 2, 2, 2]
    seen.clear()
    monkeypatch.setattr(module, "WAITING", 1)
    protect(Counting(seen), tmp_path / "in", tmp_path / "c")
    assert [s[0] for s in seen] == [1] * 7


def test_grey_stays_grey_and_alpha_stays(tmp_path):
    write(tmp_path / "in" / "grey.png", picture(1, channels=1))
    clear = np.dstack([picture(1), picture(2, channels=1)])
    write(tmp_path / "in" / "clear.png", clear)
    done = protect(NOISY, tmp_path / "in", tmp_path / "out")
    assert len(done.written) == 2
    assert read(tmp_path / "out" / "grey.png").shape == (9, 7)
    assert np.array_equal(read(tmp_path / "out" / "clear.png")[..., 3], clear[..., 3])
    assert not np.array_equal(read(tmp_path / "out" / "clear.png")[..., :3], clear[..., :3])


def test_a_link_that_changes_the_size(tmp_path):
    write(tmp_path / "in" / "a.png", picture(1, 30, 30))
    write(tmp_path / "in" / "clear.png", np.dstack([picture(1, 30, 30)] * 2)[..., :4])
    chain = parse_chain("pad:form=xie,back=false")
    done = protect(chain, tmp_path / "in", tmp_path / "out", keep=5)
    shape = chain.out_shape((3, 30, 30))
    assert read(tmp_path / "out" / "a.png").shape == (shape[1], shape[2], 3)
    (said,) = done.skipped
    assert "clear.png" in said
    assert "alpha cannot be kept" in said
    assert [pair.name for pair in done.pairs] == ["a.png"]


def bomb():
    """A PNG of 50 bytes that announces 60000 x 60000 pixels."""
    out = io.BytesIO()
    Image.new("1", (8, 8)).save(out, "PNG")
    data = bytearray(out.getvalue())
    data[16:24] = (60000).to_bytes(4, "big") * 2
    from zlib import crc32

    data[29:33] = crc32(data[12:29]).to_bytes(4, "big")
    return bytes(data)


def test_what_cannot_be_read_is_named_and_the_rest_is_written(source, tmp_path):
    (source / "bomb.png").write_bytes(bomb())
    (source / "cut.png").write_bytes((source / "a.png").read_bytes()[:60])
    (source / "text.jpg").write_text("no picture")
    done = protect(FLIPPED, source, tmp_path / "out")
    assert len(done.written) == 4
    assert [s.split('"')[1].rsplit("/")[-1] for s in done.skipped] == [
        "bomb.png",
        "cut.png",
        "text.jpg",
    ]
    assert "decompression bomb" in done.skipped[0]


@dataclass(frozen=True)
class Picky(Transform):
    """Fails on the batch that holds a dark picture."""

    name: str = "picky"

    def forward(self, x, draw):
        if bool((x.flatten(1).mean(1) < 0.1).any()):
            raise RuntimeError("too dark")
        return x


def test_a_picture_that_the_defense_fails_on_does_not_take_its_batch_along(tmp_path):
    for i in range(3):
        write(tmp_path / "in" / f"{i}.png", picture(1) * (i != 1))
    done = protect(Picky(), tmp_path / "in", tmp_path / "out")
    assert [p.name for p in done.written] == ["0.png", "2.png"]
    assert "1.png" in done.skipped[0]
    assert "the defense picky fails on it (RuntimeError: too dark)" in done.skipped[0]


def test_nothing_is_overwritten_unless_forced(source, tmp_path):
    out = tmp_path / "out"
    write(out / "deep" / "c.webp", picture(9), lossless=True)
    with pytest.raises(BadRun, match=r"c\.webp\" is there already .* --force"):
        protect(FLIPPED, source, out)
    assert [p for p in out.rglob("*") if p.is_file()] == [out / "deep" / "c.webp"]
    assert np.array_equal(read(out / "deep" / "c.webp"), picture(9))
    assert len(protect(FLIPPED, source, out, force=True).written) == 4
    assert not np.array_equal(read(out / "deep" / "c.webp"), picture(9))


def test_pairs_are_the_first_by_name(source, tmp_path):
    done = protect(FLIPPED, source, tmp_path / "out", keep=2)
    assert [p.name for p in done.pairs] == ["a.png", "b.JPG"]
    assert np.array_equal(done.pairs[0].before, picture(1))
    assert np.array_equal(done.pairs[0].after, read(tmp_path / "out" / "a.png"))


def test_what_is_refused_before_anything_is_written(source, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(BadSetting, match="lies in"):
        protect(FLIPPED, source, source / "out")
    with pytest.raises(BadSetting, match="overwritten by its result"):
        protect(FLIPPED, source / "a.png", source / "a.png", force=True)
    with pytest.raises(BadSetting, match=r"\.png or \.webp.*one more defense"):
        protect(FLIPPED, source / "a.png", tmp_path / "a.jpg")
    with pytest.raises(UnknownName, match="png, webp"):
        protect(FLIPPED, source, out, form="jpeg")
    with pytest.raises(BadImages, match="holds no pictures"):
        protect(FLIPPED, source / "e.bmp", out)
    with pytest.raises(BadImages, match=r'Did you mean ".*a\.png"'):
        protect(FLIPPED, source / "aa.png", out)
    write(source / "b.png", picture(7))
    with pytest.raises(BadSetting, match=r'b\.JPG" and ".*b\.png" would both'):
        protect(FLIPPED, source, out)
    assert not out.exists()


def test_progress_counts_every_file(source, tmp_path):
    (source / "text.jpg").write_text("no picture")
    events = []
    protect(FLIPPED, source, tmp_path / "out", on_event=events.append)
    assert (events[0].done, events[0].total) == (0, 5)
    assert events[-1].done == 5
