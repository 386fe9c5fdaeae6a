"""Certification by randomized smoothing: what no attack within a radius can change.

Of what is deployed, or not at all: a defense that is not the smoothed classifier of the theorem is
refused, with what to change.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import binom
from torch import Tensor

from besiege.core.batch import l2, row_sum
from besiege.core.errors import BadSetting
from besiege.core.key import Key
from besiege.core.smoothing import (
    LAWS,
    Channel,
    CurvePoint,
    Floats,
    certified_curve,
    lower_bound,
    quorum_for,
    refuting,
    samples_for,
    sure_share,
)
from besiege.defenses.defense import ABSTAIN, Defense, Deployed, Majority, One
from besiege.defenses.transform import Chain, Named, Transform
from besiege.models.drawing import taken_over
from besiege.study.judge import answers
from besiege.study.progress import Event

BLOCK = 500  # samples of each image that are drawn together; part of what is drawn
SIZES: dict[str, Callable[[Tensor], Tensor]] = {"l1": lambda d: row_sum(d.abs()), "l2": l2}
Labels = NDArray[np.int64]


@dataclass(frozen=True)
class Certificates:
    """What is certain of each of n images, but for a chance of alpha each.

    answer: (n,) the smoothed classifier's, ABSTAIN where the samples do not tell.
    low: (n,) bound below on the chance of that answer under one draw.
    radius: (n,) within it the deployed vote gives this answer or abstains.
    answering: (n,) within it the vote gives this answer; smaller, as a vote of few draws abstains
        where its quorum is not sure. In either an alpha of a vote's answers may differ.
    """

    channel: Channel
    answer: Labels
    low: Floats
    radius: Floats
    answering: Floats
    samples: int
    alpha: float

    def curve(self, label: Tensor, radius: float | None = None) -> tuple[CurvePoint, ...]:
        """Certified accuracy at nine radii from 0 to the largest, and at `radius`.

        label: (n,) the true ones.
        """
        y = label.cpu().numpy()
        most = float(np.max(self.radius, initial=0.0, where=self.answer == y))
        radii = {*np.linspace(0, most, 9).tolist(), *([] if radius is None else [radius])}
        answered = self.answer != ABSTAIN
        return certified_curve(self.answer == y, answered, self.radius, sorted(radii))

    def sentence(self, label: Tensor) -> str:
        """What was certified, in a line."""
        right = self.answer == label.cpu().numpy()
        none = int(np.sum(self.answer == ABSTAIN))
        some = bool(right.any())
        most, sure = (np.median(r[right]) if some else 0 for r in (self.radius, self.answering))
        return (
            f"{int(right.sum())} of {len(right)} right, {none} without an answer. Of those right, "
            f"half have an {self.channel.norm} radius of {most:.4g} or more, within which the vote "
            f"gives this answer or abstains, and half of {sure:.4g} or more, within which it gives "
            f"it. {self.samples:,} samples an image; a certificate is wrong with a chance of "
            f"{self.alpha:g} at most."
        )

    def violated(self, x0: Tensor, x: Tensor, found: Tensor) -> Tensor:
        """Rows that refute their certificate: x (n, C, H, W) within the radius of x0, but answered
        otherwise (found (n,), of `predict`; abstentions refute nothing). Such a row means that
        something is broken (check 44, which asks the rows of a run), or one chance in
        1 / (2 alpha).
        """
        size = SIZES[self.channel.norm]((x - x0).double()).cpu().numpy()
        wrong = refuting(size, self.radius, self.answer, found[:, None].cpu().numpy())
        return torch.from_numpy(np.flatnonzero(wrong[:, 0]))


def certify(
    defense: Deployed,
    x: Tensor,
    key: Key,
    *,
    samples: int = 1000,
    select: int = 100,
    alpha: float = 0.001,
    radius: float | None = None,
    micro_batch: int = 128,
    on_event: Callable[[Event], None] | None = None,
) -> Certificates:
    """Radii that no change of an image within them can alter its answer, by CERTIFY.

    x: (B, C, H, W) in [0, 1]; key: the examples' root.
    defense: `Majority` over draws of noise that its first link adds, see `channel_of`. What follows
    that noise (a cut to [0, 1], other links, random or not) is part of the classifier that is
    smoothed: theorems ask nothing of it.
    samples, select: draws to bound the chance of an answer, and others before to choose the answer.
    radius: one that shall be certifiable; refused, with the samples needed, where it is not.
    Raises BadSetting for what cannot be certified. Cost: samples + select forwards an image.
    Source: Cohen et al. 2019 (arXiv:1902.02918), section 3.2.2; the bound is Clopper and Pearson's.

    >>> from besiege.defenses.noise import Noise
    >>> from besiege.laws.problems import linear_classifier
    >>> vote = Majority(draws=100, quorum=0.655)
    >>> smooth = Defense(Chain((Noise(scale=0.1),)), linear_classifier(), vote)
    >>> x = torch.full((1, 1, 4, 4), 0.5)
    >>> found = certify(smooth, x, Key.root(0, [0]), samples=200, select=20)
    >>> bool(found.answer[0] == linear_classifier()(x).argmax()), round(float(found.radius[0]), 3)
    (True, 0.183)
    """
    channel, base, sure = _certifiable(defense, alpha)
    _enough(channel, samples, select, alpha, radius)
    base = replace(base, classifier=taken_over(base.classifier, x))
    began, total = time.monotonic(), samples + select

    def told(done: int) -> None:
        if on_event:
            title = f"{defense.name}: samples of {len(x)} images"
            on_event(Event("", title, done, total, time.monotonic() - began))

    told(0)
    key = key.fold("certify")
    first = _counts(base, x, key.fold("select"), select, micro_batch, told)
    chosen = first[:, 1:].argmax(1)
    counts = _counts(
        base, x, key.fold("bound"), samples, micro_batch, lambda done: told(select + done)
    )
    low = lower_bound(counts[np.arange(len(x)), chosen + 1], samples, alpha)
    answered = low > 0.5
    return Certificates(
        channel=channel,
        answer=np.where(answered, chosen, ABSTAIN),
        low=low,
        radius=np.where(answered, channel.radius(low), 0.0),
        answering=np.where(answered, channel.radius(low, sure), 0.0),
        samples=samples,
        alpha=alpha,
    )


def predict(
    defense: Deployed,
    x: Tensor,
    key: Key,
    *,
    samples: int = 1000,
    alpha: float = 0.001,
    micro_batch: int = 128,
) -> Tensor:
    """Answers of the smoothed classifier by PREDICT, (B,) int64, each wrong with chance alpha.

    ABSTAIN where the two most frequent of `samples` answers may be equally frequent (a binomial
    test). Source: Cohen et al. 2019, section 3.2.1. Cost: `samples` forwards an image.
    """
    _, base, _ = _certifiable(defense, alpha)
    base = replace(base, classifier=taken_over(base.classifier, x))
    counts = _counts(base, x, key.fold("predict"), samples, micro_batch)
    two = np.sort(counts, axis=1)[:, -2:]
    p = 2 * binom.sf(two[:, 1] - 1, two.sum(1), 0.5)
    return torch.from_numpy(np.where(p <= alpha, counts.argmax(1) - 1, ABSTAIN)).to(x.device)


def channel_of(defense: Deployed) -> Channel:
    """The noise of a defense's first link, which says of itself by an attribute `smoothing`.

    That is (kind, width): its forward adds independent noise of that law to every value, and what
    else it does looks at the sum alone. Raises BadSetting where there is none, or it comes later.
    """
    if len(defense.parts) > 1:
        raise BadSetting(
            "an ensemble cannot be certified: its members draw noise of their own, and no theorem "
            "here is about their mean. Certify a member."
        )
    links = _flat(defense.parts[0].chain)
    noise = [_smoothing(link) for link in links]
    first = next(iter(noise), None)
    if first is not None:
        return Channel(*first)
    kinds = ", ".join(LAWS)
    if not any(noise):
        raise BadSetting(
            f'nothing can be certified of the chain "{defense.name}": no link of it adds {kinds} '
            'noise to the image. Begin it with one, as in "noise:kind=gaussian,scale=0.25".'
        )
    raise BadSetting(
        f'nothing can be certified of the chain "{defense.name}": {links[0].name} changes the '
        "image before the noise is added, and a small change may be a large one behind it. Put the "
        "noise first: whatever follows it is part of the classifier that is smoothed."
    )


def _certifiable(defense: Deployed, alpha: float) -> tuple[Channel, Defense, float]:
    """The noise, the defense of one draw, and the chance with which its vote is sure to answer."""
    if not 0 < alpha < 0.5:
        raise BadSetting(
            f"alpha, the chance of a wrong certificate, lies in (0, 0.5): got {alpha}."
        )
    channel = channel_of(defense)
    (part,) = defense.parts
    vote = part.vote
    if not isinstance(vote, Majority) or vote.groups > 1:
        raise BadSetting(
            f"what is deployed answers by {part.counting}, and the theorem is about the most "
            f"frequent answer of all draws: deploy {_advice(100, alpha)}, or draws=N of your own."
        )
    need = quorum_for(vote.draws, alpha)
    count = _count(vote)
    if count < need:
        raise BadSetting(
            f"a vote of {vote.draws} draws that answers once {count} of them agree gives another "
            f"answer than the smoothed classifier with a chance above alpha = {alpha:g}, where the "
            f"image is near its border: {need} must agree, and else it abstains. Deploy "
            f"{_advice(vote.draws, alpha)}."
        )
    return channel, replace(part, vote=One()), sure_share(vote.draws, count, alpha)


def _count(vote: Majority) -> int:
    """How many draws must agree: compared as the vote compares."""
    agreed = torch.arange(vote.draws + 1) > vote.quorum * vote.draws
    return int(agreed.nonzero()[0, 0])


def _advice(draws: int, alpha: float) -> str:
    """A vote that can be certified, as it is written."""
    return f'"majority:draws={draws},quorum={(quorum_for(draws, alpha) - 0.5) / draws:.4g}"'


def _enough(
    channel: Channel, samples: int, select: int, alpha: float, radius: float | None
) -> None:
    """Refuse numbers of samples that could certify nothing."""
    if select < 1:
        raise BadSetting(f"select, the samples that choose an answer, is at least 1: got {select}.")
    need = samples_for(channel, radius or 0.0, alpha)
    if samples < need:
        what = f"the radius {radius:g}" if radius else "any radius"
        raise BadSetting(
            f"{samples} samples at alpha = {alpha:g} cannot certify {what}, even if all agree: at "
            f"least {need:,} are needed."
        )


def _counts(
    base: Defense,
    x: Tensor,
    key: Key,
    samples: int,
    micro_batch: int,
    told: Callable[[int], None] = lambda done: None,
) -> Labels:
    """How often a sample has no answer, and each class, (B, 1 + K)."""
    classes = base.classifier.num_classes
    counts = torch.zeros(len(x), 1 + classes, dtype=torch.int64, device=x.device)
    for block, start in enumerate(range(0, samples, BLOCK)):
        size = min(BLOCK, samples - start)
        found = answers(base, x, key.fold("block", block), size, micro_batch)
        counts.scatter_add_(1, found - ABSTAIN, torch.ones_like(found))
        told(start + size)
    return counts.cpu().numpy()


def _flat(chain: Chain) -> list[Transform]:
    """Its links, those of chains within it too, and what names hide."""
    found: list[Transform] = []
    for link in chain.links:
        while isinstance(link, Named):
            link = link.link
        found += _flat(link) if isinstance(link, Chain) else [link]
    return found


def _smoothing(link: Transform) -> tuple[str, float] | None:
    return getattr(link, "smoothing", None)
