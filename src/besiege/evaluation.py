"""The whole siege in one call, for a defense that is already in memory."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from besiege.attacks.threat import Ball, Linf, Threat
from besiege.core.errors import BadImages, BadSetting
from besiege.core.key import Key
from besiege.defenses.defense import Deployed
from besiege.models.catalog import load_model
from besiege.models.classifier import Classifier
from besiege.report.tables import Summary, summarise
from besiege.study.audit import audit_points
from besiege.study.in_memory import Case, run_case
from besiege.study.judge import Judging, check_images
from besiege.study.prepared import random_targets
from besiege.study.progress import Display
from besiege.study.recipe import ADAPTIVE, GIVEN, Recipe
from besiege.study.recipes import RECIPES
from besiege.study.shard import Examples
from besiege.study.siege import Opponents
from besiege.study.soundness import check_defense, sound_classifier, sound_defense
from besiege.study.until import check_until

DEFAULT = Linf(8 / 255)
ATTACKERS = ("none", "adaptive")  # where no recipes are given
STEPS = 50  # of a recipe given by name
QUIET = 2.0  # seconds without progress


def evaluate(
    defense: Deployed,
    x: Tensor,
    y: Tensor,
    threat: Threat | Ball = DEFAULT,
    *,
    recipes: Sequence[str | Recipe] = ATTACKERS,
    budget: int | None = None,
    minutes: float | None = None,
    claim: float | None = None,
    until: float | None = None,
    targets: Tensor | None = None,
    models: Mapping[str, Classifier] | None = None,
    steps: int | None = None,
    draws: int = 20,
    seed: int = 0,
    micro_batch: int = 32,
    out: str | Path | None = None,
    progress: bool = True,
) -> Summary:
    """How robust `defense` is: the attackers `recipes`, judged on fresh draws, and a verdict.

    x (B, C, H, W) float in [0, 1], y (B,) labels; example i has id i.
    threat: a ball (untargeted) or a Threat; targets (B,) for a targeted one, else drawn at random.
    budget: limit of passes (forward and backward, draws counted) an image and attacker; else that
        of the threat, or none, and 3000 for the recipe "adaptive", see `plan`.
    minutes: instead, for all attackers together: a pass is timed, and notes say what came of it.
    claim: robust accuracy that somebody claims, in [0, 1]; the verdict is then on it.
    until: a share in (0, 1): 32 images more at a time, which come in random order, until robust
        accuracy is known to lie above or below it (`study.until`); a note says so.
    models: others by their names in `Recipe.models`, else specs; the adaptive attacker tries all.
    steps: of recipes given by name that make some, else 50.  draws: of the judge, an example.
    out: a run folder to keep (`besiege report`, `besiege.load_recipes`); the same call again goes
        on with it. None keeps nothing.
    progress: shown on stderr, from two seconds on.
    Returns a summary, which prints as a table. Raises BadImages for what no score could be of.
    Cost: of each recipe its budget at most, or steps x its draws passes, plus `draws` forwards; a
        plan for "adaptive" takes some hundreds to thousands of passes of 16 images.

    >>> from besiege.attacks.threat import Linf
    >>> from besiege.defenses.defense import Defense
    >>> from besiege.defenses.transform import Chain
    >>> from besiege.laws.problems import linear_classifier
    >>> bare = Defense(Chain(), linear_classifier())
    >>> x = torch.full((2, 1, 4, 4), 0.5)
    >>> y = bare.labels(x, Key.root(0, [0, 1]))
    >>> result = evaluate(bare, x, y, Linf(0.5), recipes=["none", "bpda"], steps=5)
    >>> [row.accuracy.estimate for row in result.lines]
    [1.0, 0.0]
    """
    _asked(recipes, until)
    goal = _limited(threat if isinstance(threat, Threat) else Threat(threat), budget, minutes)
    examples = _examples(defense, x, y, goal, targets, seed)
    defense = _sound(defense, x, seed)
    chosen, judging = [_recipe(n, steps) for n in recipes], Judging(draws, micro_batch=micro_batch)
    case = Case(defense, examples, goal, _opponents(chosen, models, x, judging), judging, seed)
    said = {"experiment": {"seed": seed, "defense": _claimed(defense, claim)}}
    with _folder(out) as path, _display(progress) as show:
        known = run_case(path, case, chosen, said, minutes=minutes, until=until, on_event=show)
        return _noted(summarise(path), chosen, steps, known)


@contextmanager
def _folder(out: str | Path | None) -> Iterator[Path]:
    """Where the run goes: nowhere for long, if nowhere is given."""
    with TemporaryDirectory() as scratch:
        yield Path(scratch) / "run" if out is None else Path(out)


def _display(shown: bool) -> Display:
    """Progress on stderr, for what takes long."""
    return Display(sys.stderr, quiet=QUIET if shown else math.inf)


def _asked(recipes: Sequence[str | Recipe], until: float | None) -> None:
    """Refuse what cannot be attacked, or cannot end, before anything is."""
    if not recipes:
        raise BadSetting('no recipe came: give at least one, such as recipes=["bpda+eot"].')
    if until is not None:
        check_until(until)


def _noted(
    found: Summary, recipes: Sequence[Recipe], steps: int | None, known: Sequence[str]
) -> Summary:
    """The summary, which says so where `steps` were given to no purpose, and what is `known`."""
    idle = f"steps = {steps} are of recipes given by name; the adaptive attacker has a budget"
    said = [] if steps is None or any(recipe.steps for recipe in recipes) else [idle]
    return replace(found, notes=(*said, *found.notes, *known))


def _limited(threat: Threat, budget: int | None, minutes: float | None) -> Threat:
    """The threat with the budget as its limit of passes."""
    given = [v for v in (budget, minutes, threat.passes) if v is not None]
    if len(given) > 1:
        raise BadSetting(
            "one limit is enough: budget (passes an image), or minutes, or a Threat with passes."
        )
    return threat if budget is None else replace(threat, passes=budget)


def _claimed(defense: Deployed, claim: float | None) -> list[dict[str, Any]]:
    if claim is not None and not 0 <= claim <= 1:
        raise BadSetting(f"a claim is a share in [0, 1], got {claim:g}.")
    return [] if claim is None else [{"name": defense.name, "claim": claim}]


def _examples(
    defense: Deployed, x: Tensor, y: Tensor, goal: Threat, targets: Tensor | None, seed: int
) -> Examples:
    """The images, checked, with targets where the threat has them."""
    classifier = defense.parts[0].classifier
    if len(x) != len(y) or len(x) == 0:
        raise BadImages(f"{len(x)} images and {len(y)} labels came; one label an image is needed.")
    ids = range(len(x))
    check_images(x, y, classifier.num_classes, classifier.channels, ids)
    target = torch.full_like(y, -1)
    if goal.targeted:
        root = Key.root(seed, list(ids), x.device)
        target = random_targets(root, y, classifier.num_classes) if targets is None else targets
    return Examples(ids, x, y, target)


def judge_images(
    defense: Deployed,
    points: Tensor,
    x: Tensor,
    y: Tensor,
    threat: Threat | Ball,
    *,
    targets: Tensor | None = None,
    draws: int = 20,
    seed: int = 0,
    micro_batch: int = 32,
    out: str | Path | None = None,
    progress: bool = True,
) -> Summary:
    """Judge adversarial images that somebody else made, on fresh draws, beside the clean ones.

    points, x (B, C, H, W) float in [0, 1]: point i belongs to the clean image x[i] of label y[i].
    targets: (B,), which a targeted threat needs. Others as for `evaluate`.
    A point outside the threat is judged at its clean image and flagged; `audit_points` lists all.
    Raises BadImages. Cost: 2 x `draws` forwards an image.

    >>> from besiege.attacks.threat import Linf
    >>> from besiege.defenses.defense import Defense
    >>> from besiege.defenses.transform import Chain
    >>> from besiege.laws.problems import linear_classifier
    >>> bare = Defense(Chain(), linear_classifier())
    >>> x = torch.full((2, 1, 4, 4), 0.5)
    >>> y = bare.labels(x, Key.root(0, [0, 1]))
    >>> result = judge_images(bare, x, x, y, Linf(0.1))
    >>> [row.accuracy.estimate for row in result.lines]
    [1.0, 1.0]
    """
    goal = threat if isinstance(threat, Threat) else Threat(threat)
    if goal.targeted and targets is None:
        raise BadSetting("a targeted threat needs the targets that the points were made for.")
    examples = _examples(defense, x, y, goal, targets, seed)
    audit_points(points, x, goal)
    check_images(points, y, defense.parts[0].classifier.num_classes, x.shape[1], examples.ids)
    defense = _sound(defense, x, seed)
    recipes = (RECIPES.build("none"), Recipe("given", attack=GIVEN, steps=0))
    judging, opponents = Judging(draws, micro_batch=micro_batch), Opponents(micro_batch=micro_batch)
    case = Case(defense, examples._replace(points=points), goal, opponents, judging, seed)
    with _folder(out) as path, _display(progress) as show:
        run_case(path, case, recipes, {"experiment": {"seed": seed}}, on_event=show)
        return summarise(path)


def _recipe(named: str | Recipe, steps: int | None) -> Recipe:
    """A recipe as it is; one given by name with `steps`, unless it makes none."""
    if isinstance(named, Recipe):
        return named
    recipe = RECIPES.build(named)
    steps = STEPS if steps is None else steps
    return replace(recipe, steps=steps) if recipe.steps else recipe


def _sound(defense: Deployed, x: Tensor, seed: int) -> Deployed:
    """The defense, checked; classifiers that draw are taken over."""
    found = sound_defense(defense, x[:8])
    check_defense(found, x[:1], Key.root(seed, [0], x.device))
    return found


def _opponents(
    recipes: Sequence[Recipe],
    given: Mapping[str, Classifier] | None,
    x: Tensor,
    judging: Judging,
) -> Opponents:
    """The models that recipes name, by these names, settled.

    The adaptive attacker tries all that are given.
    """
    shape, given = _shape(x), given or {}
    searches = [search for recipe in recipes for search in recipe.searches]
    names = dict.fromkeys(name for search in searches for name in search.models or ())
    if any(recipe.attack == ADAPTIVE for recipe in recipes):
        names |= dict.fromkeys(given)
    loaded = {
        name: given[name] if name in given else load_model(name, device=x.device, shape=shape)
        for name in names
    }
    others = {name: sound_classifier(model, x[:8]) for name, model in loaded.items()}
    return Opponents(micro_batch=judging.micro_batch, models=others)


def _shape(x: Tensor) -> tuple[int, int, int]:
    return (x.shape[1], x.shape[2], x.shape[3])
