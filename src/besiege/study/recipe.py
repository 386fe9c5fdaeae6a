"""What an attacker knows and does, as data: which links it sees how, and which attack it runs.

The only module that calls `Defense.seen_through`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

import torch
from torch import Tensor

from besiege.attacks.attack import Ask, Attack, Problem
from besiege.attacks.catalog import ATTACKS, GRADIENTS, load_attack
from besiege.attacks.draws import draws_for
from besiege.attacks.joint import Joint
from besiege.attacks.loss import LOSSES, Loss
from besiege.attacks.oracle import BudgetSpent, Meter, Oracle
from besiege.attacks.search import Found, Plan, hand_over, joined_rows, search
from besiege.attacks.threat import Threat
from besiege.core.entry import Catalog, parse_spec
from besiege.core.errors import BadSetting, one_of, unknown
from besiege.core.key import Key
from besiege.defenses.defense import STAGES, Deployed
from besiege.defenses.ensemble import joined
from besiege.defenses.transform import Shape, Transform
from besiege.models.classifier import Classifier
from besiege.models.precision import PRECISIONS, in_precision

GIVEN = "given"  # the attack of points that were found elsewhere

JOINED = ("logits", "probabilities", "loss")

# How a link that the recipe's `view` does not name is seen.
RULES: Mapping[str, str] = {
    "best": "the best surrogate of each link",
    "identity": "the identity through every link",
    "as-is": "each link as it is, no surrogate",
    "exact-or-identity": "exact links; the identity elsewhere",
    "exact-or-skip": "exact links; the others left out",
    "skip": "every link left out",
    "frozen": "the best surrogate of each link, with one draw kept",
}


@dataclass(frozen=True)
class Recipe:
    """One attacker.

    attack: a spec of the attack catalog, "pgd:step=0.1,decay=cosine", or an attack of another
        library (extra `bridge`), "foolbox:L2DeepFoolAttack(steps=50)".
    links: the rule for links that `view` does not name, one of RULES.
    view: link name -> "SURROGATE", "as-is", "skip", "frozen" or "frozen:SURROGATE".
    models: specs of the model catalog. The attacker asks these in place of the defense's own, each
        behind the links as it sees them, and hands over what fools them (transfer). He has them at
        home, with gradients, whatever access to the defense the threat grants; passes count alike.
    joined: how several models answer as one: the mean of their "logits", "probabilities" or "loss".
    draws: draws that each reading averages over; average: what is averaged (see Oracle).
    cosine: if given, `draws` is chosen for each example in its place, before the search: as many as
        give the mean gradient at the clean image this cosine with the true mean (`draws_for`, with
        pilots that count as passes), rounded up to a power of two, at most `most_draws`.
    gradients: a spec of the gradients catalog, "finite-differences:directions=64,step=0.01".
    precision: "float32", or "bfloat16" for the classifier during the search (`in_precision`); last
        and best point meet in float32, and so does the judge. Since its successes are no facts, no
        example is dropped early: on a deterministic defense the search may take longer.
    loss: a spec of the loss catalog; None for that of the attack.
    steps, restarts: of the search.
    check_whole: successes are looked for on the whole defense, forward only, at each step.
    believe_first: stop at the first success on any draw and claim it, as published loops do.
    confirm: fresh draws on which the final point is chosen, and as many others for the claim.

    >>> Recipe("mine", steps=10).draws
    1
    """

    name: str
    attack: str = "pgd"
    links: str = "best"
    view: Mapping[str, str] = field(default_factory=dict)
    models: tuple[str, ...] | None = None
    joined: str = "logits"
    draws: int = 1
    cosine: float | None = None
    most_draws: int = 64
    average: str = "loss"
    gradients: str = "backward"
    precision: str = "float32"
    loss: str | None = None
    steps: int = 50
    restarts: int = 1
    check_whole: bool = False
    believe_first: bool = False
    confirm: int = 8

    def __post_init__(self) -> None:
        if self.links not in RULES:
            raise unknown("rule", self.links, RULES, where=f'recipe "{self.name}", links')
        for key in ("draws", "most_draws", "steps", "restarts", "confirm"):
            least = 0 if key == "steps" else 1
            if (got := getattr(self, key)) < least:
                raise BadSetting(f'recipe "{self.name}": {key} is at least {least}, got {got}.')
        if self.precision not in PRECISIONS:
            where = f'recipe "{self.name}"'
            raise unknown("precision", self.precision, PRECISIONS, where=where)
        GRADIENTS.build(self.gradients)
        one_of("mean", self.joined, JOINED, f'recipe "{self.name}", joined')
        if self.cosine is not None and not 0 < self.cosine < 1:
            raise BadSetting(
                f'recipe "{self.name}": cosine lies between 0 and 1, both excluded, got '
                f"{self.cosine:g}."
            )
        if parse_spec(self.gradients)[0] != "backward" and self.cosine is not None:
            raise BadSetting(
                f'recipe "{self.name}": cosine counts the noise of the draws alone, but the '
                f'gradients "{self.gradients}" add their own: give `draws` instead.'
            )
        if self.estimates and self.precision != "float32":
            raise BadSetting(
                f'recipe "{self.name}": differences of losses in {self.precision} are rounding '
                'errors: give precision = "float32" with these gradients.'
            )

    @property
    def estimates(self) -> bool:
        """Whether its gradients are estimates, which take forward passes only."""
        return GRADIENTS.build(self.gradients).estimates

    def view_of(self, defense: Deployed) -> dict[str, str]:
        """Every link of the defense and how this attacker sees it."""
        rule = {link.name: _by_rule(self.links, link) for link in defense.links}
        if self.links == "frozen" and STAGES in defense.viewable:
            rule = {STAGES: "frozen", **rule}
        return {**rule, **self.view}

    def seen(self, defense: Deployed) -> Deployed:
        """The defense as this attacker sees it, around its own model, in float32."""
        return defense.seen_through(self.view_of(defense))

    def stops_at(self, defense: Deployed) -> str | None:
        """The link nearest to the classifier that lets no gradient through, if there is one.

        None for a recipe that estimates gradients: it sends none through.
        """
        if self.estimates:
            return None
        how = self.view_of(defense)
        for link in reversed(defense.links):
            if how[link.name] == "as-is" and "exact" not in link.surrogates:
                return link.name
        return None


def _by_rule(rule: str, link: Transform) -> str:
    exact = "exact" in link.surrogates
    if rule == "exact-or-identity":
        return "exact" if exact else "identity"
    if rule == "exact-or-skip":
        return "exact" if exact else "skip"
    return rule


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

    @property
    def made(self) -> Attack:
        """The attack that the recipe names; none for points that come from elsewhere."""
        spec, known = self.recipe.attack, self.opponents.attacks
        return load_attack("none" if spec == GIVEN else spec, known)

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

    def attack(self, x0: Tensor, goal: Tensor, key: Key, watch: Watch | None = None) -> Found:
        """Search for adversarial points of x0 (B, C, H, W) in [0, 1].

        goal: (B,) true labels, or targets where the threat is targeted.
        key: of the examples; the search folds ("attack", recipe) into it and can never name the
        judge's stream.
        """
        recipe, passes = self.recipe, self.threat.passes
        own = key.fold("attack", recipe.name)
        own = Key(own.values, own.values)  # its origin: no attack can get back to the judge's
        if not any(view.is_random(_shape(x0)) for view in self.views):
            return self._search(x0, goal, own, watch, 1, passes)  # equal draws would only cost
        if recipe.cosine is None:
            return self._search(x0, goal, own, watch, recipe.draws, passes)
        draws, cost = self._sized(x0, goal, own)
        left = None if passes is None else passes - cost.forwards - cost.backwards
        parts, order = [], []
        # Examples of one size are a batch of their own: rows never depend on how batches are cut.
        for n in sorted(set(draws.tolist())):
            index = (draws == n).nonzero()[:, 0]
            some = None if watch is None else _Some(watch, index)
            found = self._search(x0[index], goal[index], own[index], some, n, left)
            parts.append(found._replace(draws=draws[index]))
            order.append(index)
        found = joined_rows(parts, torch.cat(order).argsort())
        return found._replace(
            forwards=found.forwards + cost.forwards, backwards=found.backwards + cost.backwards
        )

    def _oracle(self, view: Deployed, meter: Meter, draws: int = 1) -> Oracle:
        recipe, who, threat = self.recipe, self.opponents, self.threat
        if recipe.models is not None and view is not self.defense:
            threat = replace(threat, access="gradients")  # of models that are the attacker's own
        loss = who.losses.build(self.loss)
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

    def _problem(self, x0: Tensor, goal: Tensor, key: Key, meter: Meter, draws: int) -> Problem:
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
        most, problem = recipe.most_draws, self._problem(x0, goal, key, cost, 1)
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
        self, x0: Tensor, goal: Tensor, key: Key, watch: Watch | None, draws: int, left: int | None
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
        problem = self._problem(x0, goal, key, meter, draws)
        made = self.made
        return (hand_over if made.whole else search)(problem, made, meter, plan)


def _shape(x: Tensor) -> Shape:
    return (x.shape[1], x.shape[2], x.shape[3])
