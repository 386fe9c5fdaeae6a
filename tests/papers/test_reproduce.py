"""A stranger's file, run from end to end on digits; measures on evidence made by hand."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from besiege.cli.reproduce import _images
from besiege.core.errors import BadSetting
from besiege.core.store import RunFolder
from besiege.papers.load import load_paper
from besiege.papers.measures import MEASURES, Evidence
from besiege.papers.reproduce import FOLDERS, reproduce
from besiege.papers.schema import COLUMNS

SMALL = Path(__file__).parent / "small.toml"
ROWS = [
    {"predicted": [1, 1, 2, 3], "label": 1, "target": 2, "claim": 0.25},
    {"predicted": [2, 2, 2, 2], "label": 0, "target": 2, "claim": None},
]


def pairs():
    clean = torch.zeros(2, 1, 8, 8)
    yield clean, clean + torch.tensor([0.0, 0.5])[:, None, None, None]


@pytest.mark.parametrize(
    "name, targeted, values",
    [
        ("accuracy", True, [0.5, 0.0]),
        ("success", True, [0.25, 1.0]),
        ("success", False, [0.5, 1.0]),
        ("lucky", True, [1.0, 1.0]),
        ("lucky", False, [1.0, 1.0]),
        ("claimed", True, [0.25, 0.0]),
        ("change", False, [0.0, 0.5]),
    ],
)
def test_measures(name, targeted, values):
    found = MEASURES[name](Evidence(ROWS, targeted, pairs))
    assert np.allclose(found, values)


def test_similarity_of_constant_images():
    """Of 0 and 0.5 everywhere: (2 m n + c1) / (m^2 + n^2 + c1) with one mean 0."""
    found = MEASURES["similarity"](Evidence(ROWS, False, pairs))
    assert np.allclose(found, [1.0, 1e-4 / (0.25 + 1e-4)])


def test_a_defense_that_changes_the_shape():
    def shorter():
        yield torch.zeros(2, 1, 8, 8), torch.zeros(2, 1, 4, 4)

    with pytest.raises(BadSetting, match="has no measure"):
        MEASURES["change"](Evidence(ROWS, False, shorter))


@pytest.fixture
def command(tmp_path, monkeypatch, command_line):
    """`besiege reproduce` in a folder with a stranger's file: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.toml").write_text(SMALL.read_text("utf-8"))
    return partial(command_line, "reproduce")


def test_from_end_to_end(command, tmp_path):
    code, out, err = command("small.toml", "--out", "r")
    assert code == 0, err
    assert "Published with a network on 10 images; here digits-cnn on 6 images of digits" in out
    record = json.loads((tmp_path / "r" / "reproduction.json").read_text())
    figures = {(f["row"], f["quantity"]): f for f in record["figures"]}
    assert figures["noise", "accuracy"]["published"] == 90
    assert figures["bare", "hit"]["published"] is None
    # What is printed is what the rows say.
    for which, folder in FOLDERS.items():
        run = RunFolder(tmp_path / "r" / folder)
        cells = {r["cell"]: r["defense"] for r in run.resolved()["cells"]}
        for name in ("noise", "bare"):
            rows = [r for r in run.rows() if cells[r["cell"]] == name]
            right = np.mean([[p == r["label"] for p in r["predicted"]] for r in rows])
            assert len(rows) == 6
            assert figures[name, "accuracy"][which][0] == pytest.approx(100 * right)
    assert figures["noise", "hit"]["correct"][0] == pytest.approx(
        100 - figures["noise", "accuracy"]["correct"][0]
    )
    verdicts = [(c["as_published"]["verdict"], c["correct"]["verdict"]) for c in record["claims"]]
    assert verdicts[0][1] == "falls"  # 12 steps at 0.3 leave little of 6 digits
    assert verdicts[1][1] == "falls"
    assert verdicts[2:] == [("not testable here",) * 2] * 2
    assert "it is about images of 299 x 299 pixels; these have 32 x 32" in out
    assert "of their machine" in out
    page = (tmp_path / "r" / "reproduction.md").read_text()
    assert "| noise | accuracy % | 90 |" in page
    assert "- identity through every link\n- one step" in page
    assert (tmp_path / "r" / "correct" / "report.html").exists()
    said, table = " ".join(out.split()), page.partition("## What the paper says")[0]
    for which, folder in FOLDERS.items():  # below the table of figures, and before the claims
        findings = RunFolder(tmp_path / "r" / folder).findings()
        assert record["findings"][which] == findings
        grave = [f for f in findings if f["level"] != "NOTE"]
        assert all(" ".join(f["what"].split()) in said for f in grave)
        notes = len(findings) - len(grave)
        assert notes
        assert f"{notes} note{'s' if notes > 1 else ''} of checks: besiege check" in table
        assert f"besiege check r/{folder}" in said.partition("what the paper says")[0]
    # Again: nothing is attacked, everything is printed.
    code, again, err = command("small.toml", "--out", "r")
    assert "12/12" in err
    assert "started" not in err
    assert again == out


