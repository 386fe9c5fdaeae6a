"""How much an attacker may spend: passes an image, or minutes, which become passes by measuring."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from besiege.attacks.threat import Threat
from besiege.core.errors import BadSetting
from besiege.core.key import Key
from besiege.defenses.defense import Deployed
from besiege.study.adaptive.planner import PILOTS
from besiege.study.experiment.experiment import Experiment
from besiege.study.judge import answers
from besiege.study.prepared import Prepared
from besiege.study.recipe import NONE, Recipe
from besiege.study.siege import Opponents, Siege

FLOOR = 100  # passes an image, whatever the time
PLANNING = 300, 1500  # passes a pilot image that a plan takes, about; if the defense draws
TIMED = 32  # images on which a pass is timed
IN_MINUTES = {"s": 1 / 60, "min": 1.0, "h": 60.0}
_FORM = re.compile(r"([0-9][0-9_,]*(?:\.[0-9]+)?)\s*(passes|s|min|h)?")


class Budget(NamedTuple):
    """One of the two: passes an image, or minutes for all images and attackers of a threat."""

    passes: int | None = None
    minutes: float | None = None


def parse_budget(text: str) -> Budget:
    """`text` as a budget. Raises BadSetting, naming the forms.

    >>> parse_budget("3000"), parse_budget("10min").minutes, parse_budget("2h").minutes
    (Budget(passes=3000, minutes=None), 10.0, 120.0)
    """
    found = _FORM.fullmatch(text.strip())
    amount = float(re.sub("[_,]", "", found[1])) if found else 0.0
    unit = found[2] if found else None
    if amount > 0 and unit in IN_MINUTES:
        return Budget(minutes=amount * IN_MINUTES[unit])
    if amount < 1 or amount != int(amount):
        raise BadSetting(
            'a budget is passes an image or a time, as "3000", "10min", "90s" or "2h", got '
            f'"{text}".'
        )
    return Budget(passes=int(amount))


def seconds_a_pass(
    defense: Deployed, x: Tensor, goal: Tensor, threat: Threat, key: Key, opponents: Opponents
) -> float:
    """Wall-clock of one forward or backward pass of one image, as an attacker makes them.

    x (B, C, H, W) in [0, 1], goal (B,), key of the images: TIMED of them are used at most.
    Cost: two steps of PGD, of which the second is timed; forward passes where there are no
    gradients.
    """
    x, goal, key = x[:TIMED], goal[:TIMED], key[:TIMED].fold("timing")
    gradients = threat.access == "gradients"

    def once(steps: int) -> int:
        """Passes made."""
        if not gradients:
            with torch.no_grad():
                answers(defense, x, key, steps, opponents.micro_batch)
            return len(x) * steps * defense.passes
        recipe = Recipe("timing", steps=steps, confirm=1)
        unlimited = Threat(threat.ball, threat.targeted, eight_bit=threat.eight_bit)
        found = Siege(defense, recipe, unlimited, opponents).attack(x, goal, key)
        return int((found.forwards + found.backwards).sum())

    with torch.inference_mode(False):
        once(1)  # whatever is made at the first call
        began = time.perf_counter()
        passes = once(2)
    return (time.perf_counter() - began) / max(passes, 1)


def passes_in(
    minutes: float, seconds: Sequence[float], images: int, draws: int, random: bool
) -> int:
    """Passes an image that attackers may make to be done in `minutes`; FLOOR at least.

    seconds: a pass, of the defense that each attacker is against. images: to attack. draws: of the
    judge, an image and attacker, where a defense is random; they and PLANNING are counted first.
    Raises BadSetting for no minutes.
    """
    if not minutes > 0:
        raise BadSetting(f"minutes are more than 0, got {minutes:g}.")
    aside = min(PILOTS, images) * PLANNING[random] + images * (draws if random else 1)
    left = 60 * minutes / max(sum(seconds), 1e-12) - aside
    return max(FLOOR, int(left / max(images, 1) + 1e-6))


def settled(
    asked: Mapping[str, Any],
    known: Sequence[Mapping[str, Any]],
    seconds: Callable[[], Sequence[float]],
    images: int,
    draws: int,
    random: bool,
) -> dict[str, Any]:
    """A budget in passes, and the sentence that says so, as a run folder keeps them.

    asked: number and title of the threat, and minutes. known: budgets of an earlier run of the
    folder; one of the same is taken as it is, so that a run that resumes makes the same rows.
    seconds: a pass against the defense of each attacker, measured if need be. Others: `passes_in`.
    """
    for one in known:
        if asked.items() <= one.items():
            return dict(one)
    each, minutes = seconds(), asked["minutes"]
    passes = passes_in(minutes, each, images, draws, random)
    mean = 1000 * sum(each) / max(len(each), 1)
    floor = ", the least, and may take longer" if passes == FLOOR else ""
    note = (
        f"{asked['title']}: {minutes:g} minutes at {mean:.3g} ms a pass are {passes:,} passes an "
        f"image and attacker{floor}; a limit of {passes} passes makes the same rows again"
    )
    return {**asked, "passes": passes, "note": note}


def timed(
    experiment: Experiment,
    prepared: Prepared,
    ids: Sequence[int],
    known: Sequence[Mapping[str, Any]],
    images: int,
) -> tuple[Experiment, list[dict[str, Any]]]:
    """The experiment with passes in place of the minutes of its threats, and `settled` budgets.

    ids: of images on which a pass is timed. images: how many there are to attack.
    """
    threats, found = list(experiment.threat), []
    for i, table in enumerate(threats):
        if table.minutes is None:
            continue
        asked = {"threat": i, "title": table.threat().name, "minutes": table.minutes}
        seconds, draws = partial(_seconds, prepared, i, tuple(ids[:TIMED])), experiment.judge.draws
        shape = prepared.images.shape
        random = any(siege.defense.is_random(shape) for siege in prepared.sieges.values())
        budget = settled(asked, known, seconds, images, draws, random)
        threats[i] = table.model_copy(update={"passes": budget["passes"], "minutes": None})
        found.append(budget)
    return experiment.model_copy(update={"threat": tuple(threats)}), found


def _seconds(prepared: Prepared, number: int, ids: tuple[int, ...]) -> list[float]:
    """A pass against the defense of each attacker under a threat."""
    sieges = [
        siege
        for cell, siege in prepared.sieges.items()
        if prepared.places[cell][1] == number and siege.recipe.attack != NONE
    ]
    each: dict[int, float] = {}
    for siege in sieges:
        if id(siege.defense) not in each:
            threat, images = siege.threat, prepared.examples(ids, siege.threat)
            goal = images.target if threat.targeted else images.label
            key = Key.root(prepared.experiment.seed, list(ids), images.x.device)
            each[id(siege.defense)] = seconds_a_pass(
                siege.defense, images.x, goal, threat, key, siege.opponents
            )
    return [each[id(siege.defense)] for siege in sieges]
