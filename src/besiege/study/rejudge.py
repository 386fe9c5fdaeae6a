"""Judge the saved points of a run once more, without attacking: are its verdicts what it says?"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from besiege.core.errors import BadRun
from besiege.core.key import Key
from besiege.core.store import RunFolder
from besiege.study.engines.engine import threads
from besiege.study.judge import Judging, answers
from besiege.study.prepared import Prepared
from besiege.study.progress import Event
from besiege.study.rebuilt import rebuilt
from besiege.study.shard import point_hash
from besiege.study.siege import Siege
from besiege.study.soundness import UNKEYED

CHANGED = (
    "the model, the images, an own file or a setting is no longer that of the run "
    "(its cells would have other names now)"
)


@dataclass(frozen=True)
class Again:
    """One cell judged once more."""

    title: str  # defense, recipe, threat, goal
    points: int  # rows whose image was kept and is what the row says
    rows: int
    recorded: float  # accuracy in [0, 1] of those points as recorded, NaN without points
    now: float
    same: int  # answers as recorded
    answers: int
    unkeyed: bool  # an answer of it cannot be repeated


@dataclass(frozen=True)
class Rejudged:
    """A run judged once more.

    repeats: with the seed and the draws of the run, so that every answer must come out again.
    wrong: points that are missing, were changed, or are outside the threat.
    notes: what else differs from the run.
    """

    cells: tuple[Again, ...]
    repeats: bool
    wrong: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def confirmed(self) -> bool:
        """Whether nothing contradicts the run."""
        differs = any(c.same < c.answers for c in self.cells if not c.unkeyed)
        return not self.wrong and not (self.repeats and differs)


def rejudge(
    path: Path,
    overrides: Sequence[str] = (),
    *,
    draws: int | None = None,
    seed: int | None = None,
    on_event: Callable[[Event], None] | None = None,
) -> Rejudged:
    """Judge the points that the run folder at `path` keeps; nothing is attacked or written.

    overrides: settings of the run changed, such as "engine.device=cuda".
    draws, seed: of the judge; None for those of the run.
    Raises BadRun for a folder that is no run of an experiment, and the errors of its parts.
    Cost: `draws` forwards a point.
    """
    folder = RunFolder(path)
    resolved, prepared, unchanged = rebuilt(
        path, overrides, "judged again", "Use besiege.evaluation.judge_images."
    )
    settings, experiment, records = resolved["experiment"], prepared.experiment, resolved["cells"]
    recorded = settings["judge"]["draws"]
    judging = Judging(draws or recorded, micro_batch=experiment.engine.micro_batch)
    seed = settings["seed"] if seed is None else seed
    by_cell: dict[str, list[dict[str, Any]]] = {}
    for row in folder.rows():
        by_cell.setdefault(row["cell"], []).append(row)
    keep = settings["keep"]["images"]
    asked = frozenset(resolved["ids"] if keep == "all" else resolved["ids"][:keep])
    court = _Court(folder, prepared, judging, seed, asked, [])
    total, began, done = sum(len(by_cell.get(r["cell"], ())) for r in records), time.monotonic(), 0
    cells = []
    with threads(experiment.engine.threads):
        for record, siege in zip(records, prepared.sieges.values(), strict=True):
            rows = by_cell.get(record["cell"], [])
            cells.append(court.again(record, siege, rows))
            done += len(rows)
            if on_event:
                seconds = time.monotonic() - began
                on_event(Event(record["cell"], cells[-1].title, done, total, seconds))
    same = (seed, judging.draws) == (settings["seed"], recorded)
    return Rejudged(tuple(cells), same, tuple(court.wrong), () if unchanged else (CHANGED,))


@dataclass(frozen=True)
class _Court:
    """What all cells of a run share."""

    folder: RunFolder
    prepared: Prepared
    judging: Judging
    seed: int
    asked: frozenset[int]  # ids whose images the run was to keep
    wrong: list[str]  # filled as cells are judged

    def again(
        self, record: Mapping[str, Any], siege: Siege, rows: Sequence[dict[str, Any]]
    ) -> Again:
        """One cell; its rows batch by batch."""
        size = self.prepared.experiment.engine.batch
        found: list[tuple[dict[str, Any], list[int]]] = []
        for start in range(0, len(rows), size):
            found += self._judged(record["cell"], siege, rows[start : start + size])
        right = [_share(row["predicted"], row["label"]) for row, _ in found]
        now = [_share(answer, row["label"]) for row, answer in found]
        pairs = [
            old == new
            for row, answer in found
            for old, new in zip(row["predicted"], answer, strict=False)
        ]
        goal = "targeted" if record["targeted"] else "untargeted"
        return Again(
            title=f"{record['defense']} · {record['recipe']} · {record['threat']} {goal}",
            points=len(found),
            rows=len(rows),
            recorded=_mean(right),
            now=_mean(now),
            same=sum(pairs),
            answers=sum(max(len(row["predicted"]), len(answer)) for row, answer in found),
            unkeyed=any(flag.startswith(UNKEYED) for row in rows for flag in row["flags"]),
        )

    def _judged(
        self, cell: str, siege: Siege, rows: Sequence[dict[str, Any]]
    ) -> list[tuple[dict[str, Any], list[int]]]:
        """Rows whose point is there and admitted, with the answers to it now."""
        kept = [(row, x) for row in rows if (x := self._point(cell, row)) is not None]
        if not kept:
            return []
        clean = self.prepared.examples(tuple(row["id"] for row, _ in kept), siege.threat)
        points = torch.stack([x for _, x in kept]).to(clean.x)
        admitted = siege.threat.admits(points, clean.x).tolist()
        labels = clean.label.tolist()
        good = []
        for i, (row, _) in enumerate(kept):
            where = self.folder.image_file(cell, row["id"])
            if not admitted[i]:
                self.wrong.append(f"{where}: the point is outside {siege.threat.name}")
            elif labels[i] != row["label"]:
                said = f"label {row['label']} in the run, {labels[i]} in the images"
                self.wrong.append(f"example {row['id']} has {said}")
            else:
                good.append(i)
        if not good:
            return []
        x = points[good]
        key = Key.root(self.seed, [kept[i][0]["id"] for i in good], x.device).fold("judge")
        is_random = siege.defense.is_random((x.shape[1], x.shape[2], x.shape[3]))
        draws = self.judging.draws if is_random else 1
        found = answers(siege.defense, x, key, draws, self.judging.micro_batch).tolist()
        return [(kept[i][0], answer) for i, answer in zip(good, found, strict=True)]

    def _point(self, cell: str, row: Mapping[str, Any]) -> Tensor | None:
        """The saved point of a row, if it is the one that was judged."""
        place = self.folder.image_file(cell, row["id"])
        if not place.exists():
            if row["id"] in self.asked:
                self.wrong.append(f"{place} is missing")
            return None
        try:
            point = torch.from_numpy(self.folder.image(cell, row["id"])["adversarial"]).float()
        except (BadRun, KeyError, TypeError) as error:
            self.wrong.append(f"{place} is damaged: {error}")
            return None
        same_shape = tuple(point.shape) == self.prepared.images.shape
        if not same_shape or point_hash(point) != row["point"]:
            self.wrong.append(f"{place} is not the point that was judged: its pixels were changed")
            return None
        return point


def _share(answers: Sequence[int], label: int) -> float:
    return sum(a == label for a in answers) / len(answers)


def _mean(shares: Sequence[float]) -> float:
    return sum(shares) / len(shares) if shares else float("nan")
