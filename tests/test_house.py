"""The house rules: each catches its breach in a small tree, and the real tree has none."""

import importlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import besiege

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tools"))
house = importlib.import_module("house")

Plant = Callable[..., list[tuple[str, int, str]]]


@pytest.fixture
def plant(tmp_path: Path) -> Plant:
    """Write files (path -> text) below src/besiege and give (file, line, rule) of the findings."""

    def write(files: dict[str, str], accepted: str = "") -> list[tuple[str, int, str]]:
        package = tmp_path / "src" / "besiege"
        for name, text in {"__init__.py": "", **files}.items():
            path = package / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        (tmp_path / "tools").mkdir()
        (tmp_path / house.SNAPSHOT).write_text(accepted)
        return [
            (f.path.removeprefix("src/besiege/"), f.line, f.rule) for f in house.findings(tmp_path)
        ]

    return write


FILES = {
    "core/key.py": "",
    "core/store.py": "",
    "ops/dct.py": "",
    "defenses/transform.py": "",
    "defenses/jpeg.py": "",
    "defenses/catalog.py": "",
    "models/classifier.py": "",
    "attacks/attack.py": "",
    "study/judge.py": "",
    "report/table.py": "",
    "papers/__init__.py": "",
    "cli/main.py": "",
}

ALLOWED = {
    "down": ("attacks/pgd.py", "from besiege.core.key import Key"),
    "protocol of its folder": ("attacks/pgd.py", "from besiege.attacks.attack import Attack"),
    "defense holds a classifier": ("defenses/defense.py", "import besiege.models.classifier"),
    "catalog imports its folder": ("defenses/catalog.py", "from besiege.defenses import jpeg"),
    "report knows the store": ("report/page.py", "from besiege.core import store"),
    "package exports": ("__init__.py", "from besiege.study import judge"),
    "study is no folder of components": ("study/run.py", "from besiege.study import judge"),
}

FORBIDDEN = {
    "up": ("core/batch.py", "from besiege.ops.dct import dct", "floors"),
    "up, within a function": ("ops/jpeg.py", "def f():\n import besiege.attacks.attack", "floors"),
    "up, by folder": ("ops/jpeg.py", "from besiege.attacks import attack", "floors"),
    "the package itself": ("study/run.py", "import besiege", "floors"),
    "models see no defense": ("models/net.py", "import besiege.defenses.transform", "floors"),
    "study sees no report": ("study/run.py", "from besiege.report import table", "floors"),
    "report sees no study": ("report/page.py", "from besiege.study import judge", "floors"),
    "report sees no other core": ("report/page.py", "from besiege.core import key", "floors"),
    "a sibling component": ("defenses/bits.py", "from besiege.defenses import jpeg", "siblings"),
    "a component's catalog": ("defenses/bits.py", "import besiege.defenses.catalog", "siblings"),
    "protocol on component": ("defenses/defense.py", "import besiege.defenses.jpeg", "siblings"),
    "a view elsewhere": ("study/run.py", "def f(d):\n    return d.seen_through({})", "view"),
    "a class after its field": ("attacks/a.py", "class BPDAAttack: ...", "naming"),
    "a function after its field": ("attacks/a.py", "def pgd_eot(): ...", "naming"),
    "a stub": ("ops/a.py", "def f():\n    raise NotImplementedError", "unfinished"),
    "a reminder": ("ops/a.py", "x = 1  # TO" + "DO: later", "unfinished"),
    "torchvision": ("ops/a.py", "from torchvision.transforms import v2", "torchvision"),
    "torch's generator": ("ops/a.py", "import torch\nx = torch.rand(2)", "random"),
    "under another name": ("ops/a.py", "import torch as t\nx = t.rand_like(t.ones(2))", "random"),
    "imported alone": ("ops/a.py", "from torch import manual_seed\nmanual_seed(0)", "random"),
    "in place": ("ops/a.py", "def f(x):\n    return x.uniform_()", "random"),
    "initial weights": (
        "models/a.py",
        "from torch import nn\ndef f(w):\n    nn.init.kaiming_uniform(w)",
        "random",
    ),
    "NumPy's generator": ("ops/a.py", "import numpy as np\nnp.random.seed(0)", "random"),
    "NumPy's, imported": ("ops/a.py", "from numpy.random import normal\nnormal()", "random"),
    "Python's generator": ("ops/a.py", "import random\nrandom.shuffle([])", "random"),
    "a branch by name": ("study/run.py", "def f(t):\n    return t.name == 'jpeg'", "by-name"),
    "a branch among names": ("study/run.py", "def f(name):\n    return name in ('a',)", "by-name"),
    "a match on a name": (
        "study/run.py",
        "def f(a):\n    match a.name:\n        case 'x':\n            return 1",
        "by-name",
    ),
    "a machine's path": ("ops/a.py", "x = '/ho" + "me/somebody/x'", "path"),
    "a long function": ("ops/a.py", "def f():\n" + "    x = 1\n" * 60, "size"),
    "a long module": ("ops/a.py", "x = 1\n" * 401, "size"),
}


