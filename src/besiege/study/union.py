"""Several searches one after the other, each on what the former left: a union of attackers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeAlias

import torch
from torch import Tensor

from besiege.attacks.search import Found, filled
from besiege.core.batch import rows
from besiege.core.key import Key


class Attacker(Protocol):
    """Who searches: a siege by one recipe."""

    def attack(self, x0: Tensor, goal: Tensor, key: Key, *, former: Tensor | None = None) -> Found:
        """Points of x0 (B, C, H, W) for goal (B,); former: like x0, of earlier searches."""
        ...


# Passes left an example, or None -> the siege that may spend them.
Turn: TypeAlias = Callable[[int | None], Attacker]
# Points (B, C, H, W), goal, key -> won and loss on fresh draws, (B,) each, and forwards spent.
Fresh: TypeAlias = Callable[[Tensor, Tensor, Key], tuple[Tensor, Tensor, int]]


class _Union:
    """The best points so far; `left` are the examples that none has broken."""

    def __init__(self, x0: Tensor, goal: Tensor, key: Key, turns: int) -> None:
        n, none = len(x0), torch.zeros(len(x0), dtype=torch.int64, device=x0.device)
        self.x0, self.goal, self.key = x0, goal, key
        self.left = torch.arange(n, device=x0.device)
        self.x, self.by = x0.clone(), none - 1
        self.claim, self.lucky = x0.new_zeros(n), none.bool()
        self.forwards, self.backwards = none.clone(), none.clone()
        self.spent, self.strayed = none.bool(), none.bool()
        self.loss = x0.new_full((n, turns), torch.nan)  # of the best point after each turn
        self.won = self.loss.clone()
        self.passes = none.new_zeros(n, turns)  # up to the end of each turn

    def allowances(self, limit: int | None) -> list[tuple[int | None, Tensor]]:
        """Passes that an example may still spend, and the examples with so many.

        By example, and not the least of a batch: no row may depend on the others.
        """
        if limit is None or len(self.left) == 0:
            return [(None, self.left)] if len(self.left) else []
        rest = limit - (self.forwards + self.backwards)[self.left]
        self.spent[self.left[rest < 1]] = True
        return [(n, self.left[rest == n]) for n in sorted(set(rest.tolist())) if n > 0]

    def add(self, number: int, left: Tensor, found: Found, fresh: Fresh) -> None:
        """Enter what a search found: of two points of an example the better on the same draws."""
        own, goal = self.key[left].fold("turn", number), self.goal[left]
        won, loss, cost = fresh(found.x, goal, own)
        better = torch.ones_like(won, dtype=torch.bool)
        if number > 0:
            before, behind, more = fresh(self.x[left], goal, own)
            better = (won > before) | ((won == before) & (loss > behind))
            won, cost = torch.where(better, won, before), cost + more
            loss = torch.where(better, loss, behind)
        self.x[left] = torch.where(rows(better, found.x), found.x, self.x[left])
        self.by[left] = torch.where(better, number, self.by[left])
        self.claim[left] = won
        self.loss[left, number], self.won[left, number] = loss.to(self.loss), won
        self.lucky[left] |= found.lucky
        if found.strayed is not None:
            self.strayed[left] = torch.where(better, found.strayed, self.strayed[left])
        self.forwards[left] += found.forwards + cost
        self.backwards[left] += found.backwards
        self.spent[left] = found.spent
        self.left = self.left[self.claim[self.left] < 1]

    def settled(self, fresh: Fresh) -> Found:
        """What was found; claims are of draws on which nothing was chosen."""
        won, _, cost = fresh(self.x, self.goal, self.key.fold("settle"))
        return Found(
            x=self.x,
            claim=won,
            lucky=self.lucky | (won > 0),
            forwards=self.forwards + cost,
            backwards=self.backwards,
            loss=filled(self.loss),
            won=filled(self.won),
            spent=self.spent,
            strayed=self.strayed,
            by=self.by,
            passes=self.passes,
        )


def one_after_another(
    turns: Sequence[Turn], x0: Tensor, goal: Tensor, key: Key, fresh: Fresh, limit: int | None
) -> Found:
    """The best point of each example over all turns, the first of them on every example.

    A later one gets the examples whose best point does not yet meet the goal on all draws of
    `fresh`, and what they have left of `limit` passes. Points of different turns are compared on
    draws of their own, and what is claimed in the end is of others again. The trace has a figure a
    turn, and the passes of each example up to its end.
    Cost: the searches', and `fresh` once for the first, twice for each other, and once in the end.
    """
    union = _Union(x0, goal, key, len(turns))
    for number, turn in enumerate(turns):
        for passes, left in union.allowances(limit):
            former = union.x[left] if number else None
            found = turn(passes).attack(x0[left], goal[left], key[left], former=former)
            union.add(number, left, found, fresh)
        union.passes[:, number] = union.forwards + union.backwards
    return union.settled(fresh)
