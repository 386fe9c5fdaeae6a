"""Checks 28 to 35: what is luck, and whose?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from besiege.checks.finding import NOTE, Array, Fine, Symptom, percent, points, where
from besiege.core.comparisons import paired
from besiege.core.stats import mean_interval

FLIPS, MANY = 0.02, 10
COST = 0.03
LUCKY = 0.05
COUPLED = 1e-4
SURE, FEWEST = 0.999, 8  # confidence of what every run is asked by a check that stops; images


@dataclass(frozen=True)
class Control:
    """Shares right, (n,): as the attacker claims them at eps = 0, and of the clean images."""

    nothing: Array
    clean: Array


def zero_perturbation(e: Control) -> Symptom | Fine | None:
    """Does an attack that may change nothing leave the clean figure?

    Figure: clean accuracy minus what the attacker claims to leave with eps = 0. Threshold: 0 is
    outside its 99.9 % interval (Student, 8 images or more). What counts one lucky draw as a success
    fails here (AutoAttack's random mode reports 57.5 % where 83.4 % is true). Runs ask it of
    random defenses, on their first images: each attacker may spend 100 passes and change nothing.
    """
    if len(e.clean) < FEWEST:
        return None
    gain = mean_interval(np.asarray(e.clean, float) - e.nothing, SURE)
    if gain.low <= 0 <= gain.high:
        return Fine(abs(gain.estimate), 0)
    return Symptom(
        abs(gain.estimate),
        0,
        f"with eps = 0 the attacker claims to leave {percent(float(e.nothing.mean()))} where "
        f"{percent(float(e.clean.mean()))} is the clean figure.",
        where(e.nothing != e.clean),
    )


@dataclass(frozen=True)
class Answers:
    """right: (n, k) bool, of k draws each."""

    right: Array
    ids: Array | None = None


def one_draw_flips(e: Answers) -> Symptom | Fine | None:
    """Would the verdict of one draw differ from that of many?

    Figure: the probability that one draw disagrees with the majority, mean over examples.
    Threshold: the lower limit of its 95 % interval (Student) is above 2 %. Asked where 2 to 9 draws
    were judged: of 10 or more the mean is the score, and no figure rests on one draw.
    """
    k = e.right.shape[1]
    if not 2 <= k < MANY:
        return None
    p = e.right.mean(1)
    flips = np.minimum(p, 1 - p)
    if mean_interval(flips).low <= FLIPS:
        return Fine(flips.mean(), FLIPS)
    return Symptom(
        flips.mean(),
        FLIPS,
        f"one draw disagrees with the majority of {k} on {percent(flips.mean())}.",
        where(flips > 0.2, e.ids),
    )


@dataclass(frozen=True)
class Luck:
    """Shares right, (n,): where the attacker knows the draw that is judged, and on fresh draws."""

    known: Array
    fresh: Array


def known_draw(e: Luck) -> Symptom | Fine | None:
    """How much of the robustness is the attacker's not knowing the draw?

    Figure: accuracy on fresh draws minus that on the one draw that the attacker was given.
    Threshold: 5 points, and the 95 % interval above 0. A small difference is no robustness at all
    or true robustness.
    """
    gap = paired(e.fresh, e.known)
    if gap.estimate <= LUCKY or gap.low <= 0:
        return Fine(gap.estimate, LUCKY)
    return Symptom(
        gap.estimate,
        LUCKY,
        f"accuracy is {percent(float(e.known.mean()))} if the attacker knows the draw, "
        f"{percent(float(e.fresh.mean()))} on fresh ones.",
    )


@dataclass(frozen=True)
class Split:
    """Shares right, (n,), of two ways to spend equal cost; names say draws x steps."""

    first: Array
    second: Array
    names: tuple[str, str]


def draws_or_steps(e: Split) -> Symptom | Fine | None:
    """At equal cost, are many draws of few steps better than few draws of many?

    Figure: the difference in accuracy. Threshold: 3 points beyond its 95 % interval.
    """
    gain = paired(e.first, e.second)
    if abs(gain.estimate) <= COST or gain.low <= 0 <= gain.high:
        return Fine(abs(gain.estimate), COST)
    winner, loser = e.names[::-1] if gain.estimate > 0 else e.names
    return Symptom(
        abs(gain.estimate),
        COST,
        f"at equal cost {winner} leaves {points(abs(gain.estimate))} less than {loser}.",
        next=f"Spend the passes as {winner}.",
    )


@dataclass(frozen=True)
class Repeats:
    """distinct: how many different outputs `asked` calls with different keys gave (one image)."""

    distinct: int
    asked: int


@dataclass(frozen=True)
class Streams:
    """Numbers that name random streams: of the judge's draws, and of those the attacker saw."""

    judge: Array
    attacker: Array


@dataclass(frozen=True)
class Elsewhere:
    """Shares right, (n,): on the draws that judged, and on draws of another seed."""

    judged: Array
    other: Array


@dataclass(frozen=True)
class Unkeyed:
    """link: its name, or a model's; differs: it answers differently to the same image and draw;
    draws: it says that it is random. seeded: a model that draws from the global generators, or from
    its own, and is asked one image at a time for that."""

    link: str
    differs: bool
    draws: bool
    seeded: bool = False


def shared_draws(e: Repeats | Streams | Elsewhere | Unkeyed) -> Symptom | Fine | None:
    """Does the judge draw afresh?

    Figure: one of four. Of a defense that calls itself random and is asked with several keys, the
    number of different outputs. The random streams that attacker and judge share (runs gather none:
    attackers are cut off from the judge's). Accuracy on draws of another seed, which every row of a
    random defense is judged on too, minus that on the judge's. Whether a link answers differently
    to one image and draw. Thresholds: more than one output, no stream, a 99.9 % interval (Student,
    8 images or more) that is not above 0; such a link has to say that it is random, and if it does,
    its rows are fair but can never be made again (a note). A model that draws from the global
    generators is noted too.
    """
    if isinstance(e, Unkeyed):
        return _unkeyed(e)
    if isinstance(e, Repeats):
        if e.asked < 2:
            return None
        if e.distinct > 1:
            return Fine(e.distinct, 1)
        return Symptom(
            e.distinct,
            1,
            f"a defense that says it is random gave the same output {e.asked} times.",
            next="It seeds its own generator in every call: let it draw from the key, or from the "
            "global generators unseeded.",
        )
    if isinstance(e, Streams):
        both = np.intersect1d(e.judge, e.attacker)
        if len(both) == 0:
            return Fine(0, 0)
        return Symptom(
            len(both),
            0,
            f"the attacker saw {len(both)} of the judge's random streams.",
            next="Give the judge a stream that no attacker can name.",
        )
    if len(e.judged) < FEWEST:
        return None
    gain = mean_interval(np.asarray(e.other, float) - e.judged, SURE)
    if gain.low <= 0:
        return Fine(max(gain.estimate, 0), 0)
    return Symptom(
        gain.estimate,
        0,
        f"accuracy is {percent(float(e.judged.mean()))} on the judge's draws and "
        f"{percent(float(e.other.mean()))} on others.",
        where(e.other != e.judged),
        next="The points fit the judge's draws: judge on a stream that no attacker can name.",
    )


def _unkeyed(e: Unkeyed) -> Symptom | Fine | None:
    if e.seeded and not e.differs:
        means = "it is judged as random, asked one image at a time, and they are seeded for each."
        do = "Nothing, or let it draw from `core.passes.stage_key`, which is faster."
        return Symptom(
            1, 0, f"{e.link} draws from the global generators: {means}", next=do, level=NOTE
        )
    if not e.differs:
        return Fine(0, 0)
    says = f"{e.link} answers differently to the same image and draw"
    if e.draws:
        means = "it keeps a generator of its own, and its rows can never be made again."
        do = "Let it draw from the key, or from the global generators (Opaque)."
        return Symptom(1, 0, f"{says}: {means}", next=do, level=NOTE)
    means = "it says that it draws nothing, and would be judged once."
    return Symptom(1, 0, f"{says}: {means}", next="Give Opaque is_random=True.")


@dataclass(frozen=True)
class Coupling:
    """difference: (n,) largest change of an example's logits among other neighbours, or in another
    order; scale: (n,) their largest entry."""

    difference: Array
    scale: Array


def batch_coupling(e: Coupling) -> Symptom | Fine | None:
    """Do an example's logits depend on its batch?

    Figure: the largest change of a logit when neighbours or their order change, in units of the
    example's largest logit, or of 1 where that is less. Threshold: 1e-4, far above what kernels
    round by.
    """
    change = e.difference / np.maximum(e.scale, 1)
    worst = float(np.nanmax(change))
    if worst <= COUPLED:
        return Fine(worst, COUPLED)
    return Symptom(
        worst,
        COUPLED,
        f"logits change by up to {worst:.2g} with the neighbours of an image.",
        where(change > COUPLED),
    )


def best_of(right: Array, k: int) -> Array:
    """(n,) probability that all of k draws, taken from those of `right` (n, m), are right.

    >>> [best_of(np.array([[True, False]]), k).tolist() for k in (1, 2)]
    [[0.5], [0.0]]
    """
    n = right.shape[1]
    good = right.sum(1)
    share = np.ones(len(right))
    for i in range(k):
        share *= np.maximum(good - i, 0) / (n - i)
    return share


@dataclass(frozen=True)
class Luckiest:
    """right: (n, k) under attack; control: (n, k) of the clean images, if there."""

    right: Array
    control: Array | None = None


def best_of_k(e: Luckiest) -> Symptom | Fine | None:
    """What would accuracy be if one wrong answer in k draws counted as broken?

    Figure: the mean minus the best-of-k accuracy at the largest k, less the same of the clean
    images: what the control loses too is no attack. Threshold: none, every random defense has the
    curve beside its mean. Above 5 points k decides the figure.
    """
    k = min(v.shape[1] for v in (e.right, e.control) if v is not None)
    if k < 2:
        return None
    control = 0.0 if e.control is None else _lost(e.control, k)
    lost = float(_lost(e.right, k).mean() - np.mean(control))
    ks = sorted({1, min(5, k), k})
    shown, clean = (
        ", ".join(f"{n}: {percent(float(best_of(v, n).mean()))}" for n in ks)
        if v is not None
        else ""
        for v in (e.right, e.control)
    )
    return Symptom(
        lost,
        LUCKY,
        f"right on all of k draws, {shown}{f'; without an attack {clean}' if clean else ''}.",
    )


def _lost(right: Array, k: int) -> Array:
    """(n,) what counting all of k draws takes from the mean."""
    return best_of(right, 1) - best_of(right, k)


@dataclass(frozen=True)
class Silence:
    """Shares of draws, (n,): right, and without an answer."""

    right: Array
    silent: Array


def abstentions(e: Silence) -> Symptom | Fine | None:
    """Does the defense abstain, and how is that counted?

    Figure: the share of draws without an answer. Threshold: any; both ways are shown.
    """
    share = float(e.silent.mean())
    if share == 0:
        return Fine(0, 0)
    right = float(e.right.mean())
    return Symptom(
        share,
        0,
        f"{percent(share)} of the answers are abstentions: accuracy {percent(right)} if they count "
        f"as wrong, {percent(right + share)} if as right.",
        where(e.silent > 0),
    )
