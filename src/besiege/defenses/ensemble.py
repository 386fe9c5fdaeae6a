"""Several defenses that answer together, each with its own chain, classifier and draws."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from besiege.core.batch import fold_sum
from besiege.core.errors import BadSetting, one_of, unknown
from besiege.core.key import Key
from besiege.defenses.defense import ABSTAIN, Defense, Deployed
from besiege.defenses.transform import Shape, Transform
from besiege.models.classifier import Classifier

AVERAGES = ("logits", "probabilities", "labels")


class Member(NamedTuple):
    """One defense and what its answer weighs; its vote says how many draws it takes."""

    defense: Defense
    weight: float = 1.0


@dataclass(frozen=True)
class Ensemble(Deployed):
    """The weighted mean of the answers of several defenses.

    of: what is averaged: "logits" (each member's own mean, by its vote), "probabilities", or
        "labels", a weighted ballot whose ties go to the lowest label; attackers of a ballot follow
        the mean probabilities.

    Members draw independently. A view that names a link, or the random stages of classifiers,
    reaches every member that has it. Weights are divided by their sum. Raises BadSetting for
    members that do not fit together.
    Source: Guo et al. 2018 (arXiv:1711.00117), section 4: half quilting, half ten draws of total
    variation minimisation, realised as a mean of logits. Cost: the passes of all members.

    >>> from besiege.defenses.transform import Chain
    >>> from besiege.laws.problems import linear_classifier
    >>> one, other = (Defense(Chain(), linear_classifier(seed=seed)) for seed in (0, 1))
    >>> Ensemble((Member(one, 0.5), Member(other, 0.5))).passes
    2
    """

    members: tuple[Member, ...]
    of: str = "logits"

    def __post_init__(self) -> None:
        one_of("average", self.of, AVERAGES, "an ensemble")
        if not self.members or not all(0 < m.weight < math.inf for m in self.members):
            raise BadSetting(
                "an ensemble takes members of weights above 0, got "
                f"{[m.weight for m in self.members]}."
            )
        for what in ("num_classes", "channels"):
            found = [getattr(part.classifier, what) for part in self.parts]
            if len(set(found)) > 1:
                raise BadSetting(f"members of an ensemble agree in {what}, but came with {found}.")
        self._check_links()

    @property
    def parts(self) -> tuple[Defense, ...]:
        """The members' defenses."""
        return tuple(member.defense for member in self.members)

    @property
    def name(self) -> str:
        """The members' chains, joined by " & "."""
        return " & ".join(part.name for part in self.parts)

    @property
    def counting(self) -> str:
        """What is averaged, and each member's weight and vote."""
        votes = ", ".join(f"{m.weight:g} x {m.defense.counting}" for m in self.members)
        return f"mean of {self.of}: {votes}"

    @property
    def links(self) -> tuple[Transform, ...]:
        """The links of all members, each name once."""
        by_name = {link.name: link for part in self.parts for link in part.links}
        return tuple(by_name.values())

    @property
    def viewable(self) -> tuple[str, ...]:
        """What a view of any member can name, each once."""
        return tuple(dict.fromkeys(name for part in self.parts for name in part.viewable))

    @property
    def passes(self) -> int:
        """Those of all members."""
        return sum(part.passes for part in self.parts)

    def is_random(self, shape: Shape) -> bool:
        """Whether any member is."""
        return any(part.is_random(shape) for part in self.parts)

    def logits(self, x: Tensor, key: Key) -> Tensor:
        """Differentiable scores: x (B, C, H, W) in [0, 1] -> (B, K)."""
        return self._mean(self._scores(x, key))

    def labels(self, x: Tensor, key: Key) -> Tensor:
        """Answers: x (B, C, H, W) in [0, 1] -> (B,) int64, ABSTAIN where there is none."""
        with torch.no_grad():
            if self.of == "labels":
                return self._elected(x, key)
            mean = self._mean(self._scores(x, key))
        return torch.where(mean.isfinite().all(-1), mean.argmax(-1), ABSTAIN)

    def seen(self, x: Tensor, key: Key) -> Tensor:
        """What the first member's classifier is given of x under its first draw."""
        return self.parts[0].seen(x, _own(key, 0))

    def seen_through(self, view: Mapping[str, str]) -> Ensemble:
        """Every member as an attacker sees it. Call it in `study.recipe` only.

        view: as for `Defense.seen_through`. Raises UnknownName for a link that no member has.
        """
        for name in view:
            if name not in (known := self.viewable):
                raise unknown("link", name, known, where=f'a view of the ensemble "{self.name}"')

        def seen(part: Defense) -> Defense:
            return part.seen_through({n: view[n] for n in part.viewable if n in view})

        return self._with(seen)

    def with_classifiers(self, change: Callable[[Classifier], Classifier]) -> Ensemble:
        """The same around `change(classifier)` for each member's."""
        return self._with(lambda part: part.with_classifiers(change))

    def _with(self, change: Callable[[Defense], Defense]) -> Ensemble:
        return replace(
            self, members=tuple(m._replace(defense=change(m.defense)) for m in self.members)
        )

    def _shares(self, like: Tensor) -> Tensor:
        """The weights as shares of their sum, (members,), in the precision of `like`."""
        total = sum(m.weight for m in self.members)
        return torch.tensor([m.weight / total for m in self.members], device=like.device).to(like)

    def _scores(self, x: Tensor, key: Key) -> Tensor:
        """(B, members, K): each member's own."""
        return torch.stack([p.logits(x, _own(key, i)) for i, p in enumerate(self.parts)], 1)

    def _mean(self, scores: Tensor) -> Tensor:
        """(B, members, K) -> (B, K): mean logits, or the logarithm of the mean probabilities."""
        shares = self._shares(scores)[:, None]
        if self.of == "logits":
            return fold_sum(shares * scores)
        return (scores.log_softmax(-1) + shares.log()).logsumexp(1)

    def _elected(self, x: Tensor, key: Key) -> Tensor:
        """The label of most weight; a member that abstains has no vote."""
        each = torch.stack([p.labels(x, _own(key, i)) for i, p in enumerate(self.parts)], 1)
        weights = torch.tensor([m.weight for m in self.members], device=each.device).double()
        classes = range(self.parts[0].classifier.num_classes)
        ballots = torch.stack([fold_sum(weights * (each == k)) for k in classes], 1)
        return torch.where((each >= 0).any(1), ballots.argmax(1), ABSTAIN)

    def _check_links(self) -> None:
        """A view names links: of one name, they must offer the same surrogates."""
        first: dict[str, Transform] = {}
        for link in (link for part in self.parts for link in part.links):
            other = first.setdefault(link.name, link)
            if set(other.surrogates) != set(link.surrogates):
                raise BadSetting(
                    f'members of an ensemble have different links named "{link.name}", and a view '
                    f'could not tell them apart: call one of them "other={link.name}".'
                )


def _own(key: Key, i: int) -> Key:
    """The stream of member i."""
    return key.fold("member", i)


def joined(defenses: Sequence[Deployed], of: str) -> Ensemble:
    """The mean over several, each with equal weight, as one ensemble; members keep their shares.

    of: "logits" or "probabilities", also where one of them is a ballot.
    """
    members: list[Member] = []
    for defense in defenses:
        own = defense.members if isinstance(defense, Ensemble) else (Member(_only(defense)),)
        total = sum(member.weight for member in own)
        members += [member._replace(weight=member.weight / total) for member in own]
    return Ensemble(tuple(members), of)


def _only(defense: Deployed) -> Defense:
    (part,) = defense.parts
    return part
