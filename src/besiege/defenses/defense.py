"""What is deployed: a chain of transforms, a classifier, and a vote over draws."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from besiege.core.entry import Catalog, Entry
from besiege.core.errors import BadSetting, one_of, unknown
from besiege.core.key import Key
from besiege.core.passes import passing
from besiege.defenses.imitation import LEARNED, Imitation, read_imitator
from besiege.defenses.transform import Chain, Frozen, Graft, Shape, Transform
from besiege.models.classifier import ACCESS, Classifier
from besiege.models.stages import frozen

ABSTAIN = -1  # the label of an example on which the defense gives no answer
STAGES = "classifier"  # how a view names the random stages inside the network
VOTE = "vote"  # and the vote


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
        one_of("average", self.of, ("probabilities", "logits"), "vote mean")

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

    groups: parts of equal size that vote among themselves first; the winners vote then, and quorum
        is a share of them. "majority:draws=128,groups=8" is how Dziedzic and Krishnan 2020 count
        many trials (batches of 16).
    """

    draws: int = 16
    quorum: float = 0.0
    groups: int = 1

    def __post_init__(self) -> None:
        _at_least_one(self.draws)
        if not 0 <= self.quorum < 1:
            raise BadSetting(
                f"vote majority: quorum is a share of the draws in [0, 1), got {self.quorum}."
            )
        if self.groups < 1 or self.draws % self.groups:
            raise BadSetting(
                f"vote majority: groups is a divisor of draws={self.draws}, got {self.groups}."
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
        each, classes = _argmax(logits), logits.shape[-1]
        if self.groups > 1:
            each = _most_frequent(each.reshape(len(each), self.groups, -1), classes, 0.0)
        return _most_frequent(each, classes, self.quorum)


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


def _most_frequent(labels: Tensor, classes: int, quorum: float) -> Tensor:
    """(..., n) labels -> (...), the lowest on ties; ABSTAIN without more than `quorum` of n."""
    counts = torch.stack([(labels == k).sum(-1) for k in range(classes)], -1)
    label = counts.argmax(-1)
    most = counts.amax(-1)
    return torch.where(most > quorum * labels.shape[-1], label, ABSTAIN)


def _argmax(scores: Tensor) -> Tensor:
    finite = scores.isfinite().all(-1)
    return torch.where(finite, scores.argmax(-1), ABSTAIN)


class Deployed(Protocol):
    """What is deployed, judged and besieged: a Defense, or an Ensemble of several."""

    @property
    def parts(self) -> tuple[Defense, ...]:
        """The defenses that it is made of."""
        ...

    @property
    def name(self) -> str:
        """Its chain; those of an ensemble joined."""
        ...

    @property
    def counting(self) -> str:
        """How draws, and members, become one answer."""
        ...

    @property
    def links(self) -> tuple[Transform, ...]:
        """Every link, each name once."""
        ...

    @property
    def viewable(self) -> tuple[str, ...]:
        """What a view can name: the links, and STAGES where a classifier has random stages."""
        ...

    @property
    def passes(self) -> int:
        """Forward passes of classifiers for one answer."""
        ...

    def is_random(self, shape: Shape) -> bool:
        """Whether two answers to the same image can differ."""
        ...

    def logits(self, x: Tensor, key: Key) -> Tensor:
        """Differentiable scores: x (B, C, H, W) in [0, 1] -> (B, K)."""
        ...

    def labels(self, x: Tensor, key: Key) -> Tensor:
        """Answers: x (B, C, H, W) in [0, 1] -> (B,) int64, ABSTAIN where there is none."""
        ...

    def seen(self, x: Tensor, key: Key) -> Tensor:
        """What its (first) classifier is given of x under the first draw."""
        ...

    def seen_through(self, view: Mapping[str, str]) -> Deployed:
        """What an attacker builds of it, see `Defense.seen_through`."""
        ...

    def with_classifiers(self, change: Callable[[Classifier], Classifier]) -> Deployed:
        """The same around other classifiers."""
        ...


def tightest(defense: Deployed) -> Classifier:
    """The classifier that tells an attacker least."""
    return max((part.classifier for part in defense.parts), key=lambda c: ACCESS.index(c.access))


@dataclass(frozen=True)
class Defense(Deployed):
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

    @property
    def parts(self) -> tuple[Defense, ...]:
        """Itself."""
        return (self,)

    @property
    def name(self) -> str:
        """That of the chain."""
        return self.chain.name

    @property
    def counting(self) -> str:
        """The vote."""
        return str(self.vote)

    @property
    def links(self) -> tuple[Transform, ...]:
        """Those of the chain."""
        return self.chain.links

    @property
    def viewable(self) -> tuple[str, ...]:
        """The names of its links, STAGES and VOTE."""
        names = [link.name for link in self.links]
        own = (STAGES if self.classifier.draws else "", VOTE if self.vote.n > 1 else "")
        return (*names, *(name for name in own if name and name not in names))

    def is_random(self, shape: Shape) -> bool:
        """Whether two answers to the same image can differ."""
        return self.classifier.draws or self.chain.draw(Key.root(0, [0]), shape) is not None

    @property
    def passes(self) -> int:
        """Forward passes of the classifier for one answer."""
        return self.vote.n

    def each(self, x: Tensor, key: Key) -> Tensor:
        """Logits of every draw of one vote: x (B, C, H, W) in [0, 1] -> (B, n, K)."""
        votes = []
        # One after another: memory stays that of one pass, and a larger one would not be faster.
        for i in range(self.vote.n):
            seen = self.seen(x, key, i)
            with passing(key, "vote", i, STAGES, "stages"):
                votes.append(self.classifier(seen))
        return torch.stack(votes, 1)

    def seen(self, x: Tensor, key: Key, i: int = 0) -> Tensor:
        """What the classifier is given of x under draw i of one vote."""
        if not self.links:
            return x
        shape = (x.shape[1], x.shape[2], x.shape[3])
        return self.chain.forward(x, self.chain.draw(key.fold("vote", i), shape))

    def logits(self, x: Tensor, key: Key) -> Tensor:
        """Differentiable scores: x (B, C, H, W) in [0, 1] -> (B, K)."""
        return self.vote.scores(self.each(x, key))

    def labels(self, x: Tensor, key: Key) -> Tensor:
        """Answers: x (B, C, H, W) in [0, 1] -> (B,) int64, ABSTAIN where there is none."""
        with torch.no_grad():
            return self.vote.labels(self.each(x, key))

    def seen_through(self, view: Mapping[str, str]) -> Defense:
        """What an attacker builds of this defense. Call it in `study.recipe` only.

        view: link name -> a surrogate's name, "as-is", "skip", "frozen", "frozen:SURROGATE",
        "learned:FILE" (see `write_imitator`) or "frozen:learned:FILE"; links that it does not name
        are seen as they are.
        STAGES stands for the random stages of the classifier, where it has some: "frozen" or
        "as-is". VOTE stands for the vote over more than one draw: "as-is" or "one", a single draw,
        which `draws` of the recipe average over. Where no link is left and the classifier draws
        nothing, there is one draw: all would be alike.
        Raises UnknownName for a link that is not there, or another view of STAGES.
        """
        for name in view:
            if name not in (known := self.viewable):
                raise unknown("link", name, known, where=f'a view of the chain "{self.chain.name}"')
        held = next(chain(self.classifier.parameters(), self.classifier.buffers()), None)
        device = torch.device("cpu") if held is None else held.device
        links = [_seen(link, view.get(link.name, "as-is"), device) for link in self.chain.links]
        stages = STAGES in self.viewable and STAGES not in [link.name for link in self.links]
        how = view.get(STAGES, "as-is") if stages else "as-is"
        if how not in ("as-is", "frozen"):
            raise unknown("view of random stages", how, ["as-is", "frozen"])
        asked = view.get(VOTE, "as-is") if VOTE not in [link.name for link in self.links] else ""
        if asked not in ("as-is", "one", ""):
            raise unknown("view of the vote", asked, ["as-is", "one"])
        left = tuple(link for link in links if link is not None)
        alike = not left and not self.classifier.draws  # draws of nothing
        return replace(
            self,
            chain=Chain(left),
            classifier=frozen(self.classifier) if how == "frozen" else self.classifier,
            vote=One() if asked == "one" or alike else self.vote,
        )

    def with_classifiers(self, change: Callable[[Classifier], Classifier]) -> Defense:
        """The same around `change(classifier)`."""
        return replace(self, classifier=change(self.classifier))


def _seen(link: Transform, how: str, device: torch.device) -> Transform | None:
    if how == "skip":
        return None
    if how == "as-is":
        return link
    kind, _, rest = how.partition(":")
    if kind == "frozen":
        return _seen(Frozen(link), rest or "best", device)
    if kind == LEARNED and rest:
        return Graft(Imitation(link, read_imitator(Path(rest), device)), LEARNED)
    return Graft(link, how)
