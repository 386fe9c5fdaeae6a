"""The house rules that no general linter knows; `make check` runs them.

python tools/house.py             check the tree; exit 1 with one paragraph a finding
python tools/house.py --accept    write the public names as they are now to tools/public_names.txt

Every check is a function of parsed modules that yields findings, so that tests can feed it small
trees.
"""

from __future__ import annotations

import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from house_tree import (
    PACKAGE,
    Module,
    aliases,
    dotted,
    floor_of,
    imports,
    read_others,
    read_package,
)

SNAPSHOT = "tools/public_names.txt"
MODULE_LINES = 400
FUNCTION_LINES = 60

# Folders of one floor that may meet, one way: a Defense holds a Classifier, the demo network is
# trained on the digits.
SAME_FLOOR = {("defenses", "models"), ("models", "data")}
# Parquet is the contract between study and report, so report knows the folders' format, what a
# finding in them is, and statistics alone.
REPORT_MAY = (
    *("core.store", "core.stats", "core.bootstrap", "core.comparisons", "core.power"),
    "core.errors",
    "checks.finding",
)
# Where components live, and the files of the folder that a component may import. What is named
# catalog or __init__ may import its whole folder, and no component may import it.
PROTOCOLS = {
    "defenses": {"transform", "defense", "imitation", "network"},
    "models": {"classifier", "sources"},
    "data": {"images", "members", "pictures", "download"},
    "attacks": {"attack", "threat", "loss", "oracle", "search", "decisions"},
    "attacks.balls": {"ball"},
    "attacks.wrappers": set(),
    "study.engines": {"engine"},
}
GLOBAL_RANDOM = re.compile(
    r"torch\.(rand\w*|manual_seed|seed|initial_seed|bernoulli|multinomial|normal|poisson"
    r"|[gs]et_rng_state|default_generator)(\..*)?$"
    r"|torch\.(cuda\.)?random(\..*)?$|torch\.cuda\.(manual_)?seed(_all)?$"
    r"|torch\.nn\.init\.(kaiming|xavier|orthogonal|trunc_normal|sparse)\w*$"
    r"|torch\.nn\.functional\.(\w*dropout\w*|gumbel_softmax|rrelu)$"
    r"|numpy\.random(\..*)?$|random(\..*)?$"
)
# Literals that a name may be compared with, since they name no component: the first surrogate.
NO_COMPONENT = {"best"}
IN_PLACE_RANDOM = {"uniform_", "normal_", "bernoulli_", "random_", "exponential_", "cauchy_"}
# A stranger's code is run so: the global generators are kept, seeded and restored around it.
MAY_TOUCH_RANDOM = {"core.generators", "laws.transforms"}
MACHINE_PATH = re.compile(r"(?<![\w.~/])/(?:home|work|root|Users|mnt)/[\w.-]+")
UNFINISHED = re.compile(r"\b(?:TO" + r"DO|FIX" + r"ME|XXX)\b")

# rule -> (why, what to do)
RULES = {
    "floors": (
        "imports go down, so that a floor can be read and tested without those above it",
        "move the shared part down, or pass the value as an argument",
    ),
    "siblings": (
        "a component is one file that can be added or dropped alone",
        "move what both need into the folder's protocol file or one floor down",
    ),
    "cycle": ("modules that need each other are one module", "move the shared part down"),
    "view": (
        "what an attacker sees is decided in one place, study/recipe.py",
        "express the view as a Recipe",
    ),
    "size": ("what does not fit a screen is not understood at a glance", "split it by its parts"),
    "random": (
        "a draw must depend on (seed, id, folds) alone",
        "draw from a besiege.core.key.Key that is handed in",
    ),
    "by-name": (
        "a branch on a component's name breaks for every component that is added later",
        "give the component's Entry or protocol the property that differs",
    ),
    "naming": (
        "that attack is a Graft, this one a mean over keys: neither is a class of its own",
        "name what the code does",
    ),
    "unfinished": ("what is in the tree is finished", "finish it, delete it, or open an issue"),
    "torchvision": ("it does not import beside a CPU build of torch", "use torch or besiege.ops"),
    "path": ("a path of one machine works on no other", "take it from the caller or from __file__"),
    "names": (
        "users import these names, so they come and go only on purpose",
        "run `python tools/house.py --accept`, commit the file, and say so in CHANGELOG.md",
    ),
}


