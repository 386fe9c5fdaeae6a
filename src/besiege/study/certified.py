"""Certificates that a run folder keeps, so that its verdicts can count them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from besiege.checks.catalog import CHECKS
from besiege.checks.finding import Finding
from besiege.checks.protocol import Scores
from besiege.core.errors import BadRun, BadSetting
from besiege.core.store import RunFolder
from besiege.study.certify import Certificates
from besiege.study.evidence.examine import examine_run

FEW = 40  # the check that asks whether there are enough images


def certifiable(path: Path, chain: str, vote: str, model: str) -> dict[str, Any]:
    """The settings of the run at `path`; under "defense" the name of its defense of these specs.

    Raises BadRun where there is no run of an experiment, BadSetting where it has no such defense:
    a certificate is of one classifier and no other.
    """
    resolved = RunFolder(path).resolved()
    experiment = resolved.get("experiment", {})
    if "model" not in experiment:
        raise BadRun(f"{path} holds no run of an experiment: name the folder of one.")
    table = {t["name"]: (t["chain"], t["vote"], t["model"]) for t in experiment["defense"]}
    own = experiment["model"]["source"]
    wanted = (chain, vote, model)
    for name, (has_chain, has_vote, has_model) in table.items():
        if (has_chain, has_vote, has_model or own) == wanted:
            return {**resolved, "defense": name}
    there = "; ".join(f"{c}, {v}, {m or own}" for c, v, m in table.values())
    raise BadSetting(f"{path} has no defense of {', '.join(wanted)}: it has {there}.")


def keep_certificates(
    path: Path, run: Mapping[str, Any], label: Tensor, found: Certificates
) -> None:
    """Add what was found to the run folder at `path`, in place of what was there of that defense.

    run: of `certifiable`. label: (n,) of its images.
    """
    record = {
        "defense": run["defense"],
        "norm": found.channel.norm,
        "samples": found.samples,
        "alpha": found.alpha,
        "cells": [c["cell"] for c in run["cells"] if c["defense"] == run["defense"]],
        "ids": list(run["ids"]),
        "label": label.tolist(),
        "answer": found.answer.tolist(),
        "radius": found.radius.tolist(),
        "answering": found.answering.tolist(),
    }
    with RunFolder.open(path) as folder:
        others = [c for c in folder.certificates() if c["defense"] != run["defense"]]
        folder.write_certificates([*others, record])


def on_curve(
    found: Certificates,
    label: Tensor,
    path: Path | None = None,
    run: Mapping[str, Any] | None = None,
) -> list[Finding]:
    """What checks say of a curve of certified accuracy; label: (n,) of its images.

    path, run: of a folder that keeps the certificates (`keep_certificates`), which is examined
    again: what touches its defense counts, and what refutes a radius is among it.
    """
    right = (found.answer == label.cpu().numpy()).astype(float)
    few = CHECKS[FEW](Scores(right), "certified accuracy at radius 0")
    if path is None or run is None:
        return [few] if few else []
    cells = {c["cell"] for c in run["cells"] if c["defense"] == run["defense"]}
    known = examine_run(path)
    return [*([few] if few else []), *(f for f in known if not f.cells or cells & set(f.cells))]
