"""The catalogs of a run: those of besiege and what plugin files add. Nothing is registered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from besiege.attacks.attack import Attack
from besiege.attacks.catalog import ATTACKS
from besiege.attacks.loss import LOSSES, Loss
from besiege.core.entry import Catalog, Entry
from besiege.core.errors import BadSetting
from besiege.core.foreign import module_at
from besiege.data.catalog import DATASETS
from besiege.data.images import ImageSet
from besiege.defenses.catalog import TRANSFORMS
from besiege.defenses.transform import Transform
from besiege.models.catalog import MODELS
from besiege.models.classifier import Classifier
from besiege.study.recipe import Recipe
from besiege.study.recipes import RECIPES


@dataclass(frozen=True)
class Catalogs:
    """One catalog of each kind that a plugin may add to."""

    transforms: Catalog[Transform] = TRANSFORMS
    attacks: Catalog[Attack] = ATTACKS
    recipes: Catalog[Recipe] = RECIPES
    losses: Catalog[Loss] = LOSSES
    models: Catalog[Classifier] = MODELS
    datasets: Catalog[ImageSet] = DATASETS


def load_plugins(paths: Sequence[Path]) -> Catalogs:
    """The catalogs with the entries of plugin files, in the order of `paths`.

    A plugin defines TRANSFORMS, ATTACKS, RECIPES, LOSSES, MODELS or DATASETS: tuples of Entry.
    Raises BadSetting for a file that is missing, does not run, or defines none of them.
    """
    catalogs = Catalogs()
    names = [f.name for f in fields(Catalogs)]
    for path in paths:
        module = module_at(path, "plugin")
        added = {n: getattr(module, n.upper()) for n in names if hasattr(module, n.upper())}
        if not added:
            raise BadSetting(
                f"plugin {path} defines none of {', '.join(n.upper() for n in names)}: give it a "
                "tuple of besiege.Entry under one of these names."
            )
        for name, entries in added.items():
            catalogs = replace(catalogs, **{name: _extended(catalogs, name, entries, path)})
    return catalogs


def _extended(catalogs: Catalogs, name: str, entries: Any, path: Path) -> Catalog[Any]:
    if not isinstance(entries, tuple | list) or not all(isinstance(e, Entry) for e in entries):
        raise BadSetting(
            f"{name.upper()} in plugin {path} is {type(entries).__name__}: a tuple of "
            "besiege.Entry is expected."
        )
    catalog: Catalog[Any] = getattr(catalogs, name)
    return catalog.extended(entries)
