"""Whether the defenses of a run meet requirements: for continuous integration."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from besiege.checks.finding import LEVELS, STOP
from besiege.core.errors import BadSetting, one_of
from besiege.core.power import images_to_decide
from besiege.study.gate.corruptions import CORRUPTIONS, SEVERITY, strength
from besiege.study.gate.gauges import Gauges
from besiege.study.gate.held import Held
from besiege.study.gate.latency import CALLS, check_calls
from besiege.study.gate.product import Told, product, spelt
from besiege.study.gate.readings import Bench
from besiege.study.gate.requirements import (
    EXAMPLE,
    SHARE,
    Measured,
    On,
    Requirement,
    Verdict,
    decide,
    parse_requirement,
)
from besiege.study.progress import Event

MET, MISSED, OPEN = 0, 1, 3  # exit codes; 2 is bad input


@dataclass(frozen=True)
class Judged:
    """One requirement asked of one defense.

    about: threat, corruption, batch or level, in words. seconds: that measuring took.
    """

    requirement: Requirement
    about: str
    measured: Measured
    verdict: Verdict
    sentence: str
    seconds: float = 0.0

    @property
    def shown(self) -> str:
        """The figure and its limits, as tables print them."""
        return spelt(self.measured, self.requirement.kind.unit)

    @property
    def undecided(self) -> bool:
        """Whether its interval holds the bound."""
        return self.verdict is Verdict.UNDECIDED

    def fails(self, allow_undecided: bool = False) -> bool:
        """Whether it keeps a gate shut."""
        return self.verdict is not Verdict.PASS and not (self.undecided and allow_undecided)

    def record(self) -> dict[str, Any]:
        """For JSON; shares in [0, 1], seconds, factors or numbers; null where nothing is known."""
        figures = self.measured._asdict()
        return {
            "requirement": str(self.requirement),
            "quantity": self.requirement.quantity,
            "about": self.about,
            "operator": self.requirement.operator,
            "bound": self.requirement.bound,
            **{k: v if math.isfinite(v) else None for k, v in figures.items()},
            "verdict": str(self.verdict),
            "sentence": self.sentence,
            "seconds": round(self.seconds, 3),
        }


@dataclass(frozen=True)
class Defended:
    """One defense: its requirements, and what a reader has to know of the figures.

    product: figures beside them that nobody asked for.
    """

    name: str
    judged: tuple[Judged, ...]
    context: tuple[str, ...]
    product: tuple[Told, ...] = ()


@dataclass(frozen=True)
class Gate:
    """What a gate says of a run."""

    run: str
    on: On
    defenses: tuple[Defended, ...]
    allow_undecided: bool = False

    @property
    def judged(self) -> tuple[Judged, ...]:
        """All requirements of all defenses."""
        return tuple(one for defense in self.defenses for one in defense.judged)

    @property
    def exit_code(self) -> int:
        """0 all met, 1 some not, 3 none known to be missed but some undecided."""
        failing = [one for one in self.judged if one.fails(self.allow_undecided)]
        if not failing:
            return MET
        return OPEN if all(one.undecided for one in failing) else MISSED

    @property
    def passed(self) -> bool:
        """Whether the exit code is 0."""
        return self.exit_code == MET

    def __str__(self) -> str:
        return "\n".join(
            f"{one.verdict:9} {defense.name}: {one.requirement} ({one.about}): {one.shown}"
            for defense in self.defenses
            for one in defense.judged
        )

    def record(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "run": self.run,
            "on": str(self.on),
            "passed": self.passed,
            "exit": self.exit_code,
            "defenses": [
                {
                    "name": defense.name,
                    "requirements": [one.record() for one in defense.judged],
                    "context": list(defense.context),
                    "product": [told.record() for told in defense.product],
                }
                for defense in self.defenses
            ],
        }


def asking(
    requirements: Sequence[str | Requirement],
    on: str = On.INTERVAL,
    severities: Sequence[int] = (SEVERITY,),
    calls: int = CALLS,
) -> list[Requirement]:
    """The requirements, parsed, if a gate can be asked so; see `gate`. Looks at no run."""
    asked = [r if isinstance(r, Requirement) else parse_requirement(r) for r in requirements]
    if not asked:
        raise BadSetting(f'a gate without requirements lets all pass: give one, as in "{EXAMPLE}".')
    one_of("way to decide", on, [str(way) for way in On])
    for severity in severities:
        strength(next(iter(CORRUPTIONS)), severity, side=0)
    check_calls(calls)
    return asked


def gate(
    run: str | Path,
    requirements: Sequence[str | Requirement],
    *,
    defenses: Sequence[str] = (),
    on: str = "interval",
    allow_undecided: bool = False,
    despite_findings: bool = False,
    severities: Sequence[int] = (SEVERITY,),
    calls: int = CALLS,
    batches: Sequence[int] = (),
    measure: bool = True,
    overrides: Sequence[str] = (),
    on_event: Callable[[Event], None] | None = None,
    gauges: Gauges | None = None,
) -> Gate:
    """Ask the defenses of a finished run folder whether they meet `requirements`.

    requirements: such as "robust@linf:8/255>=30%", see `parse_requirement`. defenses: by name;
    empty for all. on: "interval" or "estimate", what decides. allow_undecided: an interval that
    holds the bound does not fail. despite_findings: pass what a check says STOP of.
    severities, calls: of corruptions and of latency. batches: whose latency is told besides.
    measure: latency and corruptions that nobody asks for are told too, on a few images (`product`).
    overrides: settings of the run, for what is measured now. gauges: measure with these.
    Raises BadRun for a folder without a finished run, BadSetting or UnknownName for a requirement
    that cannot be asked of it. Cost: one reading of the folder; what latency and corruptions take,
    on all images where they are asked for.
    """
    asked = asking(requirements, on, severities, calls)
    path = Path(run)
    held = Held.read(path)
    for name in defenses:
        one_of("defense", name, held.names, str(path))
    for requirement in asked:
        held.check(requirement)
    meter = gauges or Gauges(path, overrides, severities, calls, on_event)
    found = []
    for name in defenses or held.names:
        bench = Bench(held, meter, name)
        judged = tuple(j for r in asked for j in _judged(bench, r, On(on), despite_findings))
        context = tuple(bench.context(asked, batches))
        found.append(Defended(name, judged, context, product(bench, asked, measure)))
    return Gate(str(path), On(on), tuple(found), allow_undecided)


def _judged(bench: Bench, requirement: Requirement, on: On, despite: bool) -> Iterator[Judged]:
    """A verdict for each of its figures."""
    began = time.perf_counter()
    for reading in bench.read(requirement):
        verdict = decide(requirement, reading.measured, on)
        sentence = reading.missing or _sentence(requirement, reading.measured, verdict)
        stops = [f for f in bench.held.touching(reading.cells) if f.level == STOP]
        if verdict is Verdict.PASS and stops and not despite:
            verdict = Verdict.REFUSED
            sentence = f"check {stops[0].number} says {STOP}, {LEVELS[STOP]}: {stops[0].what}"
        seconds = time.perf_counter() - began
        yield Judged(requirement, reading.about, reading.measured, verdict, sentence, seconds)
        began = time.perf_counter()


def _sentence(requirement: Requirement, measured: Measured, verdict: Verdict) -> str:
    """What to do about what is not decided; "" else."""
    if verdict is not Verdict.UNDECIDED:
        return ""
    inside = f"{requirement.spelt} lies in the interval"
    unit = requirement.kind.unit
    if unit is not SHARE:
        return f"{inside}: more {unit.by} would narrow it"
    need = images_to_decide(measured.estimate, requirement.bound)
    if need is None:
        return f"{inside}, and is the figure itself: no number of images would decide it"
    return (
        f"{inside}: about {need:,} images would decide it, four times of five, if the figure stays"
    )
