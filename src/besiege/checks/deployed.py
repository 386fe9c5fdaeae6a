"""What is deployed beside what was meant: a model's preparation (37), and a link's codec (46)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import t as student

from besiege.checks.finding import Array, Fine, Symptom, percent, where
from besiege.core.stats import share_interval

CHANGED = 0.02  # share of answers that images on a border explain
MISSED = 0.05  # chance that any preparation looks better by luck


@dataclass(frozen=True)
class Preparations:
    """A model asked of the same images, prepared in several ways; the first is as they are.

    right: (ways, n) bool. margin: (ways, n) the label's logit minus the largest other, in standard
    deviations of the logits, so that no way wins by making the model surer of everything.
    """

    ways: tuple[str, ...]
    right: Array
    margin: Array


def prepared(e: Preparations) -> Symptom | Fine | None:
    """What other preparation the model is better with."""
    ways, n = len(e.ways) - 1, e.right.shape[1]
    if ways == 0 or n < 2:
        return None
    gained = e.right[1:].sum(1) - e.right[0].sum()
    more = e.margin[1:] - e.margin[0]
    spread = more.std(1, ddof=1) / np.sqrt(n)
    sure = more.mean(1) > student.ppf(1 - MISSED / ways, n - 1) * spread
    real = np.where(sure & (gained > 0), gained, 0)
    best = int(np.argmax(real + 1e-3 * more.mean(1)))
    if real[best] <= 0:
        return Fine(0, 0)
    share = [percent(float(v.mean())) for v in (e.right[0], e.right[best + 1])]
    return Symptom(
        int(real[best]),
        0,
        f"the model gets {share[1]} of the images right if they are {e.ways[best + 1]} first, and "
        f"{share[0]} as they are.",
        where(e.right[best + 1] & ~e.right[0]),
        next="Its preparation is missing, there twice or another: mend the Classifier's mean and "
        "std, or the network's own.",
    )


@dataclass(frozen=True)
class Codec:
    """A link that compresses, beside the installed codec in each of its ways.

    version: of the codec. ways: subsampling and rounding; own: which of them the link says of
    itself. levels: (ways,) largest difference of its output from the codec's, in grey levels.
    labels: (n, 1 + ways) answers with the link as it is, and in each way.
    """

    version: str
    ways: tuple[str, ...]
    own: int
    levels: Array
    labels: Array


def coded(e: Codec) -> Symptom | Fine:
    """Whether it is the installed codec, and what answers the others give."""
    off, nearest = float(e.levels[e.own]), int(np.argmin(e.levels))
    if off > 0:
        exact = e.levels[nearest] == 0
        like = f"; it is exactly {e.ways[nearest]}" if exact else ""
        return Symptom(
            off,
            0,
            f"its output is up to {off:.0f} grey levels from what the installed codec "
            f"({e.version}) makes by {e.ways[e.own]}{like}.",
            next="Judge with the codec that is deployed, and keep its version.",
        )
    differ = e.labels[:, 1:] != e.labels[:, :1]
    share = differ.any(1)
    if share_interval(share.astype(float)).low <= CHANGED:
        return Fine(share.mean(), CHANGED)
    most = int(np.argmax(differ.mean(0)))
    return Symptom(
        share.mean(),
        CHANGED,
        f"{percent(share.mean())} of the answers depend on the codec's subsampling or rounding "
        f"(judged is {e.ways[e.own]} of {e.version}; with {e.ways[most]} "
        f"{percent(float(differ[:, most].mean()))} change).",
        where(share),
    )
