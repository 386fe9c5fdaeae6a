"""One recipe made ready against one defense and threat: the views built, the specs looked up."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from besiege.attacks.attack import Ask, Attack, Problem
from besiege.attacks.catalog import ATTACKS, GRADIENTS, load_attack
from besiege.attacks.draws import draws_for
from besiege.attacks.joint import Joint
from besiege.attacks.loss import LOSSES, Loss, load_loss, margin
from besiege.attacks.oracle import BudgetSpent, Meter, Oracle
from besiege.attacks.search import Found, Plan, hand_over, joined_rows, search
from besiege.attacks.threat import Threat
from besiege.core.entry import Catalog
from besiege.core.errors import BadSetting, unknown
from besiege.core.key import Key
from besiege.defenses.defense import Deployed
from besiege.defenses.ensemble import joined
from besiege.defenses.transform import Shape
from besiege.models.classifier import Classifier
from besiege.models.precision import in_precision
from besiege.study.recipe import ADAPTIVE, GIVEN, UNION, Recipe
from besiege.study.union import one_after_another


@dataclass(frozen=True)
class Opponents:
    """What a recipe's specs are looked up in, and the size of the model's batches."""

    attacks: Catalog[Attack] = ATTACKS
    losses: Catalog[Loss] = LOSSES
    micro_batch: int = 32
    models: Mapping[str, Classifier] = field(default_factory=dict)  # by the specs that recipes name


class Watch(Protocol):
    """Somebody who looks at the points of every `every`-th step."""

    @property
    def every(self) -> int:
        """Steps between two looks."""
        ...

    def observe(self, step: int, x: Tensor, index: Tensor) -> None:
        """Called with the points x of the examples `index`."""
        ...


@dataclass(frozen=True)
class _Some:
    """A watch over the rows `of` of a batch, which are searched by themselves."""

    watch: Watch
    of: Tensor

    @property
    def every(self) -> int:
        """The watch's own."""
        return self.watch.every

    def observe(self, step: int, x: Tensor, index: Tensor) -> None:
        """Handed on under the batch's row numbers."""
        self.watch.observe(step, x, self.of[index])


