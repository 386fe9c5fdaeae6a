"""The demo: from nothing to a report, and nothing more the second time."""

import subprocess
import sys

import pytest

from besiege.cli.main import main
from besiege.core.store import RunFolder
from besiege.report.tables import summarise

DEMO = [sys.executable, "-m", "besiege", "demo", "--out", "run", "--set", "data.n=6"]


def test_the_demo_ends_in_a_report_and_resumes(tmp_path):
    done = subprocess.run(DEMO, cwd=tmp_path, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    found = summarise(tmp_path / "run")
    assert len(found.lines) == 6 * 4 * 2
    assert all(line.n == 6 for line in found.lines)
    assert not found.unfinished
    by = {(line.defense, line.recipe, line.targeted): line for line in found.lines}
    assert by["none", "none", False].accuracy.estimate > 0.8
    assert by["none", "bpda", False].accuracy.estimate < 0.5
    page = (tmp_path / "run" / "report.html").read_text()
    assert page.count("data:image/png") >= 48
    assert "FD+RDG" in done.stdout
    rows = RunFolder(tmp_path / "run").rows()
    again = subprocess.run(DEMO, cwd=tmp_path, capture_output=True, text=True, timeout=500)
    assert again.returncode == 0
    assert again.stdout == done.stdout
    assert RunFolder(tmp_path / "run").rows() == rows


def test_the_demo_keeps_every_image_and_is_judged_again(tmp_path, monkeypatch, capsys):
    steps = [f"recipe[{i}].steps=1" for i in (1, 2, 3)]
    small = [
        "data.n=2",
        "keep.images=0",
        "judge.draws=2",
        "judge.every=0",
        "engine.workers=1",
        *steps,
    ]
    changes = [word for change in small for word in ("--set", change)]
    run = str(tmp_path / "run")
    monkeypatch.setattr(sys, "argv", ["besiege", "demo", "--save-images", "--out", run, *changes])
    with pytest.raises(SystemExit) as done:
        main()
    assert done.value.code == 0
    folder = RunFolder(tmp_path / "run")
    cells = {row["cell"] for row in folder.rows()}
    assert len(cells) == 48
    assert set(folder.kept()) == {(cell, i) for cell in cells for i in range(2)}
    capsys.readouterr()
    monkeypatch.setattr(sys, "argv", ["besiege", "judge", run])
    with pytest.raises(SystemExit) as done:
        main()
    assert done.value.code == 0
    said = capsys.readouterr().out
    assert said.count(" 2 of 2 ") + said.count(" 4 of 4 ") == 48
    assert said.rstrip().endswith("as recorded")


def test_one_photograph_is_attacked(tmp_path):
    command = ["besiege", "demo", "--imagenet", "--out", "run", "--set", "recipe[2].steps=2"]
    command += ["--set", "recipe[1].steps=2", "--set", "judge.draws=2", "--set", "judge.every=0"]
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=tmp_path, capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0, done.stderr
    lines = summarise(tmp_path / "run").lines
    assert len(lines) == 6
    assert lines[0].accuracy.estimate > 0  # two draws of a defense that costs clean accuracy
    assert "palace" in (tmp_path / "run" / "report.html").read_text()
