"""The docs page on all components, written from the catalogs: python tools/catalog_page.py"""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Any

from besiege.attacks.catalog import ATTACKS
from besiege.attacks.loss import LOSSES
from besiege.attacks.threat import BALLS
from besiege.core.entry import Catalog, Entry
from besiege.data.catalog import DATASETS
from besiege.defenses.catalog import TRANSFORMS
from besiege.defenses.defense import VOTES
from besiege.models.catalog import MODELS
from besiege.study.recipe import RULES, Recipe
from besiege.study.recipes import RECIPES

# catalog -> (heading, where its specs are written)
SECTIONS: tuple[tuple[Catalog[Any], str, str], ...] = (
    (TRANSFORMS, "Transforms", 'Links of a chain: `chain = "fd + rdg:limit=0.15"`'),
    (VOTES, "Votes", 'Of a defense: `vote = "majority:draws=16"`'),
    (MODELS, "Models", 'As in `model = "digits-cnn"`; weights in a file: `"file:PATH"`'),
    (DATASETS, "Data sets", 'As in `data = "digits:part=train"`'),
    (BALLS, "Balls", 'Of a threat: `ball = "linf"`, `eps = "8/255"`'),
    (RECIPES, "Recipes", 'Attackers: `kind = "bpda+eot"` and any setting of it'),
    (ATTACKS, "Attacks", 'Of a recipe: `attack = "pgd:decay=cosine"`'),
    (LOSSES, "Losses", 'Of a recipe: `loss = "margin"`'),
)
INTRO = """\
# Catalog

Everything that can be named in an experiment, on the command line, or in Python. This page is
written from the catalogs themselves. A component is written `name` or `name:key=value,key=value`;
what is not given has its default. `besiege explain NAME` prints the same.
"""


def page() -> str:
    """The whole page as Markdown."""
    return "\n".join([INTRO, *(_section(*section) for section in SECTIONS)])


def _section(catalog: Catalog[Any], heading: str, where: str) -> str:
    entries = "\n".join(_entry(entry, catalog) for entry in catalog.values())
    return f"## {heading}\n\n{where}.\n\n{entries}"


def _entry(entry: Entry[Any], catalog: Catalog[Any]) -> str:
    text = inspect.cleandoc(inspect.getdoc(entry.factory) or "").split("\n", 1)
    lines = [f"### `{entry.name}`", "", text[0], "", f"Source: {entry.source}.", ""]
    if rows := _parameters(entry, catalog):
        lines += [*table(["parameter", "default"], rows), ""]
    if catalog is TRANSFORMS:
        lines += [f"Surrogates, best first: {_surrogates(entry)}.", ""]
    for law, reason in entry.known_failures.items():
        lines += [f"Known failure of the law `{law}`: {reason}", ""]
    return "\n".join(lines)


def _parameters(entry: Entry[Any], catalog: Catalog[Any]) -> list[list[str]]:
    """Parameters with their defaults; of a recipe those that make it what it is."""
    plain = inspect.signature(Recipe).parameters
    return [
        [f"`{name}`", "must be given" if default is inspect.Parameter.empty else _value(default)]
        for name, default in entry.parameters.items()
        if catalog is not RECIPES or (name != "name" and default != plain[name].default)
    ]


def _value(default: Any) -> str:
    text = repr(default) if isinstance(default, str | float) else str(default)
    return f"`{text}`".replace("|", "\\|")


def _surrogates(entry: Entry[Any]) -> str:
    tables = [entry.factory(**case).surrogates for case in entry.cases]
    return ", ".join(f"`{name}`" for name in dict.fromkeys(n for t in tables for n in t)) or (
        "`identity`"
    )


def table(head: list[str], rows: Iterable[list[str]]) -> list[str]:
    """A Markdown table, line by line."""
    return [f"| {' | '.join(r)} |" for r in (head, ["---"] * len(head), *rows)]


def recipe_rules() -> str:
    """The rules for links that a view does not name."""
    return "\n".join(table(["`links`", "means"], ([f"`{k}`", v] for k, v in RULES.items())))


def recipe_settings() -> str:
    """The settings of a recipe and their defaults."""
    rows = [
        [f"`{name}`", _value({} if p.default is inspect.Parameter.empty else p.default)]
        for name, p in inspect.signature(Recipe).parameters.items()
        if name not in ("name", "view")
    ]
    return "\n".join(table(["setting", "default"], [*rows, ["`view`", "`{}`"]]))


if __name__ == "__main__":
    print(page())
