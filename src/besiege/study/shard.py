"""One batch of examples through one cell: attacked, judged, and written down as rows."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from besiege.attacks.search import Found
from besiege.core.batch import rows as as_rows
from besiege.core.key import Key
from besiege.core.store import FOUND_BY
from besiege.study.evidence.aside import aside
from besiege.study.judge import Judging, Verdict, answers, judge
from besiege.study.recipe import Recipe
from besiege.study.siege import Siege
from besiege.study.soundness import remarks

SIZES = ("linf", "l2", "rms", "l1", "l0", "size")  # columns of a verdict


class Examples(NamedTuple):
    """Images to attack, first axis B."""

    ids: Sequence[int]
    x: Tensor  # (B, C, H, W) in [0, 1]
    label: Tensor  # (B,) int64
    target: Tensor  # (B,) int64, -1 where the threat is untargeted
    points: Tensor | None = None  # (B, C, H, W) found by somebody else, to be judged unsearched


@dataclass(frozen=True)
class Shard:
    """What one batch of a cell leaves behind; columns as in the run folder."""

    cell: str
    rows: dict[str, Any]
    traces: dict[str, Any] | None
    images: dict[int, dict[str, Any]]


@dataclass
class _Curve:
    """Watches a search and has its points judged as they come."""

    siege: Siege
    examples: Examples
    key: Key
    judging: Judging
    every: int = 0
    right: dict[int, Tensor] = field(default_factory=dict)  # step -> (B,) shares of draws
    won: dict[int, Tensor] = field(default_factory=dict)

    def observe(self, step: int, x: Tensor, index: Tensor) -> None:
        """Judge the points of the examples `index`; those already dropped are lost for certain.

        A step may come in several parts, each with its own examples.
        """
        key = self.key[index].fold("judge", "step", step)
        judged = answers(
            self.siege.defense, x, key, self.judging.step_draws, self.judging.micro_batch
        )
        targeted = self.siege.threat.targeted
        right = judged == self.examples.label[index, None]
        met = judged == self.examples.target[index, None] if targeted else ~right
        sure = torch.ones_like(self.examples.label, dtype=torch.float32)
        self.right.setdefault(step, 0 * sure)[index] = right.float().mean(1)
        self.won.setdefault(step, sure)[index] = met.float().mean(1)

    def columns(self) -> dict[str, Any]:
        """What the trace of each example holds; a batch dropped whole is observed no more."""
        n, recipe = len(self.examples.ids), self.siege.recipe
        steps = list(range(0, recipe.steps + 1, self.every)) if self.every else []
        sure = torch.ones_like(self.examples.label, dtype=torch.float32)
        right = [self.right.get(step, 0 * sure) for step in steps]
        won = [self.won.get(step, sure) for step in steps]
        none: list[list[float]] = [[] for _ in range(n)]
        return {
            "judged_step": [steps] * n,
            "judged": torch.stack(right, 1).tolist() if steps else none,
            "judged_won": torch.stack(won, 1).tolist() if steps else none,
        }


def siege_batch(
    cell: str,
    siege: Siege,
    examples: Examples,
    seed: int,
    judging: Judging,
    *,
    keep: Sequence[int] = (),
    first: Sequence[int] = (),
    traces: bool = True,
) -> Shard:
    """Attack and judge one batch.

    keep: ids whose images are kept. first: ids on which the attacker is asked what it claims where
    nothing may change; see `aside` for this and what else checks want to know. Points that the
    threat does not admit are judged at the clean image and flagged: an attack that leaves its ball
    has failed, the run has not.
    """
    began = time.perf_counter()
    key = Key.root(seed, list(examples.ids), device=examples.x.device)
    targeted = siege.threat.targeted
    silent = siege.made.whole or siege.recipe.union  # they show no steps
    every = 0 if silent else judging.every
    curve = _Curve(siege, examples, key, judging, every)
    goal = examples.target if targeted else examples.label
    if examples.points is None:
        found = siege.attack(examples.x, goal, key, curve if every else None)
    else:
        found = _given(examples.points)
    admitted = siege.threat.admits(siege.threat.submitted(found.x, examples.x), examples.x)
    x = torch.where(as_rows(admitted, found.x), found.x, examples.x)
    verdict = judge(siege.defense, siege.threat, x, examples.x, key, judging)
    seconds = (time.perf_counter() - began) / len(examples.ids)
    rows = _rows(cell, siege, examples, found, verdict, admitted, seconds, key)
    rows |= aside(siege, examples, x, seed, first, judging.micro_batch)
    points = [point_hash(image) for image in siege.threat.submitted(x, examples.x)]
    return Shard(
        cell,
        {**rows, "point": points},
        _traces(cell, examples, found, curve) if traces else None,
        _images(siege, examples, x, verdict, key, keep),
    )


def point_hash(image: Tensor) -> str:
    """16 hex digits over the pixels of one image, as float32."""
    return hashlib.sha256(image.float().cpu().contiguous().numpy().tobytes()).hexdigest()[:16]


def _given(points: Tensor) -> Found:
    """Points that nobody here searched for: no claim, no cost, no trace."""
    n = len(points)
    none = torch.zeros(n, dtype=torch.int64, device=points.device)
    trace = points.new_zeros(n, 0)
    claim = points.new_full((n,), torch.nan)
    return Found(points, claim, none.bool(), none, none, trace, trace, spent=none.bool())


def _flags(
    siege: Siege, found: Found, verdict: Verdict, admitted: Tensor, always: Sequence[str]
) -> list[list[str]]:
    """The sentences that a reader of each row must know."""
    common = list(always)
    if link := siege.recipe.stops_at(siege.defense):
        common.append(f"no gradient passes {link}")
    n = len(admitted)
    silent = (verdict.predicted < 0).any(1)
    draws = [None] * n if found.draws is None else found.draws.tolist()
    strayed = [False] * n if found.strayed is None else found.strayed.tolist()
    by = [-1] * n if found.by is None else found.by.tolist()
    columns = (draws, by, strayed, found.spent.tolist(), admitted.tolist(), silent.tolist())
    return [
        common
        + ([_sized(siege.recipe, size)] if size else [])
        + ([f"{FOUND_BY}{siege.recipe.union[number].name}"] if number >= 0 else [])
        + (["found outside the threat: projected onto it"] if astray else [])
        + (["limit of passes reached"] if spent else [])
        + ([] if ok else ["point outside the threat: judged at the clean image"])
        + (["no answer on some draws"] if quiet else [])
        for size, number, astray, spent, ok, quiet in zip(*columns, strict=True)
    ]


def _sized(recipe: Recipe, draws: int) -> str:
    """How many draws a step an example got; the most allowed may fall short of the cosine."""
    wanted = f"for cosine {recipe.cosine:g}"
    if draws < recipe.most_draws:
        return f"{draws} draws a step {wanted}"
    return f"{draws} draws a step, the most allowed, {wanted} or less"


def _rows(
    cell: str,
    siege: Siege,
    examples: Examples,
    found: Found,
    verdict: Verdict,
    admitted: Tensor,
    seconds: float,
    key: Key,
) -> dict[str, Any]:
    n = len(examples.ids)
    always = remarks(siege.defense, examples.x[:1], key[:1].fold("keyed"))
    return {
        "cell": [cell] * n,
        "id": np.asarray(examples.ids, dtype=np.int64),
        "label": examples.label.cpu().numpy().astype(np.int32),
        "target": examples.target.cpu().numpy().astype(np.int32),
        "predicted": verdict.predicted.cpu().tolist(),
        **{k: getattr(verdict, k).cpu().numpy() for k in SIZES},
        "claim": found.claim.double().cpu().numpy(),
        "lucky": found.lucky.cpu().numpy(),
        "forwards": found.forwards.cpu().numpy(),
        "backwards": found.backwards.cpu().numpy(),
        "seconds": np.full(n, seconds),
        "flags": _flags(siege, found, verdict, admitted, always),
    }


def _traces(cell: str, examples: Examples, found: Found, curve: _Curve) -> dict[str, Any]:
    n = len(examples.ids)
    silent: list[list[int]] = [[] for _ in range(n)]
    return {
        "cell": [cell] * n,
        "id": np.asarray(examples.ids, dtype=np.int64),
        "passes": silent if found.passes is None else found.passes.cpu().tolist(),
        "loss": found.loss.cpu().tolist(),
        "won": found.won.cpu().tolist(),
        **curve.columns(),
    }


def _images(
    siege: Siege, examples: Examples, x: Tensor, verdict: Verdict, key: Key, keep: Sequence[int]
) -> dict[int, dict[str, Any]]:
    """Clean, adversarial, and what the network sees of both under the judge's first draw."""
    wanted = set(keep)
    kept = [i for i, name in enumerate(examples.ids) if name in wanted]
    if not kept:
        return {}
    index = torch.tensor(kept, device=x.device)
    first = key[index].fold("judge").spread("draw", 1)
    clean = answers(siege.defense, examples.x[index], key[index].fold("judge"), 1, len(kept))[:, 0]
    submitted = siege.threat.submitted(x[index], examples.x[index])
    with torch.no_grad():
        pictures = {
            "clean": examples.x[index],
            "adversarial": submitted,
            "seen_clean": siege.defense.seen(examples.x[index], first),
            "seen_adversarial": siege.defense.seen(submitted, first),
        }
    return {
        int(examples.ids[i]): {
            **{name: p[j].float().cpu().numpy() for name, p in pictures.items()},
            "label": int(examples.label[i]),
            "target": int(examples.target[i]),
            "predicted_clean": int(clean[j]),
            "predicted_adversarial": int(verdict.predicted[i, 0]),
        }
        for j, i in enumerate(kept)
    }
