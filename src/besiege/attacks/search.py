"""The loop around every attack: best point, early stop, restarts, trace. No attack has these lines.

Everything that an attack asks of its oracle is overheard, so that the best point costs nothing
extra. Two cases differ in kind. Where the attacker sees a deterministic defense as it is, a success
is a fact: the example is dropped with that point. Elsewhere the first success is often luck (a
random defense) or another model's (a link left out), so the search goes on to its last step, and
two points, the last and the best read, meet on fresh draws.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from besiege.attacks.attack import Ask, Attack, Problem
from besiege.attacks.oracle import BudgetSpent, Meter, Reading
from besiege.core.batch import rows, take
from besiege.core.key import Key


@dataclass(frozen=True)
class Plan:
    """How long to search and when to believe.

    steps, restarts: of the attack; each restart folds its number into the key.
    certain: the oracle's view is the deployed defense and draws nothing, so a success is a fact.
    confirm: fresh draws on which last and best point are compared when not certain.
    check: another oracle whose successes count, if the view leaves links out (forward only); asked
        once a step, so that a point that wins on the whole defense is not lost.
    observe: called with (step, points, row numbers) every `every` steps; 0 for never.
    """

    steps: int
    restarts: int = 1
    certain: bool = False
    confirm: int = 8
    check: Ask | None = None
    observe: Callable[[int, Tensor, Tensor], None] | None = None
    every: int = 0


class Found(NamedTuple):
    """What a search brings back, all with first axis B."""

    x: Tensor  # (B, C, H, W) the point handed to the judge
    claim: Tensor  # (B,) share of the attacker's own draws on which that point met the goal
    lucky: Tensor  # (B,) bool: some draw at some step met it
    forwards: Tensor  # (B,) int64
    backwards: Tensor  # (B,) int64
    loss: Tensor  # (B, T) the attacker's loss at each step; the last value is kept once dropped
    won: Tensor  # (B, T) share of its draws that met the goal, likewise
    spent: bool  # the limit of passes ended the search


@dataclass
class _Best:
    """The best point read so far; ordered by share of draws won, then by loss."""

    x: Tensor
    won: Tensor
    loss: Tensor

    def see(self, index: Tensor, x: Tensor, won: Tensor, loss: Tensor) -> None:
        """Take the rows of x that are better than what is kept for the examples `index`."""
        kept_won, kept_loss = self.won[index], self.loss[index]
        better = (won > kept_won) | ((won == kept_won) & (loss > kept_loss))
        self.x[index] = torch.where(rows(better, x), x, self.x[index])
        self.won[index] = torch.where(better, won, kept_won)
        self.loss[index] = torch.where(better, loss, kept_loss)


@dataclass
class _Log:
    """Everything recorded while searching one batch."""

    best: _Best
    lucky: Tensor
    forwards: Tensor
    backwards: Tensor
    loss: list[Tensor] = field(default_factory=list)
    won: list[Tensor] = field(default_factory=list)


class _Ear:
    """Stands between attack and oracle and keeps what was asked in the current step."""

    def __init__(self, oracle: Ask) -> None:
        self.oracle = oracle
        self.heard: list[tuple[Tensor, Reading]] = []

    def __call__(
        self, x: Tensor, goal: Tensor, key: Key, *, gradient: bool = True, draws: int | None = None
    ) -> Reading:
        reading = self.oracle(x, goal, key, gradient=gradient, draws=draws)
        self.heard.append((x, reading))
        return reading


def search(problem: Problem, attack: Attack, meter: Meter, plan: Plan) -> Found:
    """Run `attack` on `problem` for plan.steps steps and restarts; meter is the oracle's.

    Cost: what the attack asks, plus one forward per check, plus 2 x plan.confirm forwards an
    example when the plan is not certain (one forward when it is).
    """
    x0, n = problem.x0, len(problem.x0)
    floor = x0.new_full((n,), -torch.inf)
    count = torch.zeros(n, dtype=torch.int64, device=x0.device)
    lucky = torch.zeros(n, dtype=torch.bool, device=x0.device)
    log = _Log(_Best(x0.clone(), floor.clone(), floor.clone()), lucky, count, count.clone())
    last = x0.clone()
    alive = torch.arange(n, device=x0.device)
    spent = False
    for restart in range(plan.restarts):
        run = replace(problem, key=problem.key.fold("restart", restart)).take(alive)
        try:
            alive = _run(run, attack, meter, plan, log, alive, last)
        except BudgetSpent:
            spent = True
            break
        if len(alive) == 0:
            break
    claim = log.best.won.clone()
    if len(alive):
        claim = _settle(problem, meter, plan, log, alive, last, claim)
    loss, won = _stacked(log.loss, n, x0), _stacked(log.won, n, x0)
    x = log.best.x
    return Found(x, claim.clamp_min(0), log.lucky, log.forwards, log.backwards, loss, won, spent)


def _run(
    p: Problem, attack: Attack, meter: Meter, plan: Plan, log: _Log, alive: Tensor, last: Tensor
) -> Tensor:
    """One restart over the rows `alive`; returns those that are still unbroken."""
    ear = _Ear(p.oracle)
    p = replace(p, oracle=ear)
    state = attack.init(p)
    last[alive] = state.x
    for t in range(plan.steps):
        if plan.observe is not None and plan.every and t % plan.every == 0:
            plan.observe(t, state.x, alive)
        before = (meter.forwards, meter.backwards)
        here = state.x
        try:
            state = attack.step(p, state, t)
            if plan.check is not None:
                ear.heard = [(here, plan.check(here, p.goal, p.key.fold("check", t), gradient=False))]
        finally:
            log.forwards[alive] += meter.forwards - before[0]
            log.backwards[alive] += meter.backwards - before[1]
        broken = _listen(ear, log, alive)
        last[alive] = state.x
        if plan.certain and bool(broken.any()):
            keep = (~broken).nonzero()[:, 0]
            alive, p, state = alive[keep], p.take(keep), take(state, keep)
            if len(alive) == 0:
                break
    if len(alive) == 0:
        return alive
    if plan.observe is not None and plan.every:
        plan.observe(plan.steps, state.x, alive)
    if plan.restarts > 1:  # the end of an earlier restart would otherwise never be read
        before = meter.forwards
        ear(state.x, p.goal, p.key.fold("end"), gradient=False)
        log.forwards[alive] += meter.forwards - before
        broken = _listen(ear, log, alive)
        alive = alive[~broken] if plan.certain else alive
    return alive


def _listen(ear: _Ear, log: _Log, alive: Tensor) -> Tensor:
    """Enter what was asked in one step; returns the rows that have met their goal for certain."""
    met = torch.zeros(len(alive), dtype=torch.bool, device=alive.device)
    previous_loss = log.loss[-1] if log.loss else log.best.loss
    previous_won = log.won[-1] if log.won else torch.zeros_like(log.best.won)
    loss_now, won_now = previous_loss.clone(), previous_won.clone()
    for x, reading in ear.heard:
        loss = reading.won if reading.loss is None else reading.loss
        log.best.see(alive, x, reading.won.to(loss.dtype), loss)
        log.lucky[alive] |= reading.won > 0
        met |= reading.won >= 1
        loss_now[alive], won_now[alive] = loss, reading.won.to(loss.dtype)
    if ear.heard:
        log.loss.append(loss_now)
        log.won.append(won_now)
    ear.heard = []
    return met


def _settle(
    problem: Problem,
    meter: Meter,
    plan: Plan,
    log: _Log,
    alive: Tensor,
    last: Tensor,
    claim: Tensor,
) -> Tensor:
    """Choose between last and best read point on draws that neither has been chosen by.

    Both meet the same draws (paired). The search's limit of passes does not bind here: an answer
    that was never tested would not be one.
    """
    p = problem.take(alive)
    ask = plan.check or problem.oracle
    draws = 1 if plan.certain else plan.confirm
    limit, meter.limit = meter.limit, None
    before = meter.forwards
    key = p.key.fold("settle")
    end = ask(last[alive], p.goal, key, gradient=False, draws=draws)
    best = end if plan.certain else ask(log.best.x[alive], p.goal, key, gradient=False, draws=draws)
    log.forwards[alive] += meter.forwards - before
    meter.limit = limit
    if plan.certain:  # the best point's reading is exact already
        end_loss = end.won if end.loss is None else end.loss
        log.best.see(alive, last[alive], end.won.to(end_loss.dtype), end_loss)
        claim[alive] = log.best.won[alive]
    else:
        end_loss, best_loss = (r.won if r.loss is None else r.loss for r in (end, best))
        take_last = (end.won > best.won) | ((end.won == best.won) & (end_loss >= best_loss))
        chosen = torch.where(rows(take_last, last[alive]), last[alive], log.best.x[alive])
        log.best.x[alive] = chosen
        claim[alive] = torch.where(take_last, end.won, best.won).to(claim.dtype)
    log.lucky[alive] |= (end.won > 0) | (best.won > 0)
    return claim


def _stacked(steps: list[Any], n: int, like: Tensor) -> Tensor:
    return torch.stack(steps, 1) if steps else like.new_zeros(n, 0)
