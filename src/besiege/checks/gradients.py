"""Checks 1 to 10: is there a gradient, is it right, does it lead anywhere?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from besiege.checks.finding import NOTE, Array, Fine, Symptom, percent, where
from besiege.core.stats import share_interval

DEAD = 0.01  # share of examples without a gradient
COSINE, RATIO = 0.9, (0.8, 1.25)  # of a directional difference with autograd
NOISY = 0.2  # cosine of two independent means
FLAT, FLAT_SHARE = 1e-8, 0.02  # a saturated loss, and on how many examples
THIRD = 0.02  # share of readings on which the label ranks third
LUCK = 0.5  # of examples on which a step of no use beats one at random
MOVED, CLEAR = 1.0, 0.3  # pixels; correlation at the peak
UNRELATED = 5.0  # standard deviations of the correlation of changes that have nothing in common


@dataclass(frozen=True)
class Slopes:
    """size: (n,) largest entry of each example's gradient of the margin, NaN where not finite."""

    size: Array


def zero_gradient(e: Slopes) -> Symptom | Fine | None:
    """Are there examples whose gradient is zero or not finite?

    Figure: the share of examples with max |g| = 0 or NaN, where g is the gradient of the *margin*
    through the defense as the attacker sees it (the margin cannot saturate as cross-entropy does,
    so that a dead link is not taken for a sure classifier). Threshold: 1 %, since one image in a
    hundred may be flat.
    """
    dead = ~(np.abs(e.size) > 0)
    if dead.mean() <= DEAD:
        return Fine(dead.mean(), DEAD)
    return Symptom(
        dead.mean(),
        DEAD,
        f"{percent(dead.mean())} of the examples have no gradient (zero or not finite).",
        where(dead),
    )


@dataclass(frozen=True)
class Graph:
    """links: names from the image to the logits; alive: whether what each returns has a graph."""

    links: tuple[str, ...]
    alive: tuple[bool, ...]


def graph_cut(e: Graph) -> Symptom | Fine | None:
    """Do the logits follow from the image by differentiable operations at all?

    Figure: how many links return a tensor without a graph when their input asks for a gradient.
    Threshold: none may. Only links that claim an exact gradient are asked (others are grafted), and
    in a run the recipes that take links as they are.
    """
    cut = [name for name, alive in zip(e.links, e.alive, strict=True) if not alive]
    if not cut:
        return Fine(0, 0)
    return Symptom(len(cut), 0, f"no gradient passes {', '.join(cut)}.")


@dataclass(frozen=True)
class Differences:
    """Directional derivatives of one link or model, (n,) each: autograd's, and by differences."""

    analytic: Array
    numeric: Array


def wrong_gradient(e: Differences) -> Symptom | Fine | None:
    """Is a gradient that calls itself exact the derivative of the value?

    Figure: the cosine between derivatives along random directions by autograd and by central
    differences in float64; also the ratio of their lengths, since a step by signs hides a factor.
    Thresholds: cosine below 0.9, ratio outside [0.8, 1.25].
    """
    a, b = (np.asarray(v, float).ravel() for v in (e.analytic, e.numeric))
    sizes = float(np.linalg.norm(a)), float(np.linalg.norm(b))
    if sizes[1] == 0:  # nothing to compare with: check 1 speaks of it
        return None
    cosine = float(a @ b) / max(sizes[0] * sizes[1], 1e-300)
    ratio = sizes[0] / sizes[1]
    if cosine >= COSINE and RATIO[0] <= ratio <= RATIO[1]:
        return Fine(cosine, COSINE)
    off = cosine < COSINE
    return Symptom(
        cosine if off else ratio,
        COSINE if off else RATIO[0] if ratio < 1 else RATIO[1],
        f"autograd and finite differences have cosine {cosine:.2f} and ratio {ratio:.2f}.",
    )


@dataclass(frozen=True)
class Agreement:
    """cosine: (n,) of two independent mean gradients of each example; draws: of each mean."""

    cosine: Array
    draws: int