@dataclass(frozen=True)
class Siege:
    """A recipe made ready against one defense and threat: views built, specs looked up."""

    defense: Deployed
    recipe: Recipe
    threat: Threat
    opponents: Opponents = field(default_factory=Opponents)

    def __post_init__(self) -> None:
        made, ball = self.made, self.threat.ball.name.split()[0]
        if made.balls and ball not in made.balls:
            raise BadSetting(
                f'recipe "{self.recipe.name}": the attack {self.recipe.attack} is made for the '
                f"balls {', '.join(made.balls)}, but the threat is {self.threat.name}: choose "
                "another attack (`besiege list attacks`) or keep them apart with `defenses`."
            )
        self._check_models()
        self.union  # noqa: B018 - built, so that what does not fit is refused before it runs

    @property
    def made(self) -> Attack:
        """The attack that the recipe names; none for points that come from elsewhere."""
        spec, known = self.recipe.attack, self.opponents.attacks
        return load_attack("none" if spec in (GIVEN, UNION, ADAPTIVE) else spec, known)

    @property
    def union(self) -> tuple[Siege, ...]:
        """A siege by each recipe of its union."""
        return tuple(replace(self, recipe=recipe) for recipe in self.recipe.union)

    def _check_models(self) -> None:
        """Raise BadSetting where the models of the recipe are not at hand, or are no fit."""
        names, at_hand = self.recipe.models, self.opponents.models
        where = f'recipe "{self.recipe.name}": '
        if names == ():
            raise BadSetting(
                f"{where}it makes its points on other models: name them, as in "
                'models = ["file:WEIGHTS.safetensors"].'
            )
        own = self.defense.parts[0].classifier
        for name in names or ():
            if name not in at_hand:
                raise unknown("model", name, at_hand, where=f"{where}models")
            other = at_hand[name]
            ours, theirs = ((c.num_classes, c.channels) for c in (own, other))
            if ours != theirs:
                raise BadSetting(
                    f"{where}the model {name} has (classes, channels) = {theirs}, that of the "
                    f"defense {ours}: labels would not mean the same."
                )

    @property
    def views(self) -> tuple[Deployed, ...]:
        """What the attacker asks, whose losses are averaged; in float32.

        The defense as it sees it; or that around each other model, as one ensemble if logits or
        probabilities are joined.
        """
        view, names = self.recipe.seen(self.defense), self.recipe.models
        if names is None:
            return (view,)

        def around_one(other: Classifier) -> Deployed:
            return view.with_classifiers(lambda _: other)

        around = [around_one(self.opponents.models[name]) for name in names]
        if len(around) == 1 or self.recipe.joined == "loss":
            return tuple(around)
        return (joined(around, self.recipe.joined),)

    @property
    def loss(self) -> str:
        """What is ascended: the recipe's loss, or the attack's own."""
        return self.recipe.loss or self.made.loss

    def attack(
        self,
        x0: Tensor,
        goal: Tensor,
        key: Key,
        watch: Watch | None = None,
        former: Tensor | None = None,
    ) -> Found:
        """Search for adversarial points of x0 (B, C, H, W) in [0, 1].

        goal: (B,) true labels, or targets where the threat is targeted.
        key: of the examples; the search folds ("attack", recipe) into it and can never name the
        judge's stream.
        former: points like x0 that other searches have left; an attack may begin there.
        """
        recipe, passes = self.recipe, self.threat.passes
        if recipe.attack == ADAPTIVE:
            raise BadSetting(
                f'recipe "{recipe.name}" is yet to be worked out: `besiege.plan` makes the recipe '
                "to attack with; runs and `besiege.evaluate` do so by themselves."
            )
        if recipe.union:
            return self._united(x0, goal, key)
        own = key.fold("attack", recipe.name)
        own = Key(own.values, own.values)  # its origin: no attack can get back to the judge's
        if not any(view.is_random(_shape(x0)) for view in self.views):
            equal = 1  # other draws would only cost
            return self._search(x0, goal, own, watch, equal, passes, former)
        if recipe.cosine is None:
            return self._search(x0, goal, own, watch, recipe.draws, passes, former)
        draws, cost = self._sized(x0, goal, own)
        left = None if passes is None else passes - cost.forwards - cost.backwards
        parts, order = [], []
        # Examples of one size are a batch of their own: rows never depend on how batches are cut.
        for n in sorted(set(draws.tolist())):
            index = (draws == n).nonzero()[:, 0]
            some = None if watch is None else _Some(watch, index)
            begun = None if former is None else former[index]
            found = self._search(x0[index], goal[index], own[index], some, n, left, begun)
            parts.append(found._replace(draws=draws[index]))
            order.append(index)
        found = joined_rows(parts, torch.cat(order).argsort())
        return found._replace(
            forwards=found.forwards + cost.forwards, backwards=found.backwards + cost.backwards
        )

    def _united(self, x0: Tensor, goal: Tensor, key: Key) -> Found:
        """One after another, compared on draws that none of them has seen."""
        own = key.fold("attack", self.recipe.name)
        draws = self.recipe.confirm if self.defense.is_random(_shape(x0)) else 1

        def limited(one: Siege, passes: int | None) -> Siege:
            return replace(one, threat=replace(self.threat, passes=passes))

        def fresh(x: Tensor, goal: Tensor, key: Key) -> tuple[Tensor, Tensor, int]:
            meter = Meter(None)
            whole = Oracle(self.defense, margin(), self.threat, meter, draws, "loss", micro_batch)
            reading = whole(x, goal, key, gradient=False)
            loss = reading.won if reading.loss is None else reading.loss
            return reading.won, loss, meter.forwards

        micro_batch = self.opponents.micro_batch
        turns, own = [partial(limited, one) for one in self.union], Key(own.values, own.values)
        return one_after_another(turns, x0, goal, own, fresh, self.threat.passes)

    def _oracle(self, view: Deployed, meter: Meter, draws: int = 1) -> Oracle:
        recipe, who, threat = self.recipe, self.opponents, self.threat
        if recipe.models is not None and view is not self.defense:
            threat = replace(threat, access="gradients")  # of models that are the attacker's own
        loss = load_loss(self.loss, who.losses)
        return Oracle(view, loss, threat, meter, draws, recipe.average, who.micro_batch)

    def _asked(self, meter: Meter, draws: int, precision: str) -> Ask:
        """The views as one oracle."""
        views = [v.with_classifiers(lambda c: in_precision(c, precision)) for v in self.views]
        oracles = [self._oracle(view, meter, draws) for view in views]
        return oracles[0] if len(oracles) == 1 else Joint(oracles)

    def ask(self, meter: Meter, draws: int) -> Ask:
        """What the attack asks: the views in the recipe's precision, gradients from its source."""
        asked = self._asked(meter, draws, self.recipe.precision)
        return GRADIENTS.build(self.recipe.gradients)(asked)

    def problem(self, x0: Tensor, goal: Tensor, key: Key, meter: Meter, draws: int = 1) -> Problem:
        """What the attack sees."""
        ask = self.ask(meter, draws)
        drawn = any(view.is_random(_shape(x0)) for view in self.views)
        return Problem(x0, goal, key, ask, self.threat, self.recipe.steps, drawn)

    def _sized(self, x0: Tensor, goal: Tensor, key: Key) -> tuple[Tensor, Meter]:
        """Draws a step of each example, (B,) int64, and what it took to find them out.

        Powers of two, rounded up, are as fine as eight pilots can tell, and make few groups.
        """
        recipe, cost = self.recipe, Meter(self.threat.passes)
        assert recipe.cosine is not None
        most, problem = recipe.most_draws, self.problem(x0, goal, key, cost, 1)
        try:
            need = draws_for(problem, cosine=recipe.cosine, most=most)
        except BudgetSpent as error:
            raise BadSetting(
                f'recipe "{recipe.name}": the limit of {self.threat.passes} passes an image is '
                f"used up by the pilots that size the draws (cosine = {recipe.cosine:g}): raise "
                "threat.passes, or give `draws` instead."
            ) from error
        powers = [2**i for i in range(most.bit_length()) if 2**i < most]
        sizes = torch.tensor([*powers, most], device=need.device)
        return sizes[torch.bucketize(need, sizes)], cost

    def _search(
        self,
        x0: Tensor,
        goal: Tensor,
        key: Key,
        watch: Watch | None,
        draws: int,
        left: int | None,
        former: Tensor | None,
    ) -> Found:
        """Search with `draws` draws a reading and `left` passes an example."""
        recipe, meter = self.recipe, Meter(left)
        random, exact = self.defense.is_random(_shape(x0)), recipe.precision == "float32"
        faithful = recipe.models is None and "skip" not in recipe.view_of(self.defense).values()
        whole = self._oracle(self.defense, meter)
        plan = Plan(
            steps=recipe.steps,
            restarts=recipe.restarts,
            # Rounding may undo a success, so that it is no fact before the point is handed over.
            certain=faithful and exact and not random and not self.threat.eight_bit,
            confirm=recipe.confirm if random else 1,
            check=whole if recipe.check_whole else None,
            believe_first=recipe.believe_first,
            referee=None if exact else self._asked(meter, 1, "float32"),
            observe=watch.observe if watch else None,
            every=watch.every if watch else 0,
        )
        problem = replace(self.problem(x0, goal, key, meter, draws), former=former)
        made = self.made
        return (hand_over if made.whole else search)(problem, made, meter, plan)


def _shape(x: Tensor) -> Shape:
    return (x.shape[1], x.shape[2], x.shape[3])
