"""Checks 36 to 46: is the question that is answered the one that is printed?"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.stats import binom

from besiege.checks.deployed import CHANGED, Codec, Preparations, coded, prepared
from besiege.checks.finding import NOTE, Array, Fine, Symptom, percent, points, where
from besiege.core.comparisons import paired, unpaired
from besiege.core.power import HALF_WIDTH, images_lacking
from besiege.core.smoothing import refuting
from besiege.core.stats import share_interval

LEVEL = 1 / 255  # of grey
SLACK, ROUNDING = 1e-6, 6e-8  # of eps, and of pixels that are float32
CLEAN = 0.05
USED = 0.5
GAP = 0.05
ONE_SIDED = 0.9  # confidence of the interval whose lower limit alone is 95 %
CHANCE = 0.01  # below which luck is no explanation


@dataclass(frozen=True)
class Sizes:
    """size: (n,) in the ball's norm; low, high: (n,) least and largest pixel; refused: (n,) bool,
    the judge took the clean image instead."""

    size: Array
    eps: float
    low: Array | None = None
    high: Array | None = None
    refused: Array | None = None
    ids: Array | None = None


def outside_threat(e: Sizes) -> Symptom | Fine | None:
    """Are the points inside the threat?

    Figure: how many are larger than eps (1 + 1e-6), beyond the rounding of float32, have pixels
    outside [0, 1], or were refused by the judge. Threshold: none.
    """
    bad = e.size > e.eps * (1 + SLACK) + ROUNDING
    for mask in (
        None if e.low is None else e.low < 0,
        None if e.high is None else e.high > 1,
        e.refused,
    ):
        bad = bad if mask is None else bad | mask
    if not bad.any():
        return Fine(0, 0)
    return Symptom(
        int(bad.sum()),
        0,
        f"{int(bad.sum())} of {len(bad)} points are outside the threat (largest size "
        f"{float(np.max(e.size)):.4g}, eps {e.eps:.4g}).",
        where(bad, e.ids),
    )


@dataclass(frozen=True)
class Pixels:
    """low, high: (n,) least and largest pixel of each image; eps: linf, in the unit they have."""

    low: Array
    high: Array
    eps: float = math.nan


def image_range(e: Pixels | Preparations) -> Symptom | Fine | None:
    """Are the images in [0, 1], the unit in which eps is given, and as the model wants them?

    Figure: the least or largest pixel. Threshold: below 0 or above 1 (normalised, or 0 to 255); a
    largest pixel below 0.05 in all images (divided twice); an eps below one grey level, 1/255, in
    which there is no other image of 8 bits (none at all, eps = 0, is a control). Runs are asked
    about eps only where the threat says that images are saved (`eight_bit`): a curve over radii may
    pass through small ones, of images that stay floats.
    Of a model: how many images more it gets right if they are normalised by a common mean and std
    first, or that is undone, in grey levels or as BGR. Threshold: none, if the margin gains too,
    by a one-sided interval of 95 % for all ways together.
    """
    if isinstance(e, Preparations):
        return prepared(e)
    low, high = float(np.min(e.low)), float(np.max(e.high))
    if low < 0 or high > 1:
        told = "0 to 255" if high > 16 else "normalised"
        return Symptom(
            low if low < 0 else high,
            0 if low < 0 else 1,
            f"pixels are in [{low:.3g}, {high:.3g}]: {told}, so that eps is no pixel distance.",
            where((e.low < 0) | (e.high > 1)),
        )
    if high < 0.05:
        return Symptom(
            high,
            0.05,
            f"no pixel is above {high:.3g}, as if divided by 255 twice.",
            next="Hand in images in [0, 1].",
        )
    if 0 < e.eps < LEVEL * (1 - SLACK):
        return Symptom(
            e.eps,
            LEVEL,
            f"eps {e.eps:.3g} is below one grey level: no other image of 8 bits is as near.",
            next="Take eps >= 1/255, or know that nothing is left of an attack once it is saved.",
        )
    return Fine(e.eps, LEVEL) if e.eps > 0 else Fine(high, 1)


@dataclass(frozen=True)
class Clean:
    """Shares right, (n,): of the clean images behind the defense, and of the model alone."""

    defended: Array
    bare: Array


def clean_accuracy_lost(e: Clean) -> Symptom | Fine | None:
    """What does the defense cost without any attack?

    Figure: clean accuracy of the model alone minus that behind the defense. Threshold: 5 points,
    and the one-sided 95 % limit above 0: one image of 16 is more than 5 points.
    """
    gain = paired(e.bare, e.defended, ONE_SIDED)
    if gain.estimate <= CLEAN or gain.low <= 0:
        return Fine(gain.estimate, CLEAN)
    return Symptom(
        gain.estimate,
        CLEAN,
        f"the defense costs {points(gain.estimate)} of clean accuracy "
        f"({percent(float(e.bare.mean()))} to {percent(float(e.defended.mean()))}).",
        where(e.bare > e.defended),
    )


@dataclass(frozen=True)
class Chosen:
    """How examples were chosen: "all", or those that the bare model gets right; n of them."""

    select: str
    n: int


def denominator(e: Chosen) -> Symptom | Fine | None:
    """Of which examples are the percentages?

    Figure: their number. It is noted where only those were taken that the model gets right without
    the defense: percentages are then no accuracy of a data set. Labels are always the data's.
    """
    if e.select == "all":
        return Fine(e.n, e.n)
    return Symptom(e.n, e.n, f"percentages are of the {e.n} images that the bare model gets right.")


@dataclass(frozen=True)
class Scores:
    """right: (n,) share of draws right."""

    right: Array


def too_few_images(e: Scores) -> Symptom | Fine | None:
    """Are there enough images for the figure to mean something?

    Figure: half the width of the 95 % interval (Wilson). Threshold: 5 points. The number named is
    enough for every accuracy in that interval (`images_lacking`).
    """
    interval = share_interval(np.asarray(e.right, float))
    need = images_lacking(interval)
    half = (interval.high - interval.low) / 2
    if need == 0:
        return Fine(half, HALF_WIDTH)
    return Symptom(
        half,
        HALF_WIDTH,
        f"{len(e.right)} images give {interval}, half a width of {points(half)}.",
        next=f"Take {need} images.",
    )


@dataclass(frozen=True)
class Inside:
    """engines: links during whose forward pass autograd ran."""

    links: tuple[str, ...]


def optimises_inside(e: Inside) -> Symptom | Fine | None:
    """Does a link optimise while it answers?

    Figure: how many links run autograd in their forward pass. Threshold: none. A gradient through
    such a loop is cut or wrong.
    """
    if not e.links:
        return Fine(0, 0)
    return Symptom(len(e.links), 0, f"{', '.join(e.links)} runs autograd inside its forward pass.")


@dataclass(frozen=True)
class Budget:
    """used: (n,) size over eps of the points of examples that stand."""

    used: Array
    ids: Array | None = None


def budget_unused(e: Budget) -> Symptom | Fine | None:
    """Do the examples that stand use the ball that the attacker was given?

    Figure: the median of size / eps over the examples that stand after an attack on the worst point
    of the ball. Threshold: 50 %: a search that gives up at the edge instead of projecting, or steps
    too small.
    """
    if len(e.used) == 0:
        return None
    median = float(np.median(e.used))
    if median >= USED:
        return Fine(median, USED)
    return Symptom(
        median,
        USED,
        f"examples that stand use {percent(median)} of the radius.",
        where(e.used < USED, e.ids),
    )


@dataclass(frozen=True)
class Claims:
    """Shares of success, (n,): what the attacker claims, and what fresh draws say."""

    claim: Array
    won: Array
    ids: Array | None = None


def lucky_claims(e: Claims) -> Symptom | Fine | None:
    """Does the attacker claim what fresh draws do not confirm?

    Figure: mean claim minus mean verdict. Threshold: 5 points, with an interval above 0. A success
    that is one lucky draw at any round, never tested again, is what this finds.
    """
    gain = paired(e.claim, e.won)
    if gain.estimate <= GAP or gain.low <= 0:
        return Fine(gain.estimate, GAP)
    return Symptom(
        gain.estimate,
        GAP,
        f"the attacker claims {percent(float(e.claim.mean()))} success, fresh draws give "
        f"{percent(float(e.won.mean()))}.",
        where(e.claim > e.won, e.ids),
    )


@dataclass(frozen=True)
class Certified:
    """Certificates and points that were judged, n of each, in one norm.

    radius, answer: (n,) certified, -1 for no answer. size, predicted: (n,) of the point, and (n, k)
    answers to it, -1 for none. alpha: chance that a certificate, or one of the answers, is wrong.
    """

    radius: Array
    answer: Array
    size: Array
    predicted: Array
    alpha: float = 0.001
    ids: Array | None = None


def certificate_violated(e: Certified) -> Symptom | Fine | None:
    """Does any attack break an example inside its certified radius?

    Figure: how many images have a point inside their radius that gets other answers (abstentions
    are none) so often that its draws explain it with a chance of alpha at most. Threshold: none;
    but a note where so many may be by chance, with a probability above 1 %: each certificate may be
    wrong with a chance of alpha, and its draws with another.
    """
    other = refuting(e.size, e.radius, e.answer, e.predicted).sum(1)
    bad = binom.sf(other - 1, e.predicted.shape[1], e.alpha) <= e.alpha * (1 + ROUNDING)
    if not bad.any():
        return Fine(0, 0)
    wrong, asked = int(bad.sum()), int((e.size < e.radius).sum())
    luck = float(binom.sf(wrong - 1, asked, 2 * e.alpha))
    return Symptom(
        wrong,
        0,
        f"{wrong} of {asked} images are answered otherwise within their certified radius; "
        f"{2 * e.alpha * asked:.2g} may be by chance.",
        where(bad, e.ids),
        level="" if luck < CHANCE else NOTE,
    )


@dataclass(frozen=True)
class Tuned:
    """Shares right of judged images, (n,): on which the attack was tuned, and of the others."""

    pilots: Array
    others: Array


def tuned_on_the_judged(e: Tuned) -> Symptom | Fine | None:
    """Was the attack tuned on images that are judged?

    Figure: accuracy on the others minus that on these; or that there are no others. Threshold: the
    95 % interval (Agresti & Caffo 2000) is above 0. What is common to both is no luck of tuning;
    draws are apart in any case.
    """
    tuned = len(e.pilots)
    if tuned == 0:
        return None
    if len(e.others) == 0:
        return Symptom(
            tuned,
            0,
            f"the attack was tuned on all {tuned} images that are judged.",
            next="Judge more images, so that others show what the tuning is worth.",
        )
    gap = unpaired(e.others, e.pilots)
    if gap.low <= 0:
        return Fine(gap.estimate, 0)
    return Symptom(
        gap.estimate,
        0,
        f"accuracy is {percent(float(e.pilots.mean()))} on the {tuned} images on which the attack "
        f"was tuned, {percent(float(e.others.mean()))} on the {len(e.others)} others.",
    )


@dataclass(frozen=True)
class Saved:
    """labels: (n, ways) answers to the image as floats, and saved as 8 bit in several ways."""

    labels: Array
    ways: tuple[str, ...]


def saved_otherwise(e: Saved | Codec) -> Symptom | Fine | None:
    """Do answers change with how images are saved before the defense sees them, or inside it?

    Figure: the share of images whose label differs between floats, 8 bit rounded and 8 bit cut off,
    same draws. Threshold: the lower limit of its 95 % interval is above 2 %, since an image on the
    border may fall on either side. Of a link that compresses: the same share between all
    subsamplings and roundings of the installed codec; and grey levels between its output and what
    the installed codec makes of it as the link says, of which there may be none.
    """
    if isinstance(e, Codec):
        return coded(e)
    differ = (e.labels != e.labels[:, :1]).any(1)
    if share_interval(differ.astype(float)).low <= CHANGED:
        return Fine(differ.mean(), CHANGED)
    return Symptom(
        differ.mean(),
        CHANGED,
        f"{percent(differ.mean())} of the answers depend on how images are saved "
        f"({', '.join(e.ways)}).",
        where(differ),
    )
