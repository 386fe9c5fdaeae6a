"""What an attacker asks: readings of a defense as it sees it, averaged over draws.

A mean over keys is all that the literature calls expectation over transformation (Athalye et al.
2018, arXiv:1707.07397); a view with grafted links is all that it calls backward pass differentiable
approximation. No attack knows of either.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from besiege.attacks.loss import Loss
from besiege.attacks.threat import Threat
from besiege.core.batch import by_example, fold_sum
from besiege.core.errors import BadSetting, BesiegeError, one_of
from besiege.core.key import Key
from besiege.core.windows import LOGITS, Windows
from besiege.defenses.defense import Deployed, tightest

AVERAGES = ("loss", "probabilities", "logits")


class BudgetSpent(BesiegeError):
    """The threat's limit of passes is reached; `search` ends with the best point so far."""


class Reading(NamedTuple):
    """One answer of an oracle about a batch of images; (B, n) for n points an example."""

    loss: Tensor | None  # (B,) mean over the draws; None if the threat gives labels only
    gradient: Tensor | None  # (B, C, H, W) of that mean, (B, m, C, H, W) of m weights, or None
    won: Tensor  # (B,) share of the draws on which the goal is met
    scores: Tensor | None  # (B, K) mean logits over the draws; None if labels only


class Meter:
    """Counts passes an example: every example of a batch costs the same."""

    def __init__(self, limit: int | None) -> None:
        self.limit = limit
        self.forwards = 0
        self.backwards = 0
        self.broken_gradients = 0  # rows whose gradient was not finite and was taken as zero

    def spend(self, forwards: int, backwards: int) -> None:
        """Add, or raise BudgetSpent before anything is computed."""
        total = self.forwards + self.backwards + forwards + backwards
        if self.limit is not None and total > self.limit:
            raise BudgetSpent(f"{total} passes an image are more than the limit of {self.limit}.")
        self.forwards += forwards
        self.backwards += backwards


