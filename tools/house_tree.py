"""The package as parsed files: what `house.py` looks at."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PACKAGE = "besiege"
# Imports go down: a folder may import lower floors. The package itself is above all of them.
FLOORS = {
    "core": 0,
    "ops": 1,
    "checks": 1,
    "defenses": 2,
    "models": 2,
    "data": 2,
    "attacks": 3,
    "study": 4,
    "report": 4,
    "evaluation": 5,
    "laws": 5,
    "papers": 5,
    "cli": 6,
}
TOP = 7


@dataclass(frozen=True)
class Module:
    """A parsed file. name: dotted, without the package ("attacks.pgd"); "" outside the package."""

    path: str
    name: str
    text: str
    tree: ast.Module

    @property
    def folder(self) -> str:
        """Dotted folder: "study.engines" for study/engines/local.py."""
        return self.name if self.stem == "__init__" else self.name.rpartition(".")[0]

    @property
    def stem(self) -> str:
        """File name without .py."""
        return Path(self.path).stem

    @property
    def floor(self) -> int:
        """Number of its floor."""
        return floor_of(self.name)


def floor_of(name: str) -> int:
    """Floor of a module's dotted name."""
    return FLOORS.get(name.partition(".")[0], TOP)


def read_package(root: Path) -> dict[str, Module]:
    """The modules of src/besiege by dotted name."""
    source = root / "src" / PACKAGE
    found = {}
    for path in sorted(source.rglob("*.py")):
        parts = path.relative_to(source).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name] = _parsed(root, path, name)
    return found


def read_others(root: Path) -> list[Module]:
    """Python files beside the package, which obey the rules on size alone."""
    folders = ("tests", "tools", "benchmarks", "examples", "docs")
    paths = [
        p for f in folders for p in sorted((root / f).rglob("*.py")) if "_build" not in p.parts
    ]
    return [_parsed(root, p, "") for p in paths]


def _parsed(root: Path, path: Path, name: str) -> Module:
    text = path.read_text(encoding="utf-8")
    return Module(path.relative_to(root).as_posix(), name, text, ast.parse(text, str(path)))


def imports(module: Module, known: dict[str, Module]) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of each module of the package that this one imports, wherever it does."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            names = [(alias.name, "") for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names = [(node.module or "", alias.name) for alias in node.names]
        else:
            continue
        for base, inner in names:
            head, _, rest = base.partition(".")
            if head != PACKAGE:
                continue
            whole = f"{rest}.{inner}".strip(".")
            if (target := whole if whole in known else rest) in known:
                yield node.lineno, target


def aliases(tree: ast.Module) -> dict[str, str]:
    """Local name -> what it was imported as, in full."""
    alias: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            alias |= {a.asname or a.name.partition(".")[0]: a.name for a in node.names if a.asname}
            alias |= {(n := a.name.partition(".")[0]): n for a in node.names if not a.asname}
        elif isinstance(node, ast.ImportFrom) and node.module:
            alias |= {a.asname or a.name: f"{node.module}.{a.name}" for a in node.names}
    return alias


def dotted(node: ast.expr, alias: dict[str, str]) -> str:
    """The full name of `a.b.c`, imports resolved; empty for what starts with no imported name."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name) or node.id not in alias:
        return ""
    return ".".join([alias[node.id], *reversed(parts)])
