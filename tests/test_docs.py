"""The pages: their Python runs, links lead somewhere, the catalog is whole, the build strict."""

import importlib
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from besiege.cli.shelves import shelves
from besiege.report.tables import summarise
from besiege.study.experiment.experiment import Experiment, experiment_from, load_experiment
from besiege.study.recipes import RECIPES
from besiege.study.run import run_experiment

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tools"))
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted(p for p in (ROOT / "docs").glob("*.md") if p.name != "catalog.md"),
]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")


def blocks(page: Path, language: str) -> list[tuple[int, str]]:
    """(line, text) of each fenced block in `language`."""
    text = page.read_text("utf-8")
    return [
        (text.count("\n", 0, found.start(2)), found[2])
        for found in BLOCK.finditer(text)
        if found[1] == language
    ]


@pytest.fixture
def namespace() -> Iterator[ModuleType]:
    """An empty module, as a page's blocks see it; dataclasses look their module up by name."""
    module = ModuleType("page_under_test")
    sys.modules[module.__name__] = module
    yield module
    del sys.modules[module.__name__]


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p, "python")], ids=lambda p: p.name)
def test_python_runs(page: Path, namespace: ModuleType) -> None:
    for line, text in blocks(page, "python"):
        code = compile("\n" * line + text, str(page), "exec")  # so that a traceback names the line
        exec(code, vars(namespace))


def test_the_example_of_the_readme_has_at_most_ten_lines() -> None:
    ((_, text),) = blocks(ROOT / "README.md", "python")
    assert len(text.splitlines()) <= 10


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p, "toml")], ids=lambda p: p.name)
def test_toml_parses(page: Path) -> None:
    for _, text in blocks(page, "toml"):
        tomllib.loads(text)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in LINK.findall(page.read_text("utf-8")):
        file = target.partition("#")[0]
        if "://" in target or not file or file == "catalog.md":  # written when the docs are built
            continue
        assert (page.parent / file).exists(), f"{page.name} links to {target}"


def test_the_catalog_page_names_every_entry() -> None:
    catalog_page = importlib.import_module("catalog_page")
    page = catalog_page.page()
    for shelf, catalog in shelves().items():
        section = page.partition(f"## {catalog_page.SECTIONS[shelf][0]}\n")[2].partition("\n## ")[0]
        for entry in catalog.values():
            assert f"### `{entry.name}`" in section
            assert entry.source in section
            assert entry.summary, f"{catalog.kind} {entry.name} has no docstring"


def test_the_page_on_attackers_has_every_recipe() -> None:
    text = (ROOT / "docs" / "recipes.md").read_text("utf-8")
    table = dict(re.findall(r"^\| `(\S+)` \|.*\| (\d+|-) \| [^|]*\|$", text, re.MULTILINE))
    assert set(table) == set(RECIPES)
    for name, draws in table.items():
        if draws != "-":
            assert int(draws) == RECIPES.build(name).draws, name


def test_the_page_on_experiments_names_every_key() -> None:
    tables = importlib.import_module("experiment_keys").keys()
    schema = Experiment.model_json_schema()
    names = {n for part in schema["$defs"].values() for n in part["properties"]}
    for name in {"name", "seed", "plugins"} | names:
        assert f"| `{name}` |" in tables
    for table in set(schema["properties"]) - {"name", "seed", "plugins", "text"}:
        assert f"[{table}]" in tables


def test_the_first_experiment_runs(tmp_path: Path) -> None:
    (_, text), *_ = blocks(ROOT / "docs" / "experiments.md", "toml")
    (tmp_path / "first.toml").write_text(text)
    experiment = load_experiment(tmp_path / "first.toml", ["data.n=4", "recipe[1].steps=2"])
    folder = run_experiment(experiment, tmp_path / "run")
    assert [line.recipe for line in summarise(folder).lines] == ["none", "bpda+eot"]


def test_the_plugin_of_the_page_on_transforms_runs(tmp_path: Path) -> None:
    page = ROOT / "docs" / "own_transform.md"
    classes, *_, entry = (text for _, text in blocks(page, "python"))
    (tmp_path / "my_plugin.py").write_text(classes + entry)
    (plugin,) = (text for _, text in blocks(page, "toml"))
    (first, *_) = (text for _, text in blocks(ROOT / "docs" / "experiments.md", "toml"))
    settings = {**tomllib.loads(first), **tomllib.loads(plugin)}
    changes = ["data.n=2", "recipe[1].steps=1"]
    folder = run_experiment(experiment_from(settings, changes, home=tmp_path), tmp_path / "run")
    assert {line.defense for line in summarise(folder).lines} == {"grey"}


def test_the_build_is_strict_and_offline(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q"]
    done = subprocess.run(
        [*command, "-d", str(tmp_path / "trees"), "docs", str(tmp_path / "html")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    index = (tmp_path / "html" / "index.html").read_text("utf-8")
    assert "Two pixels" in index
    for page in (tmp_path / "html").glob("*.html"):
        fetched = re.findall(
            r'<(?:script|link|img)[^>]+(?:src|href)="(https?:[^"]+)', page.read_text("utf-8")
        )
        assert fetched == [], f"{page.name} fetches from the network"
