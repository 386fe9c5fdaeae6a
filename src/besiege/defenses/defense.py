"""What is deployed: a chain of transforms, a classifier, and a vote over draws."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

import torch
from torch import Tensor

from besiege.core.entry import Catalog, Entry
from besiege.core.errors import BadSetting, unknown
from besiege.core.key import Key
from besiege.core.passes import passing
from besiege.defenses.transform import Chain, Frozen, Graft, Shape, Transform
from besiege.models.classifier import Classifier
from besiege.models.stages import frozen

ABSTAIN = -1  # the label of an example on which the defense gives no answer
STAGES = "classifier"  # how a view names the random stages inside the network


class Vote(Protocol):
    """How the logits of n draws become one answer."""

    @property
    def n(self) -> int:
        """Draws that one answer takes."""
        ...

    def scores(self, logits: Tensor) -> Tensor:
        """(B, n, K) logits -> (B, K) differentiable scores, as an attacker follows them."""
        ...

    def labels(self, logits: Tensor) -> Tensor:
        """(B, n, K) logits -> (B,) int64 labels, ABSTAIN where there is no answer."""
        ...


@dataclass(frozen=True)
class One(Vote):
    """One draw, one answer: what is deployed unless something else is said."""

    @property
    def n(self) -> int:
        """One."""
        return 1

    def scores(self, logits: Tensor) -> Tensor:
        """The logits themselves."""
        return logits[:, 0]

    def labels(self, logits: Tensor) -> Tensor:
        """The largest logit; ABSTAIN where a logit is not finite."""
        return _argmax(logits[:, 0])


@dataclass(frozen=True)
class Mean(Vote):
    """The mean over `draws` draws of probabilities, or of logits.

    Guo et al. 2018, section 4 (the released code averages logits).
    """

    draws: int = 10
    of: str = "probabilities"

    def __post_init__(self) -> None:
        _at_least_one(self.draws)
        if self.of not in ("probabilities", "logits"):
            raise unknown("average", self.of, ["probabilities", "logits"], where="vote mean")

    @property
    def n(self) -> int:
        """`draws`."""
        return self.draws

    def scores(self, logits: Tensor) -> Tensor:
        """Mean logits, or the logarithm of the mean probabilities."""
        if self.of == "logits":
            return logits.mean(1)
        return logits.log_softmax(-1).logsumexp(1) - math.log(logits.shape[1])

    def labels(self, logits: Tensor) -> Tensor:
        """The largest mean; ABSTAIN where one is not finite."""
        return _argmax(self.scores(logits))


@dataclass(frozen=True)
class Majority(Vote):
    """The most frequent label of `draws` draws, if more than `quorum` of them agree.

    Cohen et al. 2019 (arXiv:1902.02918), algorithm PREDICT; the papers' own votes have quorum 0.
    Ties go to the lowest label. Attackers follow the mean probabilities.
    """

    draws: int = 16
    quorum: float = 0.0

    def __post_init__(self) -> None:
        _at_least_one(self.draws)
        if not 0 <= self.quorum < 1:
            raise BadSetting(
                f"vote majority: quorum is a share of the draws in [0, 1), got {self.quorum}."
            )

    @property
    def n(self) -> int:
        """`draws`."""
        return self.draws

    def scores(self, logits: Tensor) -> Tensor:
        """The logarithm of the mean probabilities."""
        return Mean(self.draws).scores(logits)

    def labels(self, logits: Tensor) -> Tensor:
        """The most frequent label, ABSTAIN without a quorum; a draw with no answer is no vote."""
        each = _argmax(logits)
        counts = torch.stack([(each == k).sum(1) for k in range(logits.shape[-1])], 1)
        most, label = counts.max(1)
        return torch.where(most > self.quorum * each.shape[1], label, ABSTAIN)


VOTES: Catalog[Vote] = Catalog(
    "vote",
    [
        Entry("one", One, "house"),
        Entry("mean", Mean, "Guo et al. 2018 (arXiv:1711.00117), section 4"),
        Entry("majority", Majority, "Cohen et al. 2019 (arXiv:1902.02918), PREDICT"),
    ],
)


def _at_least_one(draws: int) -> None:
    if draws < 1:
        raise BadSetting(f"a vote takes at least one draw, got draws={draws}.")


def _argmax(scores: Tensor) -> Tensor:
    finite = scores.isfinite().all(-1)
    return torch.where(finite, scores.argmax(-1), ABSTAIN)


@dataclass(frozen=True)
class Defense:
    """`vote` over draws of `classifier` behind `chain`, whose links may look at the classifier.

    Cost: `passes` forwards an answer.

    >>> from besiege.laws.problems import linear_classifier
    >>> Defense(Chain(), linear_classifier()).passes
    1
    """

    chain: Chain
    classifier: Classifier
    vote: Vote = field(default_factory=One)

    def __post_init__(self) -> None:
        object.__setattr__(self, "chain", self.chain.beside(self.classifier))

    def is_random(self, shape: Shape) -> bool:
        """Whether two answers to the same image can differ."""
        return self.classifier.draws or self.chain.draw(Key.root(0, [0]), shape) is not None

    @property
    def passes(self) -> int:
        """Forward passes of the classifier for one answer."""
        return self.vote.n

    def each(self, x: Tensor, key: Key) -> Tensor:
        """Logits of every draw of one vote: x (B, C, H, W) in [0, 1] -> (B, n, K)."""
        shape = (x.shape[1], x.shape[2], x.shape[3])
        votes = []
        for i in range(self.vote.n):  # one after another: memory stays that of one pass
            own = key.fold("vote", i)
            seen = self.chain.forward(x, self.chain.draw(own, shape))
            with passing(own.fold(STAGES, "stages")):
                votes.append(self.classifier(seen))
        return torch.stack(votes, 1)

    def logits(self, x: Tensor, key: Key) -> Tensor:
        """Differentiable scores: x (B, C, H, W) in [0, 1] -> (B, K)."""
        return self.vote.scores(self.each(x, key))

    def labels(self, x: Tensor, key: Key) -> Tensor:
        """Answers: x (B, C, H, W) in [0, 1] -> (B,) int64, ABSTAIN where there is none."""
        with torch.no_grad():
            return self.vote.labels(self.each(x, key))

    def seen_through(self, view: Mapping[str, str]) -> Defense:
        """What an attacker builds of this defense. Call it in `study.recipe` only.

        view: link name -> a surrogate's name, "as-is", "skip", "frozen" or "frozen:SURROGATE";
        links that it does not name are seen as they are. STAGES stands for the random stages of
        the classifier, where it has some: "frozen" or "as-is".
        Raises UnknownName for a link that is not there, or another view of STAGES.
        """
        names = [link.name for link in self.chain.links]
        stages = self.classifier.draws and STAGES not in names
        for name in view:
            if name not in (known := [*names, STAGES] if stages else names):
                raise unknown("link", name, known, where=f'a view of the chain "{self.chain.name}"')
        links = [_seen(link, view.get(link.name, "as-is")) for link in self.chain.links]
        how = view.get(STAGES, "as-is") if stages else "as-is"
        if how not in ("as-is", "frozen"):
            raise unknown("view of random stages", how, ["as-is", "frozen"])
        return replace(
            self,
            chain=Chain(tuple(link for link in links if link is not None)),
            classifier=frozen(self.classifier) if how == "frozen" else self.classifier,
        )


def _seen(link: Transform, how: str) -> Transform | None:
    if how == "skip":
        return None
    if how == "as-is":
        return link
    kind, _, surrogate = how.partition(":")
    if kind == "frozen":
        return Graft(Frozen(link), surrogate or "best")
    return Graft(link, how)
