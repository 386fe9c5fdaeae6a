"""Attackers as files: what a run made in Python writes down, and how recipes are read again."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tomli_w
from pydantic import ConfigDict, ValidationError

from besiege.attacks.threat import Threat
from besiege.core.errors import BadSetting, one_of
from besiege.core.files import existing
from besiege.study.adaptive.planned import as_table, within
from besiege.study.experiment.catalogs import load_plugins
from besiege.study.experiment.complaints import explained
from besiege.study.experiment.schema import Table
from besiege.study.experiment.tables import RecipeTable
from besiege.study.recipe import Recipe
from besiege.study.recipes import RECIPES

HEAD = """\
# A run made in Python, which no file can name the images, the model and the defense of.
# With these in memory: besiege.evaluate(defense, x, y, threat, recipes=besiege.load_recipes(FILE)).
# For `besiege run`, add data, model and [[defense]].
"""


class _Recipes(Table):
    """The part of an experiment that recipes are in."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    plugins: tuple[Path, ...] = ()
    recipe: tuple[RecipeTable, ...] = ()


def load_recipes(
    path: str | Path, *, defense: str | None = None, threat: int | None = None
) -> tuple[Recipe, ...]:
    """The recipes in an experiment file, or in the planned.toml of a run folder.

    defense, threat: those for this defense, by its name, and threat, by its number from 0; None
    for all. Paths in the file count from its folder. Raises BadSetting for a file that is missing,
    is wrong, or holds none, and for two of one name: then a defense and a threat tell them apart.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     path = Path(folder) / "planned.toml"
    ...     _ = path.write_text('recipe = [{kind = "bpda", steps = 7}]')
    ...     [(recipe.name, recipe.steps) for recipe in load_recipes(path)]
    [('bpda', 7)]
    """
    path = existing(path, "file of recipes", BadSetting)
    try:
        found = _Recipes.model_validate(tomllib.loads(path.read_text()))
    except tomllib.TOMLDecodeError as error:
        raise BadSetting(f"{path} is not TOML: {error}.") from error
    except ValidationError as error:
        raise explained(error, _Recipes, str(path)) from error
    home = path.parent.resolve()
    if defense is not None:
        known = sorted({name for table in found.recipe for name in table.defenses})
        one_of("defense", defense, known or [defense], str(path))
    tables = [
        table.placed(lambda p: str((home / Path(p).expanduser()).resolve()))
        for table in found.recipe
        if defense is None or not table.defenses or defense in table.defenses
        if threat is None or not table.threats or threat in table.threats
    ]
    catalogs = load_plugins([home / plugin for plugin in found.plugins])
    recipes = tuple(table.recipe(catalogs) for table in tables)
    names = [recipe.name for recipe in recipes]
    if not names:
        raise BadSetting(f"{path} has no [[recipe]] for what was asked.")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise BadSetting(
            f'{path} has several recipes "{twice[0]}", for other defenses or threats: name them, '
            "as in load_recipes(path, defense=NAME, threat=0)."
        )
    return recipes


def settings_toml(
    recipes: Sequence[Recipe], threat: Threat, seed: int, draws: int, folder: Path
) -> str:
    """What an experiment file would say of a run made in Python; paths count from `folder`."""
    aim: dict[str, Any] = {"ball": threat.ball.name, "eps": threat.ball.eps}
    plain = Threat(threat.ball)
    for key in ("targeted", "access", "eight_bit", "passes"):
        if (value := getattr(threat, key)) != getattr(plain, key):
            aim[key] = value
    tables = [_table(recipe, folder) for recipe in recipes]
    settings = {"seed": seed, "judge": {"draws": draws}, "threat": [aim], "recipe": tables}
    return HEAD + tomli_w.dumps(settings)


def _table(recipe: Recipe, folder: Path) -> dict[str, Any]:
    """Its table; of one of the catalog its kind alone."""
    if recipe.name in RECIPES and RECIPES.build(recipe.name) == recipe:
        return {"kind": recipe.name}
    table = within(RecipeTable.model_validate(as_table(recipe)), folder)
    found: dict[str, Any] = table.model_dump(mode="json", exclude_defaults=True)
    return found