class Finding(NamedTuple):
    """One breach of a rule."""

    path: str
    line: int
    rule: str
    what: str

    def __str__(self) -> str:
        why, to_do = RULES[self.rule]
        return f"{self.path}:{self.line}: {self.what}\n    why: {why}\n    do:  {to_do}"


def check_floors(known: dict[str, Module]) -> Iterator[Finding]:
    """Who may import whom."""
    for module in known.values():
        for line, target in imports(module, known):
            if why := _forbidden(module, target):
                yield Finding(module.path, line, "floors", why)
            elif why := _sibling(module, known[target]):
                yield Finding(module.path, line, "siblings", why)


def _forbidden(module: Module, target: str) -> str:
    """Why `module` may not import the module `target`; empty if it may."""
    here, there = module.name.partition(".")[0], target.partition(".")[0]
    if here == "report" and there != "report" and target not in REPORT_MAY:
        return f"report imports {PACKAGE}.{target}; it may import {', '.join(REPORT_MAY)} only"
    if floor_of(target) > module.floor:
        return f"{here} (floor {module.floor}) imports {_spell(target)} (floor {floor_of(target)})"
    if here != there and floor_of(target) == module.floor and (here, there) not in SAME_FLOOR:
        return f"{here} imports {_spell(target)} of its own floor"
    return ""


def _sibling(module: Module, target: Module) -> str:
    """Why `module` may not import this file of its own folder; empty if it may."""
    protocols = PROTOCOLS.get(module.folder)
    if protocols is None or target.folder != module.folder or target.stem in protocols:
        return ""
    if module.stem in ("__init__", "catalog"):
        return ""
    role = "protocol" if module.stem in protocols else "component"
    return f"{role} file {module.stem}.py imports its sibling {target.stem}.py"


def _spell(target: str) -> str:
    return f"{PACKAGE}.{target}" if target else PACKAGE


def check_cycles(known: dict[str, Module]) -> Iterator[Finding]:
    """No module is needed by what it imports."""
    graph = {
        name: {t for _, t in imports(m, known) if t in known and t != name}
        for name, m in known.items()
    }
    while free := [n for n, needs in graph.items() if not needs & graph.keys()]:
        for name in free:
            del graph[name]
    while free := [n for n in graph if not any(n in needs for needs in graph.values())]:
        for name in free:
            del graph[name]
    if graph:
        first = known[min(graph)]
        what = f"modules import each other in a circle: {', '.join(map(_spell, sorted(graph)))}"
        yield Finding(first.path, 1, "cycle", what)


