"""The whole siege in one call, for a defense that is already in memory."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from besiege.attacks.threat import Ball, Threat
from besiege.core.errors import BadImages
from besiege.core.key import Key
from besiege.core.store import RunFolder
from besiege.defenses.defense import Defense
from besiege.report.tables import Summary, summarise
from besiege.study.judge import Judging, check_images
from besiege.study.prepared import random_targets
from besiege.study.recipe import Opponents, Recipe, Siege
from besiege.study.recipes import RECIPES
from besiege.study.record import cell_hash, describe, environment, weights_hash
from besiege.study.shard import Examples, siege_batch


def evaluate(
    defense: Defense,
    x: Tensor,
    y: Tensor,
    threat: Threat | Ball,
    *,
    recipes: Sequence[str | Recipe] = ("none", "oblivious", "bpda", "bpda+eot"),
    targets: Tensor | None = None,
    steps: int = 50,
    draws: int = 20,
    seed: int = 0,
    micro_batch: int = 32,
    out: str | Path | None = None,
) -> Summary:
    """How robust `defense` is: the attackers `recipes`, judged on fresh draws.

    x (B, C, H, W) float in [0, 1], y (B,) labels; example i has id i.
    threat: a ball (untargeted) or a Threat; targets (B,) for a targeted one, else drawn at random.
    steps: of every recipe given by name, but "none".  draws: of the judge, an example.
    out: a folder to keep as a run (`besiege report OUT` writes its page); None keeps nothing.
    Returns a summary that prints as a table, in a terminal and in a notebook.
    Raises BadImages for images or labels that no score could mean anything for.
    Cost: for each recipe steps x its draws forwards and backwards, plus `draws` forwards.

    >>> from besiege.attacks.threat import Linf
    >>> from besiege.defenses.transform import Chain
    >>> from besiege.laws.problems import linear_classifier
    >>> bare = Defense(Chain(), linear_classifier())
    >>> x = torch.full((2, 1, 4, 4), 0.5)
    >>> y = bare.labels(x, Key.root(0, [0, 1]))
    >>> result = evaluate(bare, x, y, Linf(0.5), recipes=["none", "bpda"], steps=5)
    >>> [row.accuracy.estimate for row in result.lines]
    [1.0, 0.0]
    """
    goal = threat if isinstance(threat, Threat) else Threat(threat)
    classifier = defense.classifier
    if len(x) != len(y) or len(x) == 0:
        raise BadImages(f"{len(x)} images and {len(y)} labels came; one label an image is needed.")
    ids = list(range(len(x)))
    check_images(x, y, classifier.num_classes, classifier.channels, ids)
    target = torch.full_like(y, -1)
    if goal.targeted:
        root = Key.root(seed, ids, x.device)
        target = random_targets(root, y, classifier.num_classes) if targets is None else targets
    judging = Judging(draws=draws, micro_batch=micro_batch)
    pixels = hashlib.sha256(
        torch.cat([x.flatten().double(), y.double()]).cpu().numpy().tobytes()
    ).hexdigest()
    fingerprint = {
        "seed": seed,
        "weights": weights_hash(classifier),
        "chain": repr(defense.chain),
        "images": pixels,
        "targets": target.tolist(),
    }
    with TemporaryDirectory() as scratch:
        path = Path(scratch) / "run" if out is None else Path(out)
        with RunFolder.open(path) as folder:
            records = []
            for named in recipes:
                recipe = _recipe(named, steps)
                siege = Siege(defense, recipe, goal, Opponents(micro_batch=micro_batch))
                name = defense.chain.name
                record = describe(siege, judging, defense=name, chain=name, vote=str(defense.vote))
                cell = cell_hash(record, fingerprint)
                records.append({"cell": cell, **record})
                resolved = {"experiment": {"seed": seed}, "cells": records, "ids": ids}
                folder.write_experiment("", resolved, environment(str(x.device)))
                missing = [i for i in ids if i not in folder.finished(cell)]
                if missing:
                    part = torch.tensor(missing, device=x.device)
                    examples = Examples(missing, x[part], y[part], target[part])
                    shard = siege_batch(cell, siege, examples, seed, judging, keep=missing[:4])
                    folder.write_shard(shard.rows, shard.traces, shard.images)
        return summarise(path)


def _recipe(named: str | Recipe, steps: int) -> Recipe:
    if isinstance(named, Recipe):
        return named
    return RECIPES.build(named, **({} if named == "none" else {"steps": steps}))
