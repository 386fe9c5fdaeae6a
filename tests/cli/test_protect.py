"""`besiege protect` from the shell: exit codes, what it prints, and the contact sheet."""

import subprocess

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def besiege(command_line, monkeypatch):
    """Run `besiege protect` in a folder: returncode, stdout and stderr as of a process."""

    def run(*args, cwd):
        with monkeypatch.context() as patch:
            patch.chdir(cwd)
            return subprocess.CompletedProcess(args, *command_line("protect", *args))

    return run


def read(path):
    with Image.open(path) as image:
        return np.asarray(image)


@pytest.fixture
def home(tmp_path):
    (tmp_path / "in").mkdir()
    for name in ("a", "b"):
        ramp = np.tile(np.arange(0, 240, 10, np.uint8)[:, None, None], (1, 24, 3))
        Image.fromarray(ramp).save(tmp_path / "in" / f"{name}.png")
    return tmp_path


def test_a_folder_with_a_file_that_cannot_be_read(besiege, home):
    (home / "in" / "c.png").write_bytes(b"no picture")
    args = ("--defense", "fd + rdg:limit=0.15", "in", "--out", "out", "--contact-sheet", "s.png")
    done = besiege(*args, "--shown", "1", cwd=home)
    assert done.returncode == 1
    assert done.stdout == "2 written to out, 1 skipped\ncontact sheet: s.png\n"
    assert 'skipped: "in/c.png" is not a readable image' in done.stderr
    assert "3/3" in done.stderr
    sheet = read(home / "s.png")
    after = read(home / "out" / "a.png").repeat(10, 0).repeat(10, 1)
    assert np.array_equal(sheet[-8 - 240 : -8, 256 : 256 + 240], after)
    again = besiege(*args, cwd=home)
    assert again.returncode == 2
    assert '"s.png" is there already' in again.stderr


def test_one_file_under_another_name(besiege, home):
    done = besiege("--defense", "bits", "in/a.png", "--out", "b.webp", cwd=home)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "1 written to b.webp, 0 skipped\n"
    assert (home / "b.webp").read_bytes()[8:12] == b"WEBP"
    assert done.stderr == ""


def test_a_mistake_is_one_message(besiege, home):
    done = besiege("--defense", "fdd", "in", "--out", "out", cwd=home)
    assert done.returncode == 2
    assert 'Did you mean "fd"?' in done.stderr
    assert "Traceback" not in done.stderr
    assert not (home / "out").exists()
