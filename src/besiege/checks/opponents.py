"""Checks 22 to 27: is there an attacker who does better?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from besiege.checks.finding import Array, Fine, Symptom, percent, where
from besiege.checks.pair import Pair, Survivors
from besiege.core.stats import share_interval

SCORES = 0.002
VIEWS = 0.03
PLANTED = 0.95


def less_knowledge_wins(e: Pair | Survivors) -> Symptom | Fine | None:
    """Does an attacker by scores or labels beat every gradient attack?

    Figure: accuracy under the best gradient attack (first) minus that under the attack by scores or
    labels. Threshold: 0.2 points; on a random defense the 95 % interval is above 0 too. Of a union:
    the share of all examples that such a search broke and all by gradients before it did not.
    """
    return e.symptom(
        SCORES,
        lambda gain: f"{e.names[1]}, without gradients, leaves {gain} less than {e.names[0]}.",
    )


def transfer_wins(e: Pair | Survivors) -> Symptom | Fine | None:
    """Do points made on another model, or on the classifier alone, beat the white box?

    Figure: accuracy under the best attack on the defense (first) minus that under the transferred
    points. Threshold: 0.2 points; on a random defense the 95 % interval is above 0 too. Of a union:
    the share of all examples that such a search broke and those before it did not.
    """
    return e.symptom(
        SCORES,
        lambda gain: (
            f"{e.names[1]}, which never asks the defense, leaves {gain} less than {e.names[0]}."
        ),
    )


@dataclass(frozen=True)
class Nearer:
    """won: (n,) share of draws that a label attack inside the ball wins; right: (n,) share right
    under the gradient attacks, all of them; random: whether the defense draws."""

    won: Array
    right: Array
    random: bool = False
    ids: Array | None = None


def label_attack_inside(e: Nearer) -> Symptom | Fine | None:
    """Does an attack by labels find a point nearer than eps for an example called robust?

    Figure: how many examples are right under every gradient attack (on 9 draws in 10) and wrong at
    the label attack's point (likewise). Threshold: none.
    """
    bar = 0.9 if e.random else 1.0
    lost = (e.won >= bar) & (e.right >= bar)
    if not lost.any():
        return Fine(0, 0)
    return Symptom(
        int(lost.sum()),
        0,
        f"{int(lost.sum())} examples that no gradient attack breaks fall to labels alone.",
        where(lost, e.ids),
    )


def surrogates_differ(e: Pair | Survivors) -> Symptom | Fine | None:
    """Does the surrogate of a link decide the figure?

    Figure: accuracy with one surrogate minus that with another, all else equal. Threshold: 3
    points, and beyond the interval where the defense is random. Of a union: the share that a search
    broke which sees links otherwise, after others had made as many steps.
    """
    return e.symptom(
        VIEWS,
        lambda gain: (
            f"{e.names[1]} leaves {gain} less than {e.names[0]}, which sees links otherwise."
        ),
        f"Report {e.names[1]}; try further surrogates of that link.",
    )


def leaving_out_wins(e: Pair | Survivors) -> Symptom | Fine | None:
    """Does leaving a link out of the attacker's view beat keeping it?

    Figure: accuracy under the best attack that keeps every link (first) minus that under the one
    that leaves some out. Threshold: 0.2 points; on a random defense beyond the interval too. Of a
    union: the share of all examples that such a search broke and those before it did not.
    """
    return e.symptom(
        SCORES,
        lambda gain: f"{e.names[1]}, which leaves links out, leaves {gain} less than {e.names[0]}.",
    )


@dataclass(frozen=True)
class Planted:
    """won: (n,) bool, the attack found a planted adversarial example; luck: random search did."""

    won: Array
    luck: Array


def binarisation(e: Planted) -> Symptom | Fine | None:
    """Does the attack find an adversarial example that was planted inside the ball?

    Figure: the share found (Zimmermann et al. 2022). Thresholds: 95 %, and clearly more than random
    search finds (the intervals do not meet).
    """
    found, luck = (share_interval(np.asarray(v, float)) for v in (e.won, e.luck))
    if found.estimate >= PLANTED and found.low > luck.high:
        return Fine(found.estimate, PLANTED)
    return Symptom(
        found.estimate,
        PLANTED,
        f"the attack finds {percent(found.estimate)} of planted examples, random search "
        f"{percent(luck.estimate)}.",
        where(~np.asarray(e.won, bool)),
    )