def noisy_gradient(e: Agreement) -> Symptom | Fine | None:
    """Do two independent mean gradients point the same way?

    Figure: the median cosine over examples. Threshold: 0.2; then more draws until it is above 0.5.
    Steps by signs get along with little, as their mean over many steps counts.
    """
    cosine = float(np.median(e.cosine))
    if cosine >= NOISY:
        return Fine(cosine, NOISY)
    return Symptom(
        cosine,
        NOISY,
        f"mean gradients of {e.draws} draws have cosine {cosine:.2f} with each other.",
        where(e.cosine < NOISY),
    )


@dataclass(frozen=True)
class Saturation:
    """slope: (n,) largest entry of the gradient of cross-entropy; margin: (n,) in logits."""

    slope: Array
    margin: Array


def saturated_loss(e: Saturation) -> Symptom | Fine | None:
    """Is cross-entropy flat where the classifier is merely sure of itself?

    Figure: the share of examples whose gradient of cross-entropy has no entry above 1e-8 though the
    margin is finite. Threshold: the lower limit of its 95 % interval is above 2 %. Of digits with
    a larger slope cross-entropy loses as few as the margin, however their logits are scaled.
    """
    flat = (e.slope < FLAT) & np.isfinite(e.margin)
    if share_interval(flat.astype(float)).low <= FLAT_SHARE:
        return Fine(flat.mean(), FLAT_SHARE)
    return Symptom(
        flat.mean(),
        FLAT_SHARE,
        f"cross-entropy is flat on {percent(flat.mean())} of the examples.",
        where(flat),
    )


@dataclass(frozen=True)
class Ranks:
    """rank: (n, T) of the label among the logits at T points of each example, 0 for the largest."""

    rank: Array


def dlr_plateau(e: Ranks) -> Symptom | Fine | None:
    """Does the label rank third, where the printed difference of logits ratio is stuck at 1?

    Figure: the share of readings on which two logits are above the label's. Threshold: the lower
    limit of its 95 % interval by examples is above 2 %. Only `dlr:published=true` has the plateau.
    """
    third = (np.asarray(e.rank) == 2).mean(1)
    share = float(third.mean())
    if share_interval(third).low <= THIRD:
        return Fine(share, THIRD)
    return Symptom(share, THIRD, f"the label ranks third on {percent(share)} of the readings.")


@dataclass(frozen=True)
class Lead:
    """Steps along a surrogate's gradient, by size; see `study.adaptive.descent`.

    share: of the examples on which the step gains more true loss than a random one; low, high: its
    95 % limits; gain: mean relative gain; rival: that of the best other surrogate, if any.
    """

    surrogate: str
    share: tuple[float, ...]
    low: tuple[float, ...]
    gain: tuple[float, ...]
    rival: str = ""
    rival_gain: float = float("nan")


def misleading_surrogate(e: Lead) -> Symptom | Fine | None:
    """Does one step along the surrogate's mean gradient raise the true loss more than luck?

    Figure: the share of examples on which it gains more than a random direction does, forward only
    and on fresh draws, at the best of the sizes. Threshold: the lower limit of its 95 % interval,
    mean over the sizes (the best of several would be luck), is not above one half.
    """
    best = int(np.argmax(e.low))
    if np.mean(e.low) > LUCK:
        return Fine(e.share[best], LUCK)
    other = f" {e.rival} gains {e.rival_gain:+.2f}." if e.rival else ""
    instead = e.rival or "another surrogate (moved, trained), or by scores"
    return Symptom(
        e.share[best],
        LUCK,
        f"a step along {e.surrogate} beats a random one on {percent(e.share[best])} of the "
        f"examples (relative gain {e.gain[best]:+.2f}).{other}",
        next=f"See the link through {instead}.",
    )


@dataclass(frozen=True)
class Displacement:
    """Where the forward change lies from the surrogate's.

    shift: (x, y) whole pixels of the peak of their cross-correlation, of the mean over examples;
    peak, still: its values there and without displacement, of unit changes. own: (n, 3) of each
    example by itself: pixels from zero to its peak, and both values. entries: of one change, which
    say how high an unrelated change would peak.
    """

    surrogate: str
    shift: tuple[int, int]
    peak: float
    still: float
    own: Array | None = None
    entries: int = 0


