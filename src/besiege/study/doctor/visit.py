"""What a visit of the doctor has at hand: a defense, images, and how they would be attacked."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from besiege.attacks.loss import margin
from besiege.attacks.oracle import Meter, Oracle
from besiege.attacks.threat import Linf, Threat
from besiege.checks.gradients import Agreement, Lead, Saturation, Slopes
from besiege.checks.protocol import Clean, Pixels
from besiege.checks.randomness import Control, Coupling
from besiege.core.batch import l2, linf, row_sum
from besiege.core.key import Key
from besiege.defenses.defense import VOTE, Deployed
from besiege.defenses.transform import Chain, Shape
from besiege.models.drawing import draws_for_itself
from besiege.study.adaptive.descent import RANDOM, Descent, descent
from besiege.study.doctor import probes
from besiege.study.judge import answers
from besiege.study.recipe import Recipe
from besiege.study.siege import Opponents, Siege

DRAWS, FRESH = 4, 8  # of gradients, and of what judges a point


@dataclass(frozen=True)
class Visit:
    """A defense, some images, and how they would be attacked.

    x (B, C, H, W), y (B,) labels, key: of the examples.
    """

    defense: Deployed
    x: Tensor
    y: Tensor
    threat: Threat
    recipe: Recipe
    key: Key
    micro_batch: int = 32

    @property
    def shape(self) -> Shape:
        """(C, H, W) of the images."""
        return (self.x.shape[1], self.x.shape[2], self.x.shape[3])

    @property
    def random(self) -> bool:
        """Whether two answers to an image can differ."""
        return self.defense.is_random(self.shape)

    @property
    def fresh(self) -> int:
        """Draws that judge a point."""
        return max(1, FRESH // self.defense.passes) if self.random else 1

    def needs_draws(self) -> None:
        """Raise Unasked where nothing is random."""
        if not self.random:
            raise probes.Unasked("nothing is random")

    def siege(self, recipe: Recipe) -> Siege:
        """The recipe with one draw in place of a vote, which its draws average over."""
        vote = {VOTE: "one"} if VOTE in self.defense.viewable else {}
        whole = replace(recipe, view={**vote, **recipe.view})
        return Siege(self.defense, whole, self.threat, Opponents(micro_batch=self.micro_batch))

    def right(self, defense: Deployed, x: Tensor, key: Key, draws: int) -> np.ndarray:
        """Share of draws right, (B,)."""
        found = answers(defense, x, key, draws, self.micro_batch) == self.y[:, None]
        return array(found.double().mean(1))

    def margins(self, x: Tensor, key: Key) -> np.ndarray:
        """The true margin loss on fresh draws, (B,)."""
        threat = replace(self.threat, access="gradients")
        whole = Oracle(
            self.defense, margin(), threat, Meter(None), self.fresh, "loss", self.micro_batch
        )
        loss = whole(x, self.y, key, gradient=False).loss
        if loss is None:
            raise probes.Unasked("the model tells labels only")
        return array(loss.double())


def lead(visit: Visit, stage: probes.Stage) -> Lead:
    """The descent test of the surrogate by which recipes see a link, and the best other one."""
    link = stage.link
    out = tuple(link.out_shape(_shape(stage.x)))
    own = list(link.surrogates) or ["identity"]
    same = out == _shape(stage.x)
    others = [] if own[0] == "exact" else [*(["identity"] if same else []), "moved"]
    names = tuple(dict.fromkeys([*own[:2], *others]))
    eps = visit.threat.ball.eps if isinstance(visit.threat.ball, Linf) else 8 / 255
    found = descent(
        visit.defense,
        link.name,
        visit.x,
        visit.y,
        visit.key.fold("doctor"),
        surrogates=names,
        sizes=(eps / 2, eps),
        draws=DRAWS,
        fresh=visit.fresh,
        micro_batch=visit.micro_batch,
    )
    return _told(found, names)


def _shape(x: Tensor) -> Shape:
    return (x.shape[1], x.shape[2], x.shape[3])


def _told(found: Descent, names: tuple[str, ...]) -> Lead:
    steps = [step for step in found.steps if step.surrogate == names[0]]
    rivals = [name for name in names[1:] if name != RANDOM]
    rival = max(rivals, key=found.gain, default="")
    return Lead(
        names[0],
        tuple(step.share.estimate for step in steps),
        tuple(step.share.low for step in steps),
        tuple(step.gain for step in steps),
        rival,
        found.gain(rival) if rival else float("nan"),
    )


def clean(visit: Visit) -> np.ndarray:
    """Share of draws right of the clean images, (B,)."""
    return visit.right(visit.defense, visit.x, visit.key.fold("doctor", "whole"), visit.fresh)


def cost(visit: Visit, clean: np.ndarray) -> Clean:
    """Clean images behind the defense, and the first model alone."""
    bare = visit.defense.parts[0]
    alone = replace(bare, chain=Chain(), vote=type(bare.vote)()) if bare.links else bare
    return Clean(clean, visit.right(alone, visit.x, visit.key.fold("doctor", "whole"), 1))


def stages(visit: Visit) -> list[probes.Stage]:
    """Every link of every part, with what reaches it."""
    key = visit.key.fold("doctor")
    return [s for part in visit.defense.parts for s in probes.stages(part.chain, visit.x, key)]


def floor(visit: Visit) -> Pixels:
    """The radius, for images that may be saved. Raises Unasked where it is no pixel distance."""
    ball = visit.threat.ball
    if not isinstance(ball, Linf):
        raise probes.Unasked("the radius is no distance of pixels")
    return Pixels(np.zeros(1), np.ones(1), ball.eps)


def coupled(visit: Visit) -> Coupling:
    """Logits of the first half of the images, with the others and with others in their place.

    Raises Unasked where answers differ for another reason.
    """
    if any(probes.unkeyed(stage).differs for stage in stages(visit)):
        raise probes.Unasked("a link answers differently to the same image and draw: see check 32")
    if any(draws_for_itself(part.classifier) for part in visit.defense.parts):
        raise probes.Unasked("the model draws from a generator of its own: see check 32")
    key, x, half = visit.key.fold("coupling"), visit.x, (len(visit.x) + 1) // 2
    with torch.no_grad():
        own = visit.defense.logits(x, key)
        others = visit.defense.logits(torch.cat([x[:half], 1 - x[half:]]), key)
        turned = visit.defense.logits(x.flip(0), key[torch.arange(len(x) - 1, -1, -1)]).flip(0)
    change = torch.maximum((others - own)[:half].abs(), (turned - own)[:half].abs()).amax(1)
    return Coupling(array(change), array(own[:half].abs().amax(1)))


def _gradient(visit: Visit, loss: str, *parts: str | int, start: Tensor | None = None) -> Tensor:
    """The mean gradient as the recipe sees it, (B, C, H, W)."""
    siege = visit.siege(replace(visit.recipe, loss=loss))
    draws = visit.recipe.draws if visit.random else 1
    problem = siege.problem(visit.x, visit.y, visit.key.fold("doctor", *parts), Meter(None), draws)
    return problem.slope(visit.x if start is None else start, 0)


def slopes(visit: Visit) -> Slopes:
    """Of the margin, as the recipe sees it."""
    return Slopes(array(linf(_gradient(visit, "margin", "slope"))))


def saturation(visit: Visit) -> Saturation:
    """Of cross-entropy, beside the true margin."""
    slope = _gradient(visit, "cross-entropy", "slope")
    return Saturation(array(linf(slope)), visit.margins(visit.x, visit.key.fold("margin")))


def agreement(visit: Visit) -> Agreement:
    """Of two means of `recipe.draws` draws, at random points of the ball."""
    visit.needs_draws()
    start = visit.threat.ball.start(visit.x, visit.key.fold("doctor", "start"))
    a, b = (_gradient(visit, "margin", "half", i, start=start).double() for i in range(2))
    cosine = row_sum(a * b) / (l2(a) * l2(b)).clamp_min(1e-300)
    return Agreement(array(cosine), visit.recipe.draws)


def nothing(visit: Visit, clean: np.ndarray) -> Control:
    """What the recipe claims to leave of images that it may not change."""
    visit.needs_draws()
    threat = replace(visit.threat, ball=replace(visit.threat.ball, eps=0.0))  # type: ignore[type-var]
    siege = replace(visit.siege(visit.recipe), threat=threat)
    claim = siege.attack(visit.x, visit.y, visit.key).claim
    return Control(1 - array(claim.double()), clean)


def array(x: Tensor) -> np.ndarray:
    """As NumPy has it."""
    found: np.ndarray = x.detach().cpu().numpy()
    return found