@dataclass(frozen=True)
class Oracle:
    """Readings of `view` under `loss`, each the mean over `draws` fresh draws.

    average: "loss" (mean loss), or the loss of the mean "probabilities" or "logits"; the latter two
        cost one more forward a draw when a gradient is asked.
    micro_batch: rows (examples x draws) that the network sees at once; fewer are filled up, but for
        those lengths in which rows have the same bits (see `Windows`).
    Cost: draws x view.passes forwards, and as many backwards when a gradient is asked; m times as
    many for m weights, which share the forwards.
    """

    view: Deployed
    loss: Loss
    threat: Threat
    meter: Meter
    draws: int = 1
    average: str = "loss"
    micro_batch: int = 32
    windows: Windows = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "windows", Windows(self.micro_batch))
        if self.draws < 1 or self.micro_batch < 1:
            raise BadSetting(
                f"an oracle takes draws >= 1 and micro_batch >= 1, got {self.draws} and "
                f"{self.micro_batch}."
            )
        one_of("average", self.average, AVERAGES, "an oracle")

    def __call__(
        self,
        x: Tensor,
        goal: Tensor,
        key: Key,
        *,
        gradient: bool = True,
        draws: int | None = None,
        weights: Tensor | None = None,
    ) -> Reading:
        """Read the view at x (B, C, H, W) for goal (B,): labels, or targets if targeted.

        x: (B, n, C, H, W) without gradient asks n points an example, each with draws of its own.
        weights: (B, K), if given the gradient is that of their sum with the mean logits, not of the
            loss; (B, m, K) for m gradients, (B, m, C, H, W).
        Raises BudgetSpent; BadSetting where the threat does not grant what is asked.
        """
        n = self.draws if draws is None else draws
        if x.ndim == 5:
            return self._many(x, goal, key, n)
        if gradient:
            self._grant()
        mean_first = self.average != "loss" and n > 1 and weights is None
        cost = n * self.view.passes
        back = (
            0 if not gradient else 1 if weights is None or weights.ndim == 2 else weights.shape[1]
        )
        self.meter.spend(cost * (2 if gradient and mean_first else 1), cost * back)
        keys = key.spread("draw", n)
        if not gradient:
            return self._reading(self._logits(x, n, keys), None, goal)
        if mean_first:
            weights = self._weights(self._logits(x, n, keys), goal)
        elif weights is not None:
            weights = (weights / n).repeat_interleave(n, 0)
        return self._with_gradient(x, n, keys, goal, weights)

    def _many(self, x: Tensor, goal: Tensor, key: Key, n: int) -> Reading:
        """Forward readings at x (B, points, C, H, W); every field has those two axes first."""
        points = x.shape[1]
        self.meter.spend(points * n * self.view.passes, 0)
        keys = key.spread("point", points).spread("draw", n)
        logits = self._logits(x.flatten(0, 1), n, keys)
        loss, _, won, scores = self._reading(logits, None, goal.repeat_interleave(points))
        if loss is not None and scores is not None:
            loss, scores = by_example(loss, points), by_example(scores, points)
        return Reading(loss, None, by_example(won, points), scores)

    def _grant(self) -> None:
        """Raise BadSetting where threat or model give no gradients."""
        model = tightest(self.view)
        if "gradients" == self.threat.access == model.access:
            return
        limits = {self.threat.access, model.access} - {"gradients"}
        says = f"the model {model.name} can tell {model.access} only"
        if self.threat.access != "gradients":
            says = f"the threat grants {self.threat.access} only"
        way = 'estimate them (`gradients = "finite-differences"` in the recipe), '
        raise BadSetting(
            f"this attack asks for gradients, but {says}: {'' if 'labels' in limits else way}"
            "choose an attack that needs less (`besiege list attacks`), grant gradients, or make "
            "points on another model."
        )

    def _logits(self, x: Tensor, n: int, keys: Key) -> Tensor:
        """(B, n, K) logits, forward only."""
        parts, same = [], partial(self._same, x, False)
        with torch.no_grad():
            for window, index in self.windows.over(len(keys), "forward", same, x.device):
                logits = self.view.logits(x[index // n], keys[index])
                parts.append(logits[: window.stop - window.start])
        return by_example(torch.cat(parts), n)

    def _same(self, like: Tensor, gradient: bool, rows: int) -> bool:
        """Whether noise shaped like x has the same bits in batches of `rows` as in full ones."""
        done, tried = 0, 0
        while done < LOGITS:
            key = Key.root(tried, range(self.micro_batch)).to(like.device)
            noise = key.uniform(*like.shape[1:], dtype=like.dtype)
            found = []
            for count in (self.micro_batch, rows):
                x = noise[:count].clone().requires_grad_(gradient)
                with torch.set_grad_enabled(gradient):
                    logits = self.view.logits(x, key[:count])
                if gradient:
                    found.append(_gradient(logits.logsumexp(-1), x)[:rows])
                found.append(logits.detach()[:rows])
            half = len(found) // 2
            pairs = zip(found[:half], found[half:], strict=True)
            if not all(torch.equal(*pair) for pair in pairs):
                return False
            done, tried = done + found[-1].numel(), tried + 1
        return True

    def _weights(self, logits: Tensor, goal: Tensor) -> Tensor:
        """Gradient of the loss of the mean with respect to each draw's logits, (B*n, K)."""
        leaf = logits.detach().requires_grad_()
        loss = self.loss(self._mean(leaf), goal, self.threat.targeted)
        return torch.autograd.grad(loss.sum(), leaf)[0].flatten(0, 1)

    def _with_gradient(
        self, x: Tensor, n: int, keys: Key, goal: Tensor, weights: Tensor | None
    ) -> Reading:
        slopes, outputs = [], []
        same = partial(self._same, x, True)
        for window, index in self.windows.over(len(keys), "backward", same, x.device):
            real = window.stop - window.start
            owner = index // n
            leaf = x[owner].detach().requires_grad_()
            logits = self.view.logits(leaf, keys[index])
            if weights is None:
                value = self.loss(logits, goal[owner], self.threat.targeted) / n
                slope = _gradient(value, leaf)
            elif weights.ndim == 2:
                slope = _gradient((logits * weights[index]).sum(-1), leaf)
            else:
                values = (logits[:, None] * weights[index]).sum(-1).unbind(1)
                last = len(values) - 1
                each = [_gradient(v, leaf, keep=i < last) for i, v in enumerate(values)]
                slope = torch.stack(each, 1)
            slopes.append(slope[:real])
            outputs.append(logits.detach()[:real])
        slope = fold_sum(by_example(torch.cat(slopes), n))
        finite = slope.flatten(1).isfinite().all(1)
        self.meter.broken_gradients += int((~finite).sum())
        slope = torch.nan_to_num(slope, nan=0.0, posinf=0.0, neginf=0.0)
        return self._reading(by_example(torch.cat(outputs), n), slope, goal)

    def _mean(self, logits: Tensor) -> Tensor:
        n = logits.shape[1]
        if self.average == "probabilities":
            return (fold_sum(logits.softmax(-1)) / n).log()
        return fold_sum(logits) / n

    def _reading(self, logits: Tensor, slope: Tensor | None, goal: Tensor) -> Reading:
        """Everything but the gradient follows from the logits (B, n, K)."""
        n = logits.shape[1]
        finite = logits.isfinite().all(-1)
        label = torch.where(finite, logits.argmax(-1), -1)
        met = label == goal[:, None] if self.threat.targeted else label != goal[:, None]
        won = met.to(logits.dtype).mean(1)
        if "labels" in (self.threat.access, tightest(self.view).access):
            return Reading(None, None, won, None)
        if self.average == "loss":
            flat = self.loss(logits.flatten(0, 1), goal.repeat_interleave(n), self.threat.targeted)
            loss = fold_sum(by_example(flat, n)) / n
        else:
            loss = self.loss(self._mean(logits), goal, self.threat.targeted)
        return Reading(loss, slope, won, fold_sum(logits) / n)


def _gradient(value: Tensor, leaf: Tensor, keep: bool = False) -> Tensor:
    """Gradient of the summed value; zero where the graph is cut (a white-box view of a codec).

    keep: the graph for another one.
    """
    if not value.requires_grad:
        return torch.zeros_like(leaf)
    slope = torch.autograd.grad(value.sum(), leaf, retain_graph=keep, allow_unused=True)[0]
    return torch.zeros_like(leaf) if slope is None else slope
