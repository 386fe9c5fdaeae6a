"""What an attacker knows and does, as data: which links it sees how, and which attack it runs.

The only module that calls `Defense.seen_through`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from besiege.attacks.catalog import GRADIENTS
from besiege.core.entry import parse_spec
from besiege.core.errors import BadSetting, one_of, unknown
from besiege.defenses.defense import STAGES, Deployed
from besiege.defenses.imitation import LEARNED
from besiege.defenses.transform import Transform
from besiege.models.precision import PRECISIONS

NONE = "none"  # the attack of the clean figure
GIVEN = "given"  # the attack of points that were found elsewhere
ADAPTIVE = "adaptive"  # the attack of a recipe that is yet to be worked out
UNION = "union"  # the attack of a recipe that is several, one after the other

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
        library (extra `bridge`), "foolbox:L2DeepFoolAttack(steps=50)". One of the wrapper catalog
        goes before: "smallest:rounds=6 of pgd".
    links: the rule for links that `view` does not name, one of RULES.
    view: link name -> "SURROGATE", "as-is", "skip", "frozen", "frozen:SURROGATE", or
        "learned:FILE" of a network that imitates the link; "frozen:learned:FILE".
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
    loss: a spec of the loss catalog, or a sum, "cross-entropy + 0.1*margin"; None for that of the
        attack.
    steps, restarts: of the search.
    check_whole: successes are looked for on the whole defense, forward only, at each step.
    believe_first: stop at the first success on any draw and claim it, as published loops do.
    confirm: fresh draws on which the final point is chosen, and as many others for the claim.
    union: other recipes, each tried on what the former left (see `one_after_another`), in place of
        an attack of its own; attack = "union".

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
    union: tuple[Recipe, ...] = ()

    def __post_init__(self) -> None:
        if self.links not in RULES:
            raise unknown("rule", self.links, RULES, where=f'recipe "{self.name}", links')
        for key in ("draws", "most_draws", "steps", "restarts", "confirm"):
            least = 0 if key == "steps" else 1
            if (got := getattr(self, key)) < least:
                raise BadSetting(f'recipe "{self.name}": {key} is at least {least}, got {got}.')
        if bool(self.union) != (self.attack == UNION):
            raise BadSetting(
                f'recipe "{self.name}": attack = "{UNION}" goes with the recipes of a `union`, and '
                f"they with it; got {self.attack!r} and {len(self.union)} of them."
            )
        names = [recipe.name for recipe in self.union]
        if len(set(names)) < len(names) or any(recipe.union for recipe in self.union):
            raise BadSetting(
                f'recipe "{self.name}": those of a union have names of their own and are no unions '
                f"themselves; got {names}."
            )
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
    def searches(self) -> tuple[Recipe, ...]:
        """Those of its union, or itself."""
        return self.union or (self,)

    @property
    def estimates(self) -> bool:
        """Whether its gradients are estimates, which take forward passes only."""
        return GRADIENTS.build(self.gradients).estimates

    @property
    def learned(self) -> tuple[Path, ...]:
        """Files of the networks that imitate links."""
        found = (how.removeprefix("frozen:").partition(":") for how in self.view.values())
        return tuple(Path(path) for kind, _, path in found if kind == LEARNED and path)

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
        if self.estimates or self.union:
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
