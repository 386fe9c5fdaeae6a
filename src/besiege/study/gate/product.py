"""What a defense is beside robust: clean accuracy, ordinary corruptions and latency, told unasked.

Measured on few images and calls, so that it is quick; a requirement measures on all.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from besiege.core.errors import BesiegeError
from besiege.study.gate.corruptions import CORRUPTIONS
from besiege.study.gate.readings import NOTHING, Bench
from besiege.study.gate.requirements import (
    QUANTITIES,
    Measured,
    Requirement,
    Unit,
    parse_requirement,
)

IMAGES, DRAWS, CALLS = 32, 4, 10  # at most
LONG = 60.0  # seconds an estimate of corruptions may take

CLEAN, CORRUPTED = "clean", "corrupted"
MEASURED = ("latency>=0s", "overhead>=0x")  # in the order in which they are told


@dataclass(frozen=True)
class Told:
    """One figure that no requirement is about. missing: why there is none."""

    quantity: str
    about: str
    measured: Measured
    missing: str = ""

    @property
    def shown(self) -> str:
        """The figure and its limits, as tables print them."""
        return spelt(self.measured, QUANTITIES[self.quantity].unit)

    def __str__(self) -> str:
        about = f"{self.quantity} ({self.about})"
        return f"{about}: {self.missing or f'{self.shown}, n = {self.measured.n}'}"

    def record(self) -> dict[str, Any]:
        """For JSON; shares in [0, 1], seconds or factors; null where nothing is known."""
        figures = {k: v if math.isfinite(v) else None for k, v in self.measured._asdict().items()}
        return {
            "quantity": self.quantity,
            "about": self.about,
            **figures,
            "missing": self.missing,
        }


def spelt(measured: Measured, unit: Unit) -> str:
    """A figure with its limits in a unit; "-" for none."""
    figure, low, high = (unit.shown(v) for v in measured[:3])
    if math.isnan(measured.estimate):
        return "-"
    limits = f" [{low}, {high}]" if measured.low < measured.high else ""
    return f"{figure}{limits} {unit.symbol}".rstrip()


def product(bench: Bench, asked: Sequence[Requirement], measure: bool = True) -> tuple[Told, ...]:
    """The figures of a product that `asked` are not about.

    measure: latency, overhead and corruptions too; else clean accuracy alone, which the run has.
    What cannot be measured says why. Cost: 13 answers to one image, and 8 corruptions of 32 images
    on 4 draws at most, if that takes less than a minute.
    """
    known = {r.quantity for r in asked}
    found = [] if CLEAN in known else [*_read(bench, parse_requirement("clean>=0%"))]
    if measure:
        found += _measured(bench, known)
    return tuple(found)


def _measured(bench: Bench, known: set[str]) -> Iterator[Told]:
    wanted = [r for r in map(parse_requirement, MEASURED) if r.quantity not in known]
    missing = [r.quantity for r in wanted] + [CORRUPTED] * (CORRUPTED not in known)
    if not missing:
        return
    try:
        light = bench.light(IMAGES, DRAWS, CALLS)
        timed = [told for requirement in wanted for told in _read(light, requirement)]
    except BesiegeError as error:
        yield from (Told(name, "not measured", NOTHING, str(error)) for name in missing)
        return
    yield from timed
    if CORRUPTED not in known:
        yield _corrupted(light)


def _corrupted(bench: Bench) -> Told:
    """The mean over all corruptions, beside the bare classifier's; nothing where it takes long."""
    asked = bench.gauges.asked(bench.name) * len(CORRUPTIONS)
    seconds = asked * bench.gauges.latency(bench.name, 1).defended.estimate
    if seconds > LONG:
        why = (
            f"about {seconds:,.0f} s would be needed for {asked:,} answers: ask for it, as in "
            '"corrupted>=0%"'
        )
        return Told(CORRUPTED, f"{len(CORRUPTIONS)} corruptions", NOTHING, why)
    (told,) = _read(bench, parse_requirement("corrupted>=0%"))
    bare = [bench.gauges.right_under(None, kind).mean() for kind in CORRUPTIONS]
    about = f"{told.about}; bare classifier {100 * sum(bare) / len(bare):.1f} %"
    return Told(CORRUPTED, about, told.measured)


def _read(bench: Bench, requirement: Requirement) -> Iterator[Told]:
    for reading in bench.read(requirement):
        yield Told(requirement.quantity, reading.about, reading.measured, reading.missing)