def shifted_surrogate(e: Displacement) -> Symptom | Fine | None:
    """Does the surrogate put the change where the link puts it?

    Figure: pixels between the peak of the cross-correlation of the forward change with the
    surrogate's and zero: of the mean over examples, or, where each is moved by a draw of its own so
    that the mean has no peak, the median of the examples' own. Threshold: one pixel, where the peak
    is half as high again as the value at zero and at least 0.3 (a mirrored or unrelated change has
    a peak too: 0.13 was seen); of one example at least 5 / sqrt(entries) too, and of most examples.
    """
    if _clear(e.peak, e.still, CLEAR) and np.hypot(*e.shift) >= MOVED:
        right, down = e.shift
        return Symptom(
            float(np.hypot(right, down)),
            MOVED,
            f"{e.surrogate} is displaced by ({right}, {down}) px: correlation {e.peak:.2f} there, "
            f"{e.still:.2f} at zero.",
        )
    if e.own is None or len(e.own) == 0:
        return Fine(0.0, MOVED)
    distance, peak, still = e.own.T
    clear = _clear(peak, still, max(CLEAR, UNRELATED / np.sqrt(max(e.entries, 1))))
    away = np.where(clear, distance, 0.0)
    median = float(np.median(away))
    if median < MOVED:
        return Fine(median, MOVED)
    return Symptom(
        median,
        MOVED,
        f"{e.surrogate} is displaced, otherwise for each example: by {median:.1f} px in the "
        f"median, {float(away.max()):.1f} at most (correlation {float(np.median(peak)):.2f} there, "
        f"{float(np.median(still)):.2f} at zero).",
        where(away >= MOVED),
    )


def _clear(peak: Any, still: Any, least: float) -> Any:
    return (peak >= least) & (peak >= 1.5 * still)


@dataclass(frozen=True)
class Outputs:
    """rows: (n, K) what the model returns."""

    rows: Array


def probabilities(e: Outputs) -> Symptom | Fine | None:
    """Are the outputs probabilities where logits are expected?

    Figure: the share of rows in [0, 1] that sum to 1 within 1e-3. Threshold: all of them. A second
    softmax makes every gradient vanish; `besiege.from_callable` takes the logarithm.
    """
    finite = e.rows[np.isfinite(e.rows).all(1)]
    if len(finite) == 0 or finite.shape[1] < 2:
        return None
    inside = ((finite >= 0) & (finite <= 1)).all(1) & (np.abs(finite.sum(1) - 1) < 1e-3)
    if not inside.all():
        return Fine(inside.mean(), 1)
    return Symptom(
        1.0, 1.0, f"all {len(finite)} rows of the output are in [0, 1] and sum to 1.", level=NOTE
    )


@dataclass(frozen=True)
class Modes:
    """training: modules in training mode; moved: buffers that a forward pass changed; called:
    functions that were called with training=True, as no mode can switch off."""

    training: tuple[str, ...]
    moved: tuple[str, ...] = ()
    called: tuple[str, ...] = ()


def training_mode(e: Modes) -> Symptom | Fine | None:
    """Is a module in training mode, or do its statistics move while it answers?

    Figure: how many modules, buffers, and functions such as `functional.dropout` that are called
    with training=True. Threshold: none.
    """
    bad = (*e.training, *e.moved, *e.called)
    if not bad:
        return Fine(0, 0)
    told = [
        f"in training mode: {', '.join(e.training[:3])}" if e.training else "",
        f"moved by a forward pass: {', '.join(e.moved[:3])}" if e.moved else "",
        f"called with training=True: {', '.join(e.called)}" if e.called else "",
    ]
    wanted = (
        "Take training=self.training. If it is the defense: it is judged as random, one image at a "
        "time."
    )
    return Symptom(
        len(bad),
        0,
        f"{'; '.join(filter(None, told))}.",
        next="" if e.training or e.moved else wanted,
    )
