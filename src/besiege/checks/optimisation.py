"""Checks 11 to 21: did the attack do what an attack can?"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np
from scipy.stats import binom

from besiege.checks.finding import Array, Fine, Symptom, percent, points, where
from besiege.checks.pair import Pair, Survivors
from besiege.core.comparisons import paired
from besiege.core.stats import share_interval, wilson

WINDOW, RISE, RISING = 10, 0.05, 0.1  # last steps, share of the range, share of the examples
FALLING = 0.02  # of the examples, to the last search of a union
LUCK = 0.01  # probability of a success by chance alone that is taken for one
RESTARTS = 0.01
RISE_AT = 0.02  # of accuracy, at a larger radius
TARGETED = 0.03
ELSEWHERE = 0.5


@dataclass(frozen=True)
class Curves:
    """loss: (n, T) the attacker's, of one restart, which it ascends; standing: (n,) not broken."""

    loss: Array
    standing: Array
    ids: Array | None = None


def not_converged(e: Curves | Survivors) -> Symptom | Fine | None:
    """Does the attacker's loss still rise when the search ends?

    Figure: the share of all examples that stand and whose loss rises by more than 5 % of its range
    from the first to the second half of the last 10 steps (of the latter half, if that is less), by
    their medians and by more than twice the noise of consecutive steps. Threshold: 10 %. One-step
    attacks are not asked. Of a union: the share of all examples that its last search broke.
    Threshold: the lower limit of its 95 % interval is above 2 %.
    """
    if isinstance(e, Survivors):
        return e.symptom(
            FALLING,
            lambda gain: f"{e.names[1]}, the last search of the union, still breaks {gain}.",
            "Give the union more passes (ten times), until its last search breaks nothing.",
        )
    steps = e.loss.shape[1]
    if steps < 2 or len(e.loss) == 0:
        return None
    tail = e.loss[:, -min(WINDOW, max(2, steps // 2)) :]
    half = tail.shape[1] // 2
    rise = np.median(tail[:, -half:], 1) - np.median(tail[:, :half], 1)
    noise = np.abs(np.diff(tail, 2, axis=1)).mean(1) / np.sqrt(6) if tail.shape[1] > 2 else 0.0
    reach = e.loss.max(1) - e.loss.min(1)
    still = (rise > RISE * reach) & (rise > 2 * noise / np.sqrt(half)) & (reach > 0) & e.standing
    if still.mean() <= RISING:
        return Fine(still.mean(), RISING)
    return Symptom(
        still.mean(),
        RISING,
        f"the loss still rises on {percent(still.mean())} of the examples, all of which stand.",
        where(still, e.ids),
    )


@dataclass(frozen=True)
class Iterates:
    """What an attack passed by, and what it handed over.

    won: (n, S) share of draws won at each of S points; draws: of each share. final: (n,) share won
    by the point handed over, on `final_draws`.
    """

    won: Array
    draws: int
    final: Array
    final_draws: int
    ids: Array | None = None


def lost_success(e: Iterates) -> Symptom | Fine | None:
    """Was some iterate adversarial, and the point handed over is not?

    Figure: the share of examples with an iterate that won on all its draws, and a final point that
    did not win. For a random defense an iterate counts only if so many draws won at a point as good
    as the final one (upper limit of its interval), at any of the S points, have a probability below
    1 %. Threshold: none. (Curves hold iterates of the search, which always keeps its best.)
    """
    n, steps = e.won.shape
    if steps == 0:
        return None
    best = e.won.max(1)
    if e.draws == 1 and e.final_draws == 1:
        lost = (best >= 1) & (e.final <= 0)
    else:
        upper = np.array([wilson(f * e.final_draws, e.final_draws).high for f in e.final])
        hits = np.rint(best * e.draws)
        lost = (steps * binom.sf(hits - 1, e.draws, upper) < LUCK) & (best >= 1)
    if not lost.any():
        return Fine(0, 0)
    return Symptom(
        lost.mean(),
        0,
        f"{int(lost.sum())} of {n} examples were adversarial at some step and are not in the end.",
        where(lost, e.ids),
    )


@dataclass(frozen=True)
class Unbounded:
    """right: (n,) share of draws right after an attack without a bound; classes: K."""

    right: Array
    classes: int


def unbounded_fails(e: Unbounded) -> Symptom | Fine | None:
    """Does an attack fail that may make any image?

    Figure: the share of examples that are right on more than half of the draws at eps = 1 (linf) or
    in the whole cube. Threshold: none. A defense that answers at random is as hard there as
    anywhere: check 28 tells it.
    """
    left = e.right > 0.5
    if not left.any():
        return Fine(0, 0)
    return Symptom(
        left.mean(),
        0,
        f"{percent(left.mean())} of the examples stand though the attack may make any image.",
        where(left),
    )


@dataclass(frozen=True)
class Radii:
    """eps: (m,) rising; right: (m, n) share right of the same examples under the same attack."""

    eps: Array
    right: Array
    classes: int = 0


def accuracy_rises(e: Radii) -> Symptom | Fine | None:
    """Does robust accuracy rise with eps?

    Figure: the largest mean difference of the same examples between a radius and a smaller one.
    Threshold: its interval is above 0 and the rise above 2 points; of m pairs of radii with a
    confidence of 1 - 5 % / m, since one of many rises by luck. Whether accuracy falls to chance is
    check 13.
    """
    pairs = list(combinations(range(len(e.eps)), 2))
    sure = 1 - 0.05 / max(1, len(pairs))
    found = [(paired(e.right[j], e.right[i], sure), i, j) for i, j in pairs]
    bad = [(g, i, j) for g, i, j in found if g.low > 0 and g.estimate > RISE_AT]
    if not found:
        return None
    if not bad:
        return Fine(max(g.estimate for g, _, _ in found), RISE_AT)
    gain, i, j = max(bad)
    return Symptom(
        gain.estimate,
        RISE_AT,
        f"accuracy rises by {points(gain.estimate)} from eps {e.eps[i]:.4g} to {e.eps[j]:.4g}.",
        where(e.right[j] > e.right[i]),
    )


def more_steps_help(e: Pair) -> Symptom | Fine | None:
    """Do more steps (ten times as many, say) break more examples?

    Figure: accuracy with the fewer steps minus that with the more, of the same examples. Threshold:
    the 95 % interval is above 0.
    """
    gain = paired(e.first, e.second)
    if gain.low <= 0:
        return Fine(gain.estimate, 0)
    return Symptom(
        gain.estimate,
        0,
        f"{e.factor:.3g} times the steps of {e.names[0]} lower accuracy by "
        f"{points(gain.estimate)}.",
        where(e.first > e.second),
        next=f"Report {e.names[1]}, and raise the steps until nothing changes.",
    )


def more_restarts_help(e: Pair | Survivors) -> Symptom | Fine | None:
    """Do more restarts break more examples?

    Figure: accuracy with fewer restarts minus that with more. Threshold: 1 point, and beyond the
    interval where the defense is random. Of a union: the share of all examples that a search with
    more restarts broke, after others that saw the defense alike had made as many steps.
    """
    return e.symptom(
        RESTARTS,
        lambda gain: f"{e.factor:.3g} times the restarts lower accuracy by {gain}.",
        f"Report {e.names[1]}, with more restarts on the survivors.",
    )


@dataclass(frozen=True)
class Sweep:
    """size: (m,) rising step sizes; right: (m, n) share right under each."""

    size: Array
    right: Array


def step_at_the_edge(e: Sweep) -> Symptom | Fine | None:
    """Is the best step size the smallest or largest of those tried?

    Figure: accuracy at the neighbour of the edge minus that at the edge. Threshold: the 95 %
    interval is above 0, of at least three sizes (five are better).
    """
    means = e.right.mean(1)
    if len(means) < 3:
        return None
    best = int(np.argmin(means))
    if best not in (0, len(means) - 1):
        return Fine(0, 0)
    inner = 1 if best == 0 else len(means) - 2
    gain = paired(e.right[inner], e.right[best])
    if gain.low <= 0:
        return Fine(gain.estimate, 0)
    side = "smallest" if best == 0 else "largest"
    return Symptom(
        gain.estimate,
        0,
        f"the {side} step size {e.size[best]:.3g} is the best, by {points(gain.estimate)}.",
        next=f"Try {'smaller' if best == 0 else 'larger'} steps.",
    )


@dataclass(frozen=True)
class Duel:
    """Losses (larger is better for the attacker) of the attack's and of a random point, (n,)."""

    attack: Array
    noise: Array


def no_better_than_noise(e: Duel) -> Symptom | Fine | None:
    """Is the attack better than random signs on the edge of the ball?

    Figure: the share of examples on which the attack's point has a larger true margin loss than the
    random one (equal counts half). Threshold: the lower limit of its 95 % interval is not above one
    half. Where noise alone leaves nothing standing, nothing is asked.
    """
    if (e.noise > 0).all():
        return None
    wins = (e.attack > e.noise) + 0.5 * (e.attack == e.noise)
    share = share_interval(np.asarray(wins, float))
    if share.low > 0.5:
        return Fine(share.estimate, 0.5)
    return Symptom(
        share.estimate,
        0.5,
        f"the attack beats random noise of the same size on {percent(share.estimate)} only.",
        where(np.asarray(wins) < 1),
    )


def one_step_beats_many(e: Pair) -> Symptom | Fine | None:
    """Does one step (first) leave less than many (second)?

    Figure: accuracy after many steps minus that after one. Threshold: the 95 % interval is above 0.
    """
    gain = paired(e.second, e.first)
    if gain.low <= 0:
        return Fine(gain.estimate, 0)
    return Symptom(
        gain.estimate,
        0,
        f"{e.names[0]} leaves {points(gain.estimate)} less than {e.names[1]} with its many steps.",
        where(e.second > e.first),
    )


def another_goal_is_better(e: Pair | Survivors) -> Symptom | Fine | None:
    """Does the targeted attack beat the untargeted one, or one loss the others?

    Figure: accuracy under the first minus that under the second, of the same examples; accuracy
    under a targeted attack counts any wrong answer. Threshold: 3 points, and beyond the interval
    where the defense is random. Of a union: the share that a search by another loss broke, after
    one that saw the defense alike had made as many steps.
    """
    return e.symptom(
        TARGETED,
        lambda gain: f"{e.names[1]} lowers accuracy by {gain} below {e.names[0]}.",
    )


@dataclass(frozen=True)
class Asked:
    """Distances, (n, T) in one norm, over the steps of a search.

    off: from the current point to the nearest point at which that step asked for a gradient; gone:
    from the clean image to the current point.
    """

    off: Array
    gone: Array


def gradient_elsewhere(e: Asked) -> Symptom | Fine | None:
    """Is the gradient taken at the current point?

    Figure: of the steps whose current point has left the clean image, the share whose nearest
    gradient was asked more than half as far away as the point has gone. Threshold: one half.
    Momentum that looks ahead, and copies of the image, stay far below.
    """
    left = e.gone > 1e-6
    if not left.any():
        return None
    share = float((e.off > 0.5 * e.gone)[left].mean())
    if share <= ELSEWHERE:
        return Fine(share, ELSEWHERE)
    return Symptom(
        share,
        ELSEWHERE,
        f"{percent(share)} of the steps take their gradient elsewhere than at the current point.",
    )
