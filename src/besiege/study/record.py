"""What a run folder says about a cell, and the hash that names it."""

from __future__ import annotations

import hashlib
import json
import platform
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from besiege.defenses.transform import contents
from besiege.ops.codec import codec_version
from besiege.study.experiment.places import respelled
from besiege.study.judge import Judging
from besiege.study.siege import Siege

ROWS_VERSION = 1  # raise it when a change alters what rows mean: old cells are then attacked anew
PACKAGES = ("torch", "numpy", "scipy", "pillow", "duckdb", "besiege")


def describe(
    siege: Siege,
    judging: Judging,
    *,
    defense: str,
    chain: str,
    vote: str,
    **more: Any,
) -> dict[str, Any]:
    """The settings of a cell, as they stand in resolved.json (without its hash).

    defense: its display name; chain, vote: their specs; more: what a plain defense has not.
    """
    threat = siege.threat
    read = " & ".join(filter(None, (contents(part.chain) for part in siege.defense.parts)))
    return {
        "defense": defense,
        "chain": chain,
        **({"contents": read} if read else {}),
        "vote": vote,
        **more,
        "recipe": siege.recipe.name,
        "recipe_settings": _settings(siege),
        "view": siege.recipe.view_of(siege.defense),
        "threat": threat.name,
        "ball": threat.ball.name,
        "eps": threat.ball.eps,
        **({"nearest": True} if siege.made.nearest else {}),
        "targeted": threat.targeted,
        "access": threat.access,
        "eight_bit": threat.eight_bit,
        "passes": threat.passes,
        "draws": judging.draws,
        "every": judging.every,
        "step_draws": judging.step_draws,
        "micro_batch": judging.micro_batch,
        "classes": list(siege.defense.parts[0].classifier.classes),
    }


def _settings(siege: Siege) -> dict[str, Any]:
    """Those of the recipe, and of those of its union, with the loss that each ascends."""
    found = {**asdict(siege.recipe), "loss": siege.loss}
    union = [_settings(one) for one in siege.union]
    return {**found, "union": union} if union else {k: found[k] for k in found if k != "union"}


def portable(record: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a cell with the names of files in place of their paths."""
    view = _named(record["view"])
    return {**record, "view": view, "recipe_settings": _portable(record["recipe_settings"])}


def _portable(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a recipe, and of those of its union."""
    own = {**settings, "view": _named(settings["view"])}
    if own["models"]:
        own["models"] = [respelled(m, file_name) for m in own["models"]]
    if "union" in own:
        own["union"] = [_portable(recipe) for recipe in own["union"]]
    return own


def _named(view: Mapping[str, str]) -> dict[str, str]:
    return {link: respelled(how, file_name) for link, how in view.items()}


def file_name(path: str) -> str:
    """What counts of a path in a cell's hash."""
    return Path(path).name


def cell_hash(record: Mapping[str, Any], fingerprint: Mapping[str, Any]) -> str:
    """16 hex digits over everything that can change a row.

    fingerprint: what the cells of a run share: seed, data, model weights, plugins.

    >>> cell_hash({"a": 1}, {"seed": 0}) == cell_hash({"a": 1}, {"seed": 0})
    True
    """
    whole = {"version": ROWS_VERSION, "record": record, "fingerprint": fingerprint}
    text = json.dumps(whole, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def file_hash(path: Path) -> str:
    """16 hex digits over a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def environment(device: str) -> dict[str, Any]:
    """Versions and machine, for environment.json."""
    return {
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "processor": torch.backends.cpu.get_cpu_capability(),
        "device": device,
        "packages": {name: metadata.version(name) for name in PACKAGES},
        "codec": codec_version(),
        "revision": _revision(),
    }


def _revision() -> str | None:
    """The commit of a source checkout; None for an installed package."""
    home = Path(__file__).resolve().parent
    try:
        found = subprocess.run(
            ["git", "-C", str(home), "rev-parse", "--short=12", "HEAD"],
            capture_output=True,
            text=True,
            timeout=5,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip()
