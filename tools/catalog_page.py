"""The docs page on all components, written from the catalogs: python tools/catalog_page.py"""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

from besiege.cli.shelves import shelves
from besiege.core.entry import Catalog, Entry
from besiege.defenses.catalog import TRANSFORMS
from besiege.study.recipe import RULES, Recipe
from besiege.study.recipes import RECIPES

# shelf -> (heading, where its specs are written)
SECTIONS = {
    "transforms": ("Transforms", 'Links of a chain: `chain = "fd + rdg:limit=0.15"`'),
    "votes": ("Votes", 'Of a defense: `vote = "majority:draws=16"`'),
    "models": (
        "Models",
        'As in `model = "digits-cnn"`; weights in a file: `"file:PATH"`, `"onnx:PATH"`',
    ),
    "data": ("Data sets", 'As in `data = "digits:part=train"`'),
    "balls": ("Balls", 'Of a threat: `ball = "linf"`, `eps = "8/255"`'),
    "recipes": ("Recipes", 'Attackers: `kind = "bpda+eot"` and any setting of it'),
    "attacks": ("Attacks", 'Of a recipe: `attack = "pgd:decay=cosine"`'),
    "wrappers": ("Wrappers", 'Before an attack: `attack = "smallest:rounds=6 of pgd"`'),
    "losses": ("Losses", 'Of a recipe: `loss = "margin"`, or a sum, `"dlr + 0.1*margin"`'),
    "gradients": (
        "Gradients",
        'Of a recipe: `gradients = "finite-differences:directions=64"`',
    ),
}
# What each setting of a recipe is; one that is missing here fails the build.
SETTINGS = {
    "attack": "the search, an [attack](catalog.md) and its parameters; a wrapper may go before it",
    "links": "how links are seen that `view` does not name, see below",
    "view": "link -> how it is seen",
    "models": "other [models](transfer.md) to attack in place of the defense's own",
    "joined": "how several of them answer as one: the mean of `logits`, `probabilities` or `loss`",
    "draws": "draws that one reading, and so one gradient, is the mean of",
    "cosine": "`draws` chosen by example instead: as many as give the mean gradient this cosine "
    "with the true mean, at the clean image; in powers of two",
    "most_draws": "the most that `cosine` may choose",
    "average": "what is averaged: `loss`, `probabilities` or `logits`",
    "gradients": "where [gradients](catalog.md) come from: `backward`, `finite-differences` or "
    "`varied`",
    "precision": "of the classifier during the search: `float32` or `bfloat16`",
    "loss": "what is ascended, a [loss](catalog.md) or a sum of some",
    "steps": "of the search",
    "restarts": "searches from different starts; the best point of all counts",
    "check_whole": "look for success on the whole defense, forward only, at each step",
    "believe_first": "stop at the first success on any draw and claim it, as published loops do",
    "confirm": "fresh draws on which the last and the best point meet",
    "union": "recipes, each tried on what the former left",
}
INTRO = """\
# Catalog

Everything that can be named in an experiment, on the command line, or in Python. This page is
written from the catalogs themselves. A component is written `name` or `name:key=value,key=value`;
what is not given has its default. `besiege explain NAME` prints more of each.

What every transform does to a photograph, and the difference magnified around grey (`python
examples/operations.py` draws it):

"""
IMAGES = Path(__file__).parents[1] / "docs" / "images"


def page() -> str:
    """The whole page as Markdown."""
    return "\n".join([INTRO + _pictures(), *(_section(shelf, c) for shelf, c in shelves().items())])


def _pictures() -> str:
    """The pages of examples/operations.py."""
    names = sorted((p.name for p in IMAGES.glob("operations*.png")), key=lambda n: (len(n), n))
    return "".join(f"![Operations on a photograph](images/{name})\n\n" for name in names)


def _section(shelf: str, catalog: Catalog[Any]) -> str:
    heading, where = SECTIONS[shelf]
    entries = "\n".join(_entry(entry, catalog) for entry in catalog.values())
    return f"## {heading}\n\n{where}.\n\n{entries}"


def _entry(entry: Entry[Any], catalog: Catalog[Any]) -> str:
    text = inspect.cleandoc(inspect.getdoc(entry.factory) or "").split("\n", 1)
    lines = [f"### `{entry.name}`", "", text[0], "", f"Source: {entry.source}.", ""]
    if rows := _parameters(entry, catalog):
        lines += [*table(["parameter", "default"], rows), ""]
    if surrogates := _surrogates(entry):
        lines += [f"Surrogates, best first: {surrogates}.", ""]
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
    """Names of a transform's surrogates over its cases; empty for what is no transform."""
    if entry not in TRANSFORMS.values():
        return ""
    names = [name for case in entry.cases for name in entry.factory(**case).surrogates]
    return ", ".join(f"`{name}`" for name in dict.fromkeys(names)) or "`identity`"


def table(head: list[str], rows: Iterable[list[str]]) -> list[str]:
    """A Markdown table, line by line."""
    return [f"| {' | '.join(r)} |" for r in (head, ["---"] * len(head), *rows)]


def recipe_rules() -> str:
    """The rules for links that a view does not name."""
    return "\n".join(table(["`links`", "means"], ([f"`{k}`", v] for k, v in RULES.items())))


def recipe_settings() -> str:
    """The settings of a recipe, their defaults, and what they are."""
    rows = [
        [f"`{f.name}`", _value({} if f.default is MISSING else f.default), SETTINGS[f.name]]
        for f in fields(Recipe)
        if f.name != "name"
    ]
    return "\n".join(table(["setting", "default", "is"], rows))


if __name__ == "__main__":
    print(page())
