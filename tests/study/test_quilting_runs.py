"""A run with a patch database: paths count from its file, and its content names the cells."""

import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from besiege.study.experiment.experiment import load_experiment
from besiege.study.prepared import prepare

FILE = """
data = { source = "digits", n = 2 }
model = "digits-cnn"
[[defense]]
name = "quilting"
chain = "bits + quilt:patches=my db.npy,k=1 + noise"
[[defense]]
name = "bits"
chain = "bits"
[[threat]]
eps = 0.1
[[recipe]]
kind = "none"
"""


def besiege(*args: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "besiege", *args]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, check=False)


def test_a_changed_database_changes_its_cells_alone(tmp_path: Path) -> None:
    place = tmp_path / "here"
    place.mkdir()
    (place / "e.toml").write_text(FILE)
    cells = []
    for seed in ("1", "2"):
        done = besiege(
            *("quilt", "build", "digits", "--out", "my db.npy"),
            *("--patches", "200", "--seed", seed, "--force"),
            cwd=place,
        )
        assert done.returncode == 0, done.stderr
        assert "defense: quilt:patches=my db.npy" in done.stdout
        assert "200/200" in done.stderr
        cells.append([r["cell"] for r in prepare(load_experiment(place / "e.toml")).records])
    assert cells[0][0] != cells[1][0]
    assert cells[0][1] == cells[1][1]
    again = besiege("quilt", "build", "digits", "--out", "my db.npy", cwd=place)
    assert again.returncode == 2
    assert "is there already" in again.stderr
    assert "Traceback" not in again.stderr


def test_patches_of_pictures_without_classes(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for grey in (51, 102):
        Image.new("RGB", (9, 7 + grey), (grey,) * 3).save(tmp_path / "photos" / f"{grey}.png")
    done = besiege(
        *("quilt", "build", "photos", "--out", "db.npy", "--patches", "40", "--image-size", "8"),
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert set(np.load(tmp_path / "db.npy").flatten().tolist()) == {51, 102}
