"""Downloads: hashed, whole or not at all."""

from hashlib import sha256

import pytest

from besiege.core.errors import BadImages
from besiege.data import download
from besiege.data.download import fetched

DATA = bytes(range(256)) * 20
HASH = sha256(DATA).hexdigest()


@pytest.fixture
def url(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "set.bin").write_bytes(DATA)
    return (tmp_path / "there" / "set.bin").as_uri()


def test_fetched_once(url, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "CHUNK", 2000)
    seen = []
    path = fetched(url, HASH.upper(), tmp_path / "new" / "here", lambda *a: seen.append(a))
    assert path.read_bytes() == DATA
    assert [p.name for p in path.parent.iterdir()] == ["set.bin"]
    assert seen == [(2000, 5120), (4000, 5120), (5120, 5120)]
    monkeypatch.setattr(download, "urlopen", None)
    assert fetched(url, HASH, tmp_path / "new" / "here") == path


def test_another_hash_leaves_nothing(url, tmp_path):
    with pytest.raises(BadImages, match=rf"has the SHA-256 {HASH}, but {'0' * 64} was expected"):
        fetched(url, "0" * 64, tmp_path / "here")
    assert list((tmp_path / "here").iterdir()) == []


def test_a_file_that_is_there_is_never_overwritten(url, tmp_path):
    (tmp_path / "set.bin").write_bytes(b"mine")
    with pytest.raises(BadImages, match=r"set\.bin has the SHA-256 .* Delete it"):
        fetched(url, HASH, tmp_path)
    assert (tmp_path / "set.bin").read_bytes() == b"mine"


def test_an_end_on_the_way_leaves_nothing(url, tmp_path):
    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetched(url, HASH, tmp_path / "here", stop)
    assert list((tmp_path / "here").iterdir()) == []


@pytest.mark.parametrize("wrong", ["nowhere.bin", "no\nsuch"])
def test_what_cannot_be_fetched(url, tmp_path, wrong):
    with pytest.raises(BadImages, match="could not be fetched"):
        fetched(url.replace("set.bin", wrong), HASH, tmp_path / "here")
    with pytest.raises(BadImages, match="could not be fetched"):
        fetched("nothing:x", HASH, tmp_path / "here")
    assert list((tmp_path / "here").iterdir()) == []


def test_a_folder_that_cannot_be(url, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(BadImages, match="cannot take a download"):
        fetched(url, HASH, tmp_path / "file" / "below")
