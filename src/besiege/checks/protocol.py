"""Checks 36 to 46: is the question that is answered the one that is printed?"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from besiege.checks.finding import WARN, Array, Symptom, paired, percent, points, where
from besiege.core.power import HALF_WIDTH, images_for
from besiege.core.stats import share_interval

SLACK, ROUNDING = 1e-6, 6e-8  # of eps, and of pixels that are float32
CLEAN = 0.05
USED = 0.5
GAP = 0.05


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


def outside_threat(e: Sizes) -> Symptom | None:
    """Are the points inside the threat?

    Figure: how many are larger than eps (1 + 1e-6), beyond the rounding of float32, have pixels
    outside [0, 1], or were refused by the judge. Threshold: none.

    To do: project the points before they are judged.
    """
    bad = e.size > e.eps * (1 + SLACK) + ROUNDING
    for mask in (
        None if e.low is None else e.low < 0,
        None if e.high is None else e.high > 1,
        e.refused,
    ):
        bad = bad if mask is None else bad | mask
    if not bad.any():
        return None
    return Symptom(
        int(bad.sum()),
        0,
        f"{int(bad.sum())} of {len(bad)} points are outside the threat (largest size "
        f"{float(np.max(e.size)):.4g}, eps {e.eps:.4g}).",
        "Project the points before they are judged.",
        where(bad, e.ids),
    )


@dataclass(frozen=True)
class Pixels:
    """low, high: (n,) least and largest pixel of each image; eps: linf, in the unit they have."""

    low: Array
    high: Array
    eps: float = math.nan


def image_range(e: Pixels) -> Symptom | None:
    """Are the images in [0, 1], the unit in which eps is given?

    Figure: the least or largest pixel. Threshold: below 0 or above 1 (normalised, or 0 to 255); a
    largest pixel below 0.05 in all images (divided twice); an eps below half a grey level, 0.5/255,
    which no saved image can hold (a warning).

    To do: hand in images in [0, 1], and put the normalisation into the Classifier.
    """
    low, high = float(np.min(e.low)), float(np.max(e.high))
    if low < 0 or high > 1:
        told = "0 to 255" if high > 16 else "normalised"
        return Symptom(
            low if low < 0 else high,
            0 if low < 0 else 1,
            f"pixels are in [{low:.3g}, {high:.3g}]: {told}, so that eps is no pixel distance.",
            "Hand in images in [0, 1], and put the normalisation into the Classifier.",
            where((e.low < 0) | (e.high > 1)),
        )
    if high < 0.05:
        return Symptom(
            high,
            0.05,
            f"no pixel is above {high:.3g}, as if divided by 255 twice.",
            "Hand in images in [0, 1].",
        )
    if e.eps < 0.5 / 255:
        return Symptom(
            e.eps,
            0.5 / 255,
            f"eps {e.eps:.3g} is below half a grey level: saved as 8 bit nothing is left of it.",
            "Judge with eight_bit = true, or say that images are never saved.",
            level=WARN,
        )
    return None


@dataclass(frozen=True)
class Clean:
    """Shares right, (n,): of the clean images behind the defense, and of the model alone."""

    defended: Array
    bare: Array


def clean_accuracy_lost(e: Clean) -> Symptom | None:
    """What does the defense cost without any attack?

    Figure: clean accuracy of the model alone minus that behind the defense. Threshold: 5 points.

    To do: print clean beside robust accuracy; robustness of what is wrong anyway is none.
    """
    gain = paired(e.bare, e.defended)
    if gain.mean <= CLEAN:
        return None
    return Symptom(
        gain.mean,
        CLEAN,
        f"the defense costs {points(gain.mean)} of clean accuracy ({percent(float(e.bare.mean()))} "
        f"to {percent(float(e.defended.mean()))}).",
        "Print clean beside robust accuracy; robustness of what is wrong anyway is none.",
        where(e.bare > e.defended),
    )


@dataclass(frozen=True)
class Chosen:
    """How examples were chosen: "all", or those that the bare model gets right; n of them."""

    select: str
    n: int


def denominator(e: Chosen) -> Symptom | None:
    """Of which examples are the percentages?

    Figure: their number. It is noted where only those were taken that the model gets right without
    the defense: percentages are then no accuracy of a data set. Labels are always the data's.

    To do: say so, or multiply by the clean accuracy.
    """
    if e.select == "all":
        return None
    return Symptom(
        e.n,
        e.n,
        f"percentages are of the {e.n} images that the bare model gets right.",
        "Say so, or multiply by the clean accuracy.",
    )


@dataclass(frozen=True)
class Scores:
    """right: (n,) share of draws right."""

    right: Array


def too_few_images(e: Scores) -> Symptom | None:
    """Are there enough images for the figure to mean something?

    Figure: half the width of the 95 % interval (Wilson). Threshold: 5 points. The number needed at
    this accuracy inverts that interval (`images_for`).

    To do: take about as many images as it names.
    """
    interval = share_interval(np.asarray(e.right, float))
    half = (interval.high - interval.low) / 2
    if half <= HALF_WIDTH:
        return None
    need = images_for(HALF_WIDTH, interval.estimate)
    return Symptom(
        half,
        HALF_WIDTH,
        f"{len(e.right)} images give {interval}, half a width of {points(half)}.",
        f"Take about {need} images.",
    )


@dataclass(frozen=True)
class Inside:
    """engines: links during whose forward pass autograd ran."""

    links: tuple[str, ...]


def optimises_inside(e: Inside) -> Symptom | None:
    """Does a link optimise while it answers?

    Figure: how many links run autograd in their forward pass. Threshold: none. A gradient through
    such a loop is cut or wrong.

    To do: unroll the loop into a surrogate, or graft the identity.
    """
    if not e.links:
        return None
    return Symptom(
        len(e.links),
        0,
        f"{', '.join(e.links)} runs autograd inside its forward pass.",
        "Unroll the loop into a surrogate, or graft the identity.",
    )


@dataclass(frozen=True)
class Budget:
    """used: (n,) size over eps of the points of examples that stand."""

    used: Array
    ids: Array | None = None


def budget_unused(e: Budget) -> Symptom | None:
    """Do the examples that stand use the ball that the attacker was given?

    Figure: the median of size / eps over the examples that stand after an attack on the worst point
    of the ball. Threshold: 50 %: a search that gives up at the edge instead of projecting, or steps
    too small.

    To do: project onto the ball instead of giving up, and take larger steps.
    """
    if len(e.used) == 0:
        return None
    median = float(np.median(e.used))
    if median >= USED:
        return None
    return Symptom(
        median,
        USED,
        f"examples that stand use {percent(median)} of the radius.",
        "Project onto the ball instead of giving up, and take larger steps.",
        where(e.used < USED, e.ids),
    )


@dataclass(frozen=True)
class Claims:
    """Shares of success, (n,): what the attacker claims, and what fresh draws say."""

    claim: Array
    won: Array
    ids: Array | None = None


def lucky_claims(e: Claims) -> Symptom | None:
    """Does the attacker claim what fresh draws do not confirm?

    Figure: mean claim minus mean verdict. Threshold: 5 points, with an interval above 0. A success
    that is one lucky draw at any round, never tested again, is what this finds.

    To do: print the verdict, never the claim; search on until the mean over draws is lost.
    """
    gain = paired(e.claim, e.won)
    if gain.mean <= GAP or gain.low <= 0:
        return None
    return Symptom(
        gain.mean,
        GAP,
        f"the attacker claims {percent(float(e.claim.mean()))} success, fresh draws give "
        f"{percent(float(e.won.mean()))}.",
        "Print the verdict, never the claim; search on until the mean over draws is lost.",
        where(e.claim > e.won, e.ids),
    )


@dataclass(frozen=True)
class Certified:
    """radius: (n,) certified; broken: (n,) size of the smallest adversarial point, infinity if
    none; the norms are the same."""

    radius: Array
    broken: Array


def certificate_violated(e: Certified) -> Symptom | None:
    """Does any attack break an example inside its certified radius?

    Figure: how many. Threshold: none: a certificate that fails once is wrong.

    To do: the certificate is wrong: other noise, other norm, or an abstention that was not
    counted.
    """
    bad = e.broken < e.radius
    if not bad.any():
        return None
    return Symptom(
        int(bad.sum()),
        0,
        f"{int(bad.sum())} examples are broken inside their certified radius.",
        "The certificate is wrong: other noise, other norm, or an abstention that was not counted.",
        where(bad),
    )


@dataclass(frozen=True)
class Tuned:
    """pilots: images on which the attack was tuned that are judged too; n: judged."""

    pilots: int
    n: int


def tuned_on_the_judged(e: Tuned) -> Symptom | None:
    """Was the attack tuned on images that are judged?

    Figure: their share. Threshold: noted where there are any; draws are apart in any case.

    To do: the figure is a little low for the defense on these; leave them out to be exact.
    """
    if e.pilots == 0:
        return None
    return Symptom(
        e.pilots / e.n,
        0,
        f"the attack was tuned on {e.pilots} of the {e.n} images that are judged.",
        "The figure is a little low for the defense on these; leave them out to be exact.",
    )


@dataclass(frozen=True)
class Saved:
    """labels: (n, ways) answers to the image as floats, and saved as 8 bit in several ways."""

    labels: Array
    ways: tuple[str, ...]


def saved_otherwise(e: Saved) -> Symptom | None:
    """Do answers change with how images are saved before the defense sees them?

    Figure: the share of images whose label differs between floats, 8 bit rounded and 8 bit cut off,
    same draws. Threshold: any.

    To do: judge what is deployed: eight_bit = true, and the same codec.
    """
    differ = (e.labels != e.labels[:, :1]).any(1)
    if not differ.any():
        return None
    return Symptom(
        differ.mean(),
        0,
        f"{percent(differ.mean())} of the answers depend on how images are saved "
        f"({', '.join(e.ways)}).",
        "Judge what is deployed: eight_bit = true, and the same codec.",
        where(differ),
    )
