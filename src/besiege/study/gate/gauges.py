"""What a run folder does not hold of its defenses, measured now: latency and corruptions."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np

from besiege.core.errors import BadRun
from besiege.core.key import Key
from besiege.core.stats import Shares
from besiege.defenses.defense import Defense, Deployed
from besiege.defenses.transform import Chain
from besiege.study.engines.engine import threads
from besiege.study.gate.corruptions import SEVERITY, right_under
from besiege.study.gate.latency import CALLS, Clock, Latency, latency
from besiege.study.prepared import Prepared
from besiege.study.progress import Event
from besiege.study.rebuilt import rebuilt
from besiege.study.shard import Examples

QUIET = 2.0  # seconds without progress
POOL = 64  # images that latency is measured on, at most


class Gauges:
    """Measures of the defenses of the run at `path`, each made when first asked for, and once.

    overrides: settings of the run changed, such as "engine.threads=4". severities, calls: of
    corruptions and of latency. Raises BadRun where the defenses cannot be made again, or are others
    now.
    """

    def __init__(
        self,
        path: Path,
        overrides: Sequence[str] = (),
        severities: Sequence[int] = (SEVERITY,),
        calls: int = CALLS,
        on_event: Callable[[Event], None] | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.path, self.overrides = path, tuple(overrides)
        self.severities, self.calls = tuple(severities), calls
        self.on_event, self.clock = on_event, clock
        self.most: tuple[int, int] | None = None  # images and draws of corruptions
        self._began = time.monotonic()
        self._latencies: dict[tuple[str, int], Latency] = {}
        self._shares: dict[tuple[str | None, str], Shares] = {}

    @cached_property
    def _made(self) -> tuple[Prepared, tuple[int, ...]]:
        made = rebuilt(
            self.path,
            self.overrides,
            "measured again",
            "Ask only for what it holds: robust, clean, gap and findings.",
        )
        if not made.same:
            raise BadRun(
                f"the defenses of {self.path} are no longer those of the run: the model, the "
                "images, an own file or a setting was changed (its cells would have other names "
                "now). Run it again, which makes what is missing."
            )
        return made.prepared, tuple(made.resolved["ids"])

    def light(self, images: int, draws: int, calls: int) -> Gauges:
        """Gauges of the same defenses that measure on so much at most."""
        made = self._made  # once for both
        other = Gauges(
            self.path, self.overrides, self.severities, min(calls, self.calls), self.on_event
        )
        other.clock, other.most, other.__dict__["_made"] = self.clock, (images, draws), made
        return other

    def _long(self) -> bool:
        """Whether it is time to show progress: of what nobody asked for, after two seconds."""
        return self.most is None or time.monotonic() - self._began > QUIET

    def asked(self, name: str) -> int:
        """How often a defense is asked about one corruption."""
        x = self._examples(self._ids[:1]).x
        random = self._deployed(name).is_random((x.shape[1], x.shape[2], x.shape[3]))
        return len(self._ids) * len(self.severities) * (self._draws if random else 1)

    @property
    def _ids(self) -> tuple[int, ...]:
        """Of the images that corruptions are measured on."""
        ids = self._made[1]
        return ids if self.most is None else ids[: self.most[0]]

    @property
    def _draws(self) -> int:
        draws = self._made[0].experiment.judge.draws
        return draws if self.most is None else min(draws, self.most[1])

    def latency(self, name: str, batch: int) -> Latency:
        """That of the defense `name`, beside the bare classifier's, on the run's device."""
        if (name, batch) not in self._latencies:
            prepared, ids = self._made
            some = self._examples(ids[:POOL])
            if self.on_event:
                self.on_event(Event("", f"{name} · latency at batch {batch}", 0, self.calls, 0.0))
            key = Key.root(prepared.experiment.seed, list(some.ids), some.x.device)
            with threads(prepared.experiment.engine.threads):
                self._latencies[name, batch] = latency(
                    self._deployed(name),
                    self._deployed(None),
                    some.x,
                    key,
                    batch=batch,
                    calls=self.calls,
                    clock=self.clock,
                )
        return self._latencies[name, batch]

    def right_under(self, name: str | None, kind: str) -> Shares:
        """Share of right answers to each image under a corruption, (n,); None: bare classifier."""
        if (name, kind) not in self._shares:
            prepared, ids = self._made[0], self._ids
            size, began = prepared.experiment.engine.batch, time.monotonic()
            found = []
            with threads(prepared.experiment.engine.threads):
                for start in range(0, len(ids), size):
                    found.append(self._right(name, kind, ids[start : start + size]))
                    if self.on_event and self._long():
                        done = min(start + size, len(ids))
                        title = f"{name or 'bare classifier'} · {kind}"
                        seconds = time.monotonic() - began
                        self.on_event(Event("", title, done, len(ids), seconds))
            self._shares[name, kind] = np.concatenate(found)
        return self._shares[name, kind]

    def _right(self, name: str | None, kind: str, ids: tuple[int, ...]) -> Shares:
        prepared, _ = self._made
        experiment = prepared.experiment
        some = self._examples(ids)
        return right_under(
            self._deployed(name),
            some.x,
            some.label,
            Key.root(experiment.seed, list(ids), some.x.device),
            kind,
            self.severities,
            self._draws,
            experiment.engine.micro_batch,
        )

    def _deployed(self, name: str | None) -> Deployed:
        prepared, _ = self._made
        if name is None:
            return Defense(Chain(), prepared.classifier)
        cell = next(cell for cell, (defense, _) in prepared.places.items() if defense == name)
        return prepared.sieges[cell].defense

    def _examples(self, ids: tuple[int, ...]) -> Examples:
        prepared, _ = self._made
        threat = next(iter(prepared.sieges.values())).threat
        return prepared.examples(ids, replace(threat, targeted=False))
