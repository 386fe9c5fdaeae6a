"""A defense as the attacker sees it, as a torch module for the attacks of other libraries."""

from __future__ import annotations

from collections.abc import Mapping

from besiege.attacks.bridge import Bridge
from besiege.attacks.oracle import Meter
from besiege.attacks.threat import Linf, Threat
from besiege.core.key import Key
from besiege.defenses.defense import Deployed
from besiege.models.classifier import Classifier
from besiege.study.recipe import Recipe
from besiege.study.recipes import RECIPES
from besiege.study.siege import Opponents, Siege


def bridge(
    defense: Deployed,
    key: Key,
    recipe: str | Recipe = "bpda+eot",
    *,
    access: str = "gradients",
    models: Mapping[str, Classifier] | None = None,
    micro_batch: int = 32,
) -> Bridge:
    """`defense` as the recipe's attacker sees it: x (B, C, H, W) in [0, 1] -> logits (B, K).

    Foolbox, ART, torchattacks and adversarial-library attack it like any network. Every call draws
    afresh, logits are means over the recipe's draws, gradients pass the surrogates of its view.
    key: Key.root(seed, ids), of the images that will come, or of one row.
    recipe: its links, view, models, draws, gradients and precision count; its attack does not.
    access: what the module tells: "gradients", or "scores" alone.
    models: other models, for a recipe that asks some; by the names that it gives them.
    Judge what they find with `besiege.evaluation.judge_images`: their own success is that on one
    call. Cost: see `Bridge`.

    >>> import torch
    >>> from besiege.defenses.catalog import parse_chain
    >>> from besiege.defenses.defense import Defense
    >>> from besiege.laws.problems import linear_classifier
    >>> defense = Defense(parse_chain("bits"), linear_classifier())
    >>> guarded = bridge(defense, Key.root(0, [0]), "bpda")
    >>> guarded(torch.zeros(2, 1, 4, 4)).shape
    torch.Size([2, 3])
    """
    made = recipe if isinstance(recipe, Recipe) else RECIPES.build(recipe)
    who = Opponents(micro_batch=micro_batch, models=models or {})
    siege = Siege(defense, made, Threat(Linf(1.0), access=access), who)
    return Bridge(siege.ask(Meter(None), made.draws), key)