def check_size(module: Module) -> Iterator[Finding]:
    """Lines of the module and of each function, docstring counted, decorators not."""
    if (lines := len(module.text.splitlines())) > MODULE_LINES:
        yield Finding(module.path, 1, "size", f"module of {lines} lines, limit {MODULE_LINES}")
    for node in ast.walk(module.tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines > FUNCTION_LINES:
                what = f"function {node.name} of {lines} lines, limit {FUNCTION_LINES}"
                yield Finding(module.path, node.lineno, "size", what)


def check_words(module: Module) -> Iterator[Finding]:
    """Names of classes and functions, what is unfinished, and torchvision."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            words = re.findall(r"[A-Z]?[a-z0-9]+|[A-Z0-9]+(?![a-z])", node.name)
            if {"bpda", "eot"} & {w.lower() for w in words}:
                yield Finding(module.path, node.lineno, "naming", f"{node.name} is named after it")
        if isinstance(node, ast.Name) and node.id == "NotImplementedError":
            yield Finding(module.path, node.lineno, "unfinished", "raises NotImplementedError")
        for name in _imported(node):
            if name.partition(".")[0] == "torchvision":
                yield Finding(module.path, node.lineno, "torchvision", f"imports {name}")
    for token in tokenize.generate_tokens(io.StringIO(module.text).readline):
        if token.type == tokenize.COMMENT and (mark := UNFINISHED.search(token.string)):
            what = f"comment says {mark.group()}"
            yield Finding(module.path, token.start[0], "unfinished", what)


def _imported(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [node.module or ""] if isinstance(node, ast.ImportFrom) else []


def check_random(module: Module) -> Iterator[Finding]:
    """No global generator."""
    if module.name in MAY_TOUCH_RANDOM:
        return
    alias = aliases(module.tree)
    inner = {id(n.value) for n in ast.walk(module.tree) if isinstance(n, ast.Attribute)}
    for node in ast.walk(module.tree):
        if id(node) in inner or not isinstance(node, ast.Attribute | ast.Name):
            continue
        name = dotted(node, alias)
        if GLOBAL_RANDOM.match(name):
            yield Finding(module.path, node.lineno, "random", f"uses {name}")
        elif isinstance(node, ast.Attribute) and node.attr in IN_PLACE_RANDOM:
            yield Finding(module.path, node.lineno, "random", f"uses Tensor.{node.attr}")


def check_by_name(module: Module) -> Iterator[Finding]:
    """No branch on the name of a component outside a catalog."""
    if module.stem == "catalog":
        return
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            if any(map(_is_name, sides)) and any(map(_is_literal, sides)):
                what = f"compares a name with a literal: {ast.unparse(node)}"
                yield Finding(module.path, node.lineno, "by-name", what)
        elif isinstance(node, ast.Match) and _is_name(node.subject):
            what = f"matches on a name: {ast.unparse(node.subject)}"
            yield Finding(module.path, node.lineno, "by-name", what)


def _is_name(node: ast.expr) -> bool:
    if isinstance(node, ast.Attribute):
        owner = node.value.id if isinstance(node.value, ast.Name) else ""
        return node.attr == "name" and owner != "os"
    return isinstance(node, ast.Name) and node.id in ("name", "named")


def _is_literal(node: ast.expr) -> bool:
    if isinstance(node, ast.Tuple | ast.List | ast.Set):
        return bool(node.elts) and all(map(_is_literal, node.elts))
    value = node.value if isinstance(node, ast.Constant) else None
    return isinstance(value, str) and value != "" and value not in NO_COMPONENT


def check_view(module: Module) -> Iterator[Finding]:
    """study/recipe.py alone builds what an attacker sees."""
    if module.name in ("study.recipe", "defenses.ensemble"):  # which hands a view to its members
        return
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Attribute) and node.attr == "seen_through":
            yield Finding(module.path, node.lineno, "view", "uses seen_through")


def check_paths(root: Path) -> Iterator[Finding]:
    """No path of one machine in any text of the project."""
    folders = ("src", "tests", "tools", "docs", "examples", "benchmarks", ".ci")
    ends = {".py", ".md", ".toml", ".txt", ".html", ".css", ".js", ".json", ""}
    paths = [p for f in folders for p in sorted((root / f).rglob("*")) if p.is_file()]
    paths += [p for p in sorted(root.iterdir()) if p.is_file()]
    for path in paths:
        parts = path.relative_to(root).parts
        if path.suffix not in ends or "_build" in parts or "__pycache__" in parts:
            continue
        for number, line in enumerate(path.read_text("utf-8", "ignore").splitlines(), 1):
            if hit := MACHINE_PATH.search(line):
                where = path.relative_to(root).as_posix()
                yield Finding(where, number, "path", f"holds the path {hit.group()}")


def public_names(known: dict[str, Module]) -> list[str]:
    """What `import X as X` exports from the package and its folders, dotted and sorted."""
    return sorted(
        f"{_spell(name)}.{alias.asname}"
        for name, module in known.items()
        if module.stem == "__init__"
        for node in ast.walk(module.tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if alias.asname == alias.name
    )


def check_names(root: Path, known: dict[str, Module]) -> Iterator[Finding]:
    """The public names are those of the snapshot."""
    path = root / SNAPSHOT
    before = set(path.read_text("utf-8").split()) if path.exists() else set()
    now = set(public_names(known))
    for what, names in (("gone", before - now), ("new", now - before)):
        if names:
            yield Finding(SNAPSHOT, 1, "names", f"{what}: {', '.join(sorted(names))}")


def findings(root: Path) -> list[Finding]:
    """Every breach in the tree at `root`."""
    known = read_package(root)
    found = [*check_floors(known), *check_cycles(known), *check_names(root, known)]
    for module in known.values():
        for check in (check_words, check_random, check_by_name, check_view):
            found += check(module)
    for module in [*known.values(), *read_others(root)]:
        found += check_size(module)
    found += check_paths(root)
    return sorted(found)


def main(arguments: list[str], root: Path) -> int:
    """Check, or accept the public names; returns the exit status."""
    if arguments == ["--accept"]:
        names = public_names(read_package(root))
        (root / SNAPSHOT).write_text("".join(f"{n}\n" for n in names), encoding="utf-8")
        print(f"{SNAPSHOT}: {len(names)} names")
        return 0
    if arguments:
        print(__doc__, file=sys.stderr)
        return 2
    found = findings(root)
    for finding in found:
        print(finding)
    print(f"house: {len(found)} finding{'s' if len(found) != 1 else ''}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], Path(__file__).parents[1]))
