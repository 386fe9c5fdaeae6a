"""One offline page, the same bytes twice, and tables that are plain where there is no terminal."""

import io
import json
import re

import numpy as np
import pytest

from besiege.core.errors import BadRun
from besiege.core.store import RunFolder
from besiege.report.page import write_report
from besiege.report.tables import summarise
from besiege.report.terminal import show

HOSTILE = '<script>alert("x")</script> & "FD"'
CLASSES = ["zero", "one", "<b>two</b>"]


def record(cell, recipe, steps, targeted=False, defense=HOSTILE):
    return {
        "cell": cell,
        "defense": defense,
        "chain": "fd",
        "vote": "one",
        "recipe": recipe,
        "recipe_settings": {"attack": "pgd" if steps else "none", "steps": steps},
        "threat": "linf 8/255",
        "ball": "linf",
        "eps": 8 / 255,
        "targeted": targeted,
        "draws": 4,
        "classes": CLASSES,
    }


def rows(cell, right, n=4, targeted=False, flags=()):
    """n examples of label 0, right on `right` of 4 draws; wrong draws say 1, the target."""
    sizes = {k: np.full(n, 0.03) for k in ("linf", "l2", "rms", "l1", "l0", "size", "seconds")}
    return {
        "cell": [cell] * n,
        "id": np.arange(n),
        "label": np.zeros(n, int),
        "target": np.full(n, 1 if targeted else -1),
        "predicted": [[0] * right + [1] * (4 - right)] * n,
        "claim": np.full(n, 0.9),
        "lucky": np.ones(n, bool),
        "point": ["0" * 16] * n,
        "forwards": np.full(n, 10),
        "backwards": np.full(n, 5),
        "flags": [list(flags)] * n,
        **sizes,
    }


def traces(cell, n=4):
    return {
        "cell": [cell] * n,
        "id": np.arange(n),
        "loss": [[0.1, 0.2, 0.3]] * n,
        "won": [[0.0, 0.5, 1.0]] * n,
        "judged_step": [[0, 2]] * n,
        "judged": [[1.0, 0.25]] * n,
        "judged_won": [[0.0, 0.5]] * n,
        "passes": [[]] * n,
    }


def images():
    x = np.linspace(0, 1, 64, dtype=np.float32).reshape(1, 8, 8)
    return {
        "clean": x,
        "adversarial": np.clip(x + 0.03, 0, 1),
        "seen_clean": x,
        "seen_adversarial": x,
        "label": 0,
        "target": -1,
        "predicted_clean": 0,
        "predicted_adversarial": 2,
    }


@pytest.fixture
def run(tmp_path):
    """Two defenses' worth of cells; the last one is unfinished."""
    cells = [
        record("a" * 16, "none", 0),
        record("b" * 16, "bpda", 3),
        record("c" * 16, "bpda+eot", 3, targeted=True),
        record("d" * 16, "oblivious", 3, defense="bare"),
    ]
    with RunFolder.open(tmp_path / "run") as folder:
        settings = {"experiment": {"name": HOSTILE}, "cells": cells, "ids": [0, 1, 2, 3]}
        environment = {
            "packages": {"torch": "2"},
            "python": "3.11",
            "device": "cpu",
            "processor": "AVX",
            "platform": "Linux",
            "revision": None,
        }
        folder.write_experiment('name = "given"', settings, environment)
        folder.write_shard(rows("a" * 16, 4), None, {})
        folder.write_shard(
            rows("b" * 16, 1, flags=["limit of passes reached"]), traces("b" * 16), {0: images()}
        )
        folder.write_shard(rows("c" * 16, 2, targeted=True), traces("c" * 16), {})
        folder.write_shard(rows("d" * 16, 0, n=2), None, {})
    return folder.path


