"""The loop around every attack: best point, early stop, restarts, trace. No attack has these lines.

Everything that an attack asks of its oracle is overheard, so that the best point costs nothing
extra. Two cases differ in kind. Where the attacker sees a deterministic defense as it is, a success
is a fact: the example is dropped with that point. Elsewhere the first success is often luck (a
random defense) or another model's (a link left out), so the search goes on to its last step, and
two points, the last and the best read, meet on fresh draws.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeAlias, Unpack

import torch
from torch import Tensor

from besiege.attacks.attack import Ask, Attack, How, Problem
from besiege.attacks.oracle import BudgetSpent, Meter, Reading
from besiege.core.batch import rows, take
from besiege.core.key import Key


@dataclass(frozen=True)
class Plan:
    """How long to search and when to believe.

    steps, restarts: of the attack; each restart folds its number into the key.
    certain: the oracle's view is the deployed defense and draws nothing, so a success is a fact.
    confirm: fresh draws on which last and best point are compared when not certain, as many others
        of which the claim is the share, and draws on which a nearer success has to be one again
        where the attack looks for the nearest.
    believe_first: take the first success on any reading for a fact, as published loops do, and stop
        there; the claim is then a lucky draw as often as not.
    check: another oracle whose successes count, if the view leaves links out (forward only); asked
        once a step, so that a point that wins on the whole defense is not lost.
    referee: another oracle on which last and best point are compared, if not `check` and not the
        attack's own (which may be of lower precision); the claims are its.
    observe: called with (step, points, row numbers) every `every` steps; 0 for never.
    """

    steps: int
    restarts: int = 1
    certain: bool = False
    confirm: int = 8
    believe_first: bool = False
    check: Ask | None = None
    referee: Ask | None = None
    observe: Callable[[int, Tensor, Tensor], None] | None = None
    every: int = 0


class Found(NamedTuple):
    """What a search brings back, all with first axis B."""

    x: Tensor  # (B, C, H, W) the point handed to the judge
    claim: Tensor  # (B,) share of the attacker's own draws on which that point met the goal
    lucky: Tensor  # (B,) bool: some draw at some step met it
    forwards: Tensor  # (B,) int64
    backwards: Tensor  # (B,) int64
    loss: Tensor  # (B, restarts x steps) the attacker's loss; the last value is kept once dropped
    won: Tensor  # (B, T) share of its draws that met the goal, likewise
    spent: Tensor  # (B,) bool: the limit of passes ended the search
    draws: Tensor | None = None  # (B,) int64 draws a reading, where they were chosen by example
    strayed: Tensor | None = None  # (B,) bool: found outside the threat, and projected onto it
    by: Tensor | None = None  # (B,) int64: of a union of recipes the one that found it, or -1
    passes: Tensor | None = None  # (B, T) int64: of a union, spent up to the end of each search


# A point an example, the share of its draws won and the loss: what is kept of a reading.
Heard: TypeAlias = tuple[Tensor, Tensor, Tensor]


class _Ear:
    """Stands between attack and oracle and keeps what was asked in the current step.

    foremost: chooses among n points an example at once, so that a step may ask about many.
    """

    def __init__(self, oracle: Ask, foremost: Callable[[Tensor, Tensor, Tensor], Heard]) -> None:
        self.oracle, self.foremost = oracle, foremost
        self.heard: list[Heard] = []

    def __call__(self, x: Tensor, goal: Tensor, key: Key, **how: Unpack[How]) -> Reading:
        reading = self.oracle(x, goal, key, **how)
        won, loss = _figures(reading)
        self.heard.append(self.foremost(x, won, loss) if x.ndim == 5 else (x, won, loss))
        return reading


def _figures(reading: Reading) -> tuple[Tensor, Tensor]:
    """Share of draws won, and the loss (that share again where the threat gives labels only)."""
    won = reading.won if reading.loss is None else reading.won.to(reading.loss.dtype)
    return won, won if reading.loss is None else reading.loss


def _better(won: Tensor, loss: Tensor, than_won: Tensor, than_loss: Tensor) -> Tensor:
    return (won > than_won) | ((won == than_won) & (loss > than_loss))


class _Hunt:
    """Everything known about one batch while it is searched; `alive` are the unbroken rows."""

    def __init__(self, problem: Problem, attack: Attack, meter: Meter, plan: Plan) -> None:
        self.problem, self.attack, self.meter, self.plan = problem, attack, meter, plan
        x0, n = problem.x0, len(problem.x0)
        self.alive = torch.arange(n, device=x0.device)
        self.last = x0.clone()
        self.best = x0.clone()
        self.best_won = x0.new_full((n,), -torch.inf)
        self.best_loss = self.best_won.clone()
        self.best_size = -self.best_won
        self.confirmed = 0  # times that a nearer success was tried on fresh draws
        self.lucky = torch.zeros(n, dtype=torch.bool, device=x0.device)
        self.forwards = torch.zeros(n, dtype=torch.int64, device=x0.device)
        self.backwards = self.forwards.clone()
        self.loss = x0.new_full((n, plan.restarts * plan.steps), torch.nan)
        self.won = self.loss.clone()

    @contextmanager
    def metered(self, rows_charged: Tensor | None = None) -> Iterator[None]:
        """Charge what is spent inside to some rows, or to all that are alive."""
        rows_charged = self.alive if rows_charged is None else rows_charged
        forwards, backwards = self.meter.forwards, self.meter.backwards
        try:
            yield
        finally:
            self.forwards[rows_charged] += self.meter.forwards - forwards
            self.backwards[rows_charged] += self.meter.backwards - backwards

    def restart(self, number: int) -> None:
        """Run the attack once on the rows alive."""
        plan, ear = self.plan, _Ear(self.problem.oracle, self.foremost)
        key = self.problem.key.fold("restart", number)
        p = replace(self.problem, key=key, oracle=ear).take(self.alive)
        look = plan.observe if plan.every and number == 0 else None
        state = self.attack.init(p)
        for t in range(plan.steps):
            self.last[self.alive] = here = state.x
            if look is not None and t % plan.every == 0:
                look(t, here, self.alive)
            with self.metered():
                state = self.attack.step(p, state, t)
                if plan.check is not None:
                    key = p.key.fold("check", t)
                    checked = plan.check(here, p.goal, key, gradient=False)
                    ear.heard = [(here, *_figures(checked))]
            done = getattr(state, "done", None)
            if done is not None:
                self.last[self.alive] = state.x
            keep = self.listen(ear, number * plan.steps + t, done)
            if len(keep) < len(state.x):
                p, state = p.take(keep), take(state, keep)
                if len(keep) == 0:
                    return
        self.last[self.alive] = state.x
        if look is not None and plan.steps % plan.every == 0:
            look(plan.steps, state.x, self.alive)
        if plan.restarts > 1 and plan.steps:  # else the end of an earlier restart is never read
            with self.metered():
                ear(state.x, p.goal, p.key.fold("end"), gradient=False)
            self.listen(ear, (number + 1) * plan.steps - 1)

    def listen(self, ear: _Ear, slot: int, done: Tensor | None = None) -> Tensor:
        """Enter what was heard in one step; returns which of its rows stay in the search.

        done: rows that the attack itself has given up.
        """
        rows_heard = self.alive
        broken = torch.zeros(len(rows_heard), dtype=torch.bool, device=rows_heard.device)
        for x, won, loss in ear.heard:
            self.enter(rows_heard, x, won, loss)
            self.loss[rows_heard, slot], self.won[rows_heard, slot] = loss, won
            broken |= won >= 1
        ear.heard = []
        stops = self.plan.believe_first or (self.plan.certain and not self.attack.nearest)
        gone = broken & stops
        if done is not None:
            gone |= done
        keep = (~gone).nonzero()[:, 0]
        self.alive = rows_heard[keep]
        return keep

    def foremost(self, x: Tensor, won: Tensor, loss: Tensor) -> Heard:
        """Of n points of each example alive, (B, n, ...), the one that a search would keep."""
        at = loss.masked_fill(won < won.amax(1, keepdim=True), -torch.inf).argmax(1)
        if self.attack.nearest:
            x0 = self.problem.x0[self.alive].repeat_interleave(x.shape[1], 0)
            size = self.problem.threat.ball.size(x.flatten(0, 1), x0).reshape(won.shape)
            size = size.masked_fill(~self.succeeds(won, loss), torch.inf)
            at = torch.where(size.isfinite().any(1), size.argmin(1), at)
        each = torch.arange(len(x), device=x.device)
        return x[each, at], won[each, at], loss[each, at]

    def succeeds(self, won: Tensor, loss: Tensor) -> Tensor:
        """Which points count for an attack that looks for the nearest, in the shape of both."""
        return (won > 0.5) & (loss >= self.attack.least)

    def enter(self, index: Tensor, x: Tensor, won: Tensor, loss: Tensor) -> None:
        """Keep the rows of x that beat the best points of the examples `index`.

        A nearer success that may be luck has to be one on fresh draws too.
        """
        self.lucky[index] |= won > 0
        better = _better(won, loss, self.best_won[index], self.best_loss[index])
        size = self.best_size[index]
        if self.attack.nearest:
            success = self.succeeds(won, loss)
            size = self.problem.threat.ball.size(x, self.problem.x0[index])
            nearer = success & (size < self.best_size[index])
            if not self.plan.certain and bool(nearer.any()):
                where = nearer.nonzero()[:, 0]
                won, loss = won.clone(), loss.clone()
                won[where], loss[where] = self.confirm(index[where], x[where])
                nearer &= self.succeeds(won, loss)
            better = torch.where(success | self.best_size[index].isfinite(), nearer, better)
            size = torch.where(self.succeeds(won, loss), size, torch.inf)
        self.best[index] = torch.where(rows(better, x), x, self.best[index])
        self.best_won[index] = torch.where(better, won, self.best_won[index])
        self.best_loss[index] = torch.where(better, loss, self.best_loss[index])
        self.best_size[index] = torch.where(better, size, self.best_size[index])

    def confirm(self, index: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """Won and loss at x on fresh draws, of the examples `index`."""
        plan, p = self.plan, self.problem.take(index)
        ask = plan.check or plan.referee or self.problem.oracle
        self.confirmed += 1
        key = p.key.fold("confirm", self.confirmed)
        with self.metered(index):
            return _figures(ask(x, p.goal, key, gradient=False, draws=plan.confirm))

    def won_at_first(self) -> Tensor:
        """Claims of those who believe their first success: 1 or nothing, (B,).

        Examples without one are handed over where the search left them.
        """
        won = self.best_won >= 1
        self.best = torch.where(rows(won, self.best), self.best, self.last)
        return won.to(self.best.dtype)

    def settle(self) -> Tensor:
        """Choose between last and best read point; returns the claims, (B,).

        Points are compared as the judge will get them, rounded if the threat says so. When not
        certain both meet the same fresh draws, by which neither was found; what is claimed of the
        better one is its share of others, by which it was not chosen. The limit of passes does not
        bind here: an answer that was never tested would not be one.
        """
        plan = self.plan
        # Rows that the attack gave up have a best point like others: chosen by luck, if any was.
        every = torch.arange(len(self.best), device=self.best.device)
        index = self.alive if plan.certain else every
        p = self.problem.take(index)
        ask = plan.check or plan.referee or self.problem.oracle
        key = p.key.fold("settle")
        last = p.threat.submitted(self.last[index], p.x0)
        limit, self.meter.limit = self.meter.limit, None
        with self.metered(index):
            if plan.believe_first:
                claim = self.won_at_first()
            elif plan.certain:
                self.enter(index, last, *_figures(ask(last, p.goal, key, gradient=False, draws=1)))
                claim = self.best_won.clone()
            else:
                ends = _figures(ask(last, p.goal, key, gradient=False, draws=plan.confirm))
                best = p.threat.submitted(self.best[index], p.x0)
                bests = _figures(ask(best, p.goal, key, gradient=False, draws=plan.confirm))
                keep_best = _better(*bests, *ends)
                if self.attack.nearest:
                    keep_best = self.succeeds(*bests) | (keep_best & ~self.succeeds(*ends))
                self.best = torch.where(rows(keep_best, best), best, last)
                key = p.key.fold("claim")
                again = ask(self.best, p.goal, key, gradient=False, draws=plan.confirm)
                claim, _ = _figures(again)
                self.lucky |= (ends[0] > 0) | (bests[0] > 0)
        self.meter.limit = limit
        return claim


def search(problem: Problem, attack: Attack, meter: Meter, plan: Plan) -> Found:
    """Run `attack` on `problem` for plan.steps steps and restarts; meter is the oracle's.

    Cost: what the attack asks, plus one forward a step if plan.check, plus 3 x plan.confirm
    forwards an example when the plan is not certain (one when it is).
    """
    hunt = _Hunt(problem, attack, meter, plan)
    spent = torch.zeros_like(hunt.lucky)
    for number in range(plan.restarts):
        if len(hunt.alive) == 0:
            break
        try:
            hunt.restart(number)
        except BudgetSpent:
            spent[hunt.alive] = True
            break
    # No search, or nothing left of it but facts.
    facts = plan.certain and len(hunt.alive) == 0 and not plan.believe_first
    settled = plan.steps == 0 or facts
    claim = hunt.best_won.clamp_min(0) if settled else hunt.settle()
    return Found(
        x=hunt.best,
        claim=claim,
        lucky=hunt.lucky,
        forwards=hunt.forwards,
        backwards=hunt.backwards,
        loss=filled(hunt.loss),
        won=filled(hunt.won),
        spent=spent,
    )


def joined_rows(parts: Sequence[Found], order: Tensor) -> Found:
    """What was found of several batches as of one, its rows in `order`."""
    columns: Any = zip(*parts, strict=True)
    whole: list[Any] = [None if c[0] is None else torch.cat(c)[order] for c in columns]
    return Found(*whole)


def hand_over(problem: Problem, attack: Attack, meter: Meter, plan: Plan) -> Found:
    """The points of an attack that runs by itself (`Attack.whole`), in the place of `search`.

    Points outside the threat are projected onto it, and one that is not finite is the clean image.
    Of several restarts the best on plan.confirm fresh draws stays; the claim is its share of as
    many others.
    """
    assert attack.whole is not None
    x0, ask = problem.x0, plan.check or plan.referee or problem.oracle
    best, spent = x0.clone(), torch.zeros(len(x0), dtype=torch.bool, device=x0.device)
    best_won = x0.new_full((len(x0),), -torch.inf)
    best_loss, strayed, lucky = best_won.clone(), spent.clone(), spent.clone()
    losses, shares = [x0.new_zeros(len(x0), 0)], [x0.new_zeros(len(x0), 0)]
    for number in range(plan.restarts):
        try:
            x = attack.whole(replace(problem, key=problem.key.fold("restart", number)))
        except BudgetSpent:
            spent = ~spent
            break
        x = torch.where(rows(x.flatten(1).isfinite().all(1), x), x, x0)
        astray = ~problem.threat.admits(x, x0)
        x = torch.where(rows(astray, x), problem.threat.project(x, x0), x)
        x = problem.threat.submitted(x, x0)
        limit, meter.limit = meter.limit, None
        key = problem.key.fold("settle", number)
        won, loss = _figures(ask(x, problem.goal, key, gradient=False, draws=plan.confirm))
        meter.limit = limit
        better = _better(won, loss, best_won, best_loss)
        best, strayed = torch.where(rows(better, x), x, best), torch.where(better, astray, strayed)
        best_won, best_loss = (
            torch.where(better, won, best_won),
            torch.where(better, loss, best_loss),
        )
        lucky |= won > 0
        losses.append(loss[:, None])
        shares.append(won[:, None])
    if plan.restarts > 1:  # else no draw has chosen anything
        limit, meter.limit = meter.limit, None
        key = problem.key.fold("claim")
        again = ask(best, problem.goal, key, gradient=False, draws=plan.confirm)
        best_won, meter.limit = _figures(again)[0], limit
    spend = torch.full_like(spent, 0, dtype=torch.int64)
    return Found(
        x=best,
        claim=best_won.clamp_min(0),
        lucky=lucky,
        forwards=spend + meter.forwards,
        backwards=spend + meter.backwards,
        loss=torch.cat(losses, 1),
        won=torch.cat(shares, 1),
        spent=spent,
        strayed=strayed,
    )


def filled(trace: Tensor) -> Tensor:
    """(B, T) with the last figure kept for steps that an example did not take part in."""
    for t in range(1, trace.shape[1]):
        trace[:, t] = torch.where(trace[:, t].isnan(), trace[:, t - 1], trace[:, t])
    return trace