@pytest.mark.parametrize("case", ALLOWED)
def test_what_is_allowed_passes(plant: Plant, case: str) -> None:
    path, text = ALLOWED[case]
    assert plant({**FILES, path: text}) == []


@pytest.mark.parametrize("case", FORBIDDEN)
def test_each_rule_catches_its_breach(plant: Plant, case: str) -> None:
    path, text, rule = FORBIDDEN[case]
    found = plant({**FILES, path: text})
    assert found
    assert {(file, r) for file, _, r in found} == {(path, rule)}


def test_the_line_is_named(plant: Plant) -> None:
    text = "import torch\n\nx = 1\ny = torch.randn(3)\n"
    assert plant({"ops/a.py": text}) == [("ops/a.py", 4, "random")]


def test_what_only_looks_like_a_breach_passes(plant: Plant) -> None:
    text = (
        "import os\n\n\ndef someother(key, x, name):\n"
        "    noise = key.uniform(2) + key.normal(2)\n"
        "    return noise, os.name == 'nt', name == x, __name__ == '__main__'\n"
        "# https://example.org/home/page is no path\n"
    )
    assert plant({"ops/a.py": text}) == []


def test_at_the_limits(plant: Plant) -> None:
    function = "def f():\n" + "    x = 1\n" * 59
    assert plant({"ops/a.py": function, "ops/b.py": "x = 1\n" * 400}) == []


def test_tests_obey_the_sizes_alone(plant: Plant, tmp_path: Path) -> None:
    tests = tmp_path / "tests"
    tests.mkdir()
    (tests / "test_a.py").write_text("import random\n" + "x = 1\n" * 400)
    assert plant({}) == [("tests/test_a.py", 1, "size")]


def test_a_circle_of_imports(plant: Plant) -> None:
    found = plant({
        "study/a.py": "from besiege.study import b",
        "study/b.py": "from besiege.study import c",
        "study/c.py": "def late():\n    from besiege.study import a",
        "study/d.py": "from besiege.study import a",
    })  # fmt: skip
    assert [(file, rule) for file, _, rule in found] == [("study/a.py", "cycle")]


def test_one_module_may_touch_the_generators(plant: Plant) -> None:
    text = "import torch\n\nseed = torch.manual_seed\n"
    assert plant({"core/generators.py": text}) == []


def test_public_names_are_guarded(plant: Plant, tmp_path: Path) -> None:
    files = {"__init__.py": "from besiege.core.key import Key as Key\n", "core/key.py": ""}
    found = plant(files, accepted="besiege.Gone\n")
    assert [rule for _, _, rule in found] == ["names", "names"]
    assert house.main(["--accept"], tmp_path) == 0
    assert (tmp_path / house.SNAPSHOT).read_text() == "besiege.Key\n"
    assert house.findings(tmp_path) == []


def test_the_public_names_exist() -> None:
    names = {line.removeprefix("besiege.") for line in (ROOT / house.SNAPSHOT).read_text().split()}
    assert names == set(dir(besiege))
    for name in names:
        assert getattr(besiege, name) is not None


def test_the_real_tree_obeys() -> None:
    done = subprocess.run(
        [sys.executable, "tools/house.py"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
    assert done.stdout == "house: 0 findings\n"


def test_a_finding_says_what_why_and_what_to_do(
    plant: Plant, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plant({"study/run.py": "import besiege"})
    assert house.main([], tmp_path) == 1
    first, why, to_do, count = capsys.readouterr().out.splitlines()
    assert first == "src/besiege/study/run.py:1: study (floor 4) imports besiege (floor 7)"
    assert why.strip().startswith("why: ")
    assert to_do.strip().startswith("do: ")
    assert count == "house: 1 finding"


def test_no_module_hides_a_public_name():
    """`import besiege.evaluate` would turn the function `besiege.evaluate` into a module."""
    package = ROOT / "src" / "besiege"
    modules = {p.stem for p in package.iterdir()}
    assert modules >= {"core", "evaluation"}
    assert not modules & set(dir(besiege))