def test_figures_are_those_of_the_rows(run):
    found = summarise(run)
    by = {line.cell[0]: line for line in found.lines}
    assert by["a"].accuracy.estimate == 1
    assert by["a"].claim is None
    assert by["b"].accuracy.estimate == 0.25
    assert by["b"].success.estimate == 0.75
    assert by["b"].gap == pytest.approx(0.9 - 0.75)
    assert by["c"].success.estimate == 0.5
    assert by["b"].flags == {"limit of passes reached": 4}
    assert found.unfinished == ("bare · oblivious · linf 8/255: 2 of 4",)
    headline = next(w for w in found.worst if w.defense == HOSTILE and not w.targeted)
    assert headline.accuracy.estimate == 0.25
    assert headline.broken_by == "bpda"
    assert headline.passes == 15
    assert "robust accuracy at most 25.0 %" in str(headline)


def test_the_page_needs_nothing_from_outside(run):
    page = write_report(run).read_text()
    assert not re.findall(r"""(?:src|href|data)\s*=\s*["'](?!data:|\#)[^"']*""", page)
    assert not re.findall(r"@import|url\((?!['\"]?(?:data:|\#))", page)
    assert "data:image/png;base64," in page
    assert page.count("<svg") >= 4


def test_names_are_escaped(run):
    page = write_report(run).read_text()
    assert "<script>alert" not in page
    assert "<b>two</b>" not in page
    assert "&lt;script&gt;alert" in page


def test_the_same_run_gives_the_same_bytes(run):
    assert write_report(run).read_bytes() == write_report(run).read_bytes()


def test_an_unfinished_run_says_so(run):
    assert "bare · oblivious · linf 8/255: 2 of 4" in write_report(run).read_text()


def test_rows_of_other_settings_are_not_mixed_in(run):
    """The folder was run again with another recipe and fewer examples, and a shard is damaged."""
    folder = RunFolder(run)
    cells = [record("a" * 16, "none", 0), record("e" * 16, "bpda", 9)]
    settings = {"experiment": {}, "cells": cells, "ids": [0, 1, 2]}
    folder.write_experiment("", settings, folder.environment())
    folder.write_shard(rows("e" * 16, 2, n=3), traces("e" * 16, n=3), {})
    (run / "cells" / "x.damaged").write_text("half")
    found = summarise(run)
    assert [(line.recipe, line.n) for line in found.lines] == [("none", 3), ("bpda", 3)]
    assert found.worst[0].accuracy.estimate == 0.5
    assert found.notes[0].startswith("11 rows of other settings or ids are kept")
    assert found.notes[1].startswith("cells/x.damaged could not be read")
    assert "not counted here" in str(found)
    assert "not counted here" in write_report(run).read_text()


def test_a_run_without_rows_has_a_page(tmp_path):
    with RunFolder.open(tmp_path / "run") as folder:
        environment = {
            "packages": {},
            "python": "",
            "device": "",
            "processor": "",
            "platform": "",
            "revision": None,
        }
        cells = [record("a" * 16, "none", 0)]
        folder.write_experiment("", {"experiment": {}, "cells": cells, "ids": [0]}, environment)
    assert "0 of 1" in write_report(folder.path).read_text()


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(BadRun, match=r"no resolved\.json"):
        write_report(tmp_path)


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_tables_are_plain_where_there_is_no_terminal(run):
    text = str(summarise(run))
    assert "\x1b" not in text
    table = [line for line in text.splitlines() if line.startswith(("+", "|"))]
    assert table
    assert all(line.isascii() for line in table)
    live = Terminal()
    show(summarise(run), live)
    assert "\x1b" in live.getvalue()


def test_a_long_chain_folds_and_leaves_the_figures_whole(run):
    folder = RunFolder(run)
    resolved = folder.resolved()
    for cell in resolved["cells"]:
        cell["defense"] = " + ".join(["a-link:with=settings"] * 8)
    (run / "resolved.json").write_text(json.dumps(resolved))
    stream = io.StringIO()
    show(summarise(run), stream)
    text = stream.getvalue()
    assert "…" not in text
    assert text.count("a-link:with=settings") >= 8
    assert "attack success % [95 %]" in text


def test_a_notebook_shows_a_table(run):
    html = summarise(run)._repr_html_()
    assert html.startswith("<table>")
    assert "<script>" not in html
    assert "25.0 %" in html
