"""Files are written whole or not at all."""

import pytest

from besiege.core.errors import BadRun
from besiege.core.files import write_whole


def test_a_file_is_made_with_its_folder_and_replaced(tmp_path):
    place = tmp_path / "deep" / "er" / "file.xml"
    for content in (b"first", b"second, longer", b""):
        write_whole(place, content)
        assert place.read_bytes() == content
    assert [p.name for p in place.parent.iterdir()] == ["file.xml"]


def test_what_cannot_be_written_leaves_what_was_there(tmp_path, monkeypatch):
    place = tmp_path / "file"
    write_whole(place, b"old")

    def full(self, data):
        with open(self, "wb") as file:
            file.write(data[:2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(place), "write_bytes", full)
    with pytest.raises(BadRun, match="No space left"):
        write_whole(place, b"new and longer")
    assert place.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_file_is_no_folder(tmp_path):
    write_whole(tmp_path / "file", b"")
    with pytest.raises(BadRun, match="cannot be written"):
        write_whole(tmp_path / "file" / "below", b"")