def test_only_some_rows(command, tmp_path):
    code, out, _ = command("small.toml", "--only", "bare", "--count", "2", "--out", "r")
    assert code == 0
    assert "left out: 1 of 2 rows, and 3 claims about them." in out
    record = json.loads((tmp_path / "r" / "reproduction.json").read_text())
    assert {f["row"] for f in record["figures"]} == {"bare"}
    assert record["n"] == 2
    assert [claim["row"] for claim in record["claims"]] == ["bare"]


def test_adaptive_attackers_are_planned(command, tmp_path):
    changes = ["correct.recipe[0]={kind='adaptive'}", "correct.threat.passes=40", "data.n=2"]
    sets = [part for change in changes for part in ("--set", change)]
    code, out, err = command("small.toml", "--only", "noise", "--out", "r", *sets)
    assert code == 0, err
    assert "passes an image and row, on the mean, after a plan of " in out
    assert " passes on each of 2 pilot images" in " ".join(out.split())
    assert RunFolder(tmp_path / "r" / "correct").resolved()["plans"]
    record = json.loads((tmp_path / "r" / "reproduction.json").read_text())
    assert record["figures"][0]["passes"]["correct"] > 0
    assert record["changes"] == changes[:2]
    assert record["plans"]["as_published"] == 0
    assert record["plans"]["correct"] > 0


def test_quick_says_that_it_is_no_evidence(command, tmp_path):
    changes = ["--set", "data.n=2", "--only", "FD", "--only", "bit depth"]
    code, out, err = command("p0-table1", "--quick", *changes)
    assert code == 0, err
    assert "NOT the paper's data" in out
    assert "holds" not in out
    assert (tmp_path / "runs" / "reproduce-p0-table1-quick" / "reproduction.json").exists()


def test_without_images(command):
    code, _, err = command("p0-fig3")
    assert code == 2
    assert "p0-fig3 needs --images and --model: photographs of 299 x 299" in err
    code, _, err = command("p0-fig3", "--model", "digits-cnn")
    assert "p0-fig3 needs --images: " in err


def test_list(command):
    code, out, _ = command("--list")
    assert code == 0
    assert "p0-table1" in out
    assert "table I" in out
    assert command()[0] == 2


def photographs(shared):
    """Two rows of table I on three photographs."""
    data = shared / "data"
    return load_paper(
        "p0-table1",
        [
            f'data.source="nips2017:path={data / "imagenet_nips2017"}"',
            f'model.source="file:{data / "imagenet_mobilenet_v2_fp16.safetensors"}"',
            "data.n=3",
            "correct.judge.draws=1",
        ],
        only=["FD", "bit depth"],
    )


def test_change_and_similarity_of_photographs(shared, tmp_path):
    """Released FD is near its published figures on others; put right, its change is gone."""
    found = reproduce(photographs(shared), tmp_path / "r")
    figures = {(f.row, f.quantity.name): f for f in found.figures}
    change, similar = figures["FD", "change"], figures["FD", "similarity"]
    assert abs(change.here[COLUMNS[0]].estimate - change.published) < 0.02
    assert abs(similar.here[COLUMNS[0]].estimate - similar.published) < 0.08
    assert change.here[COLUMNS[1]].estimate < 0.03
    assert similar.here[COLUMNS[1]].estimate > 0.9
    rulings = {j.claim.quantity: j.rulings for j in found.claims if j.claim.row == "FD"}
    assert rulings["similarity"][COLUMNS[1]].verdict == "falls"
    assert rulings["change"][COLUMNS[1]].verdict == "falls"


def test_images_and_model_from_anywhere(command, tmp_path):
    """A folder is its data set, and paths given in a shell count from where it is."""
    (tmp_path / "pictures").mkdir()
    assert _images("pictures") == f"folder:path={tmp_path / 'pictures'},size=0,channels=3"
    assert _images("packed:path=a.npz") == f"packed:path={tmp_path / 'a.npz'}"
    code, _, err = command("p0-table1", "--images", "pictures", "--model", "file:w.safetensors")
    assert code == 2
    assert f'"{tmp_path / "pictures"}"' in err or "w.safetensors" in err
