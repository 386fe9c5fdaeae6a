"""A model and its defense looked over before any attack: probes, and one short search."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from besiege.attacks.attack import Problem
from besiege.attacks.loss import margin
from besiege.attacks.oracle import Meter, Oracle, Reading
from besiege.attacks.threat import Linf, Threat
from besiege.checks.catalog import CHECKS
from besiege.checks.finding import LEVELS, Finding
from besiege.checks.gradients import Agreement, Lead, Ranks, Saturation, Slopes
from besiege.checks.optimisation import Asked, Duel
from besiege.checks.protocol import Clean, Pixels, Saved
from besiege.checks.randomness import Control, Coupling, Luck
from besiege.core.batch import l2, linf, row_sum
from besiege.core.errors import BesiegeError
from besiege.core.key import Key
from besiege.defenses.defense import VOTE, Deployed
from besiege.defenses.transform import Chain, Shape
from besiege.study import probes
from besiege.study.descent import RANDOM, Descent, descent
from besiege.study.judge import answers
from besiege.study.recipe import Recipe
from besiege.study.siege import Opponents, Siege

Exhibit: TypeAlias = tuple[int, object, str]

STEPS, DRAWS, FRESH = 10, 4, 8  # of the short search, of its gradients, of what judges it
THREAT = Threat(Linf(8 / 255))
RECIPE = Recipe("doctor", attack="pgd", loss="margin", steps=STEPS, draws=DRAWS)


def doctor(
    defense: Deployed,
    x: Tensor,
    y: Tensor,
    *,
    threat: Threat = THREAT,
    recipe: Recipe = RECIPE,
    seed: int = 0,
    micro_batch: int = 32,
) -> list[Finding]:
    """What is wrong with `defense`, or with how `recipe` attacks it, gravest first.

    x (B, C, H, W) as they would be attacked, y (B,) labels; 16 are enough, fewer than 8 prove
    little. threat: untargeted. recipe: of its attack `recipe.steps` steps are made.
    A model in training mode, or images that are not in [0, 1], end the visit: all else would
    follow from it.
    Cost: about 150 forwards and 60 backwards an image on a random defense of one link, 60 forwards
    more for each surrogate.
    """
    visit = _Visit(defense, x, y, threat, recipe, Key.root(seed, range(len(x)), x.device))
    visit = replace(visit, micro_batch=micro_batch)
    found = _named(_of_images(visit))
    if not found:
        found = _named(_of_models(visit))
        if not any(f.number == TRAINING for f in found):
            bare = defense.with_classifiers(probes.unchecked)
            visit = replace(visit, defense=bare)
            found += _named(_of_links(visit)) + _named(_of_whole(visit)) + _named(_of_search(visit))
    rank = list(LEVELS)
    return sorted(found, key=lambda f: (rank.index(f.level), f.number))


TRAINING = 10  # the check after which no other is asked


def _named(exhibits: Iterator[Exhibit | None]) -> list[Finding]:
    found = []
    for exhibit in exhibits:
        if exhibit is not None:
            number, evidence, about = exhibit
            finding = CHECKS[number](evidence, about)
            found += [finding] if finding else []
    return found


@dataclass(frozen=True)
class _Visit:
    """A defense, some images, and how they would be attacked."""

    defense: Deployed
    x: Tensor
    y: Tensor
    threat: Threat
    recipe: Recipe
    key: Key
    micro_batch: int = 32

    @property
    def shape(self) -> Shape:
        return (self.x.shape[1], self.x.shape[2], self.x.shape[3])

    @property
    def random(self) -> bool:
        return self.defense.is_random(self.shape)

    @property
    def fresh(self) -> int:
        return max(1, FRESH // self.defense.passes) if self.random else 1

    def siege(self, recipe: Recipe) -> Siege:
        """The recipe with one draw in place of a vote, which its draws average over."""
        vote = {VOTE: "one"} if VOTE in self.defense.viewable else {}
        whole = replace(recipe, view={**vote, **recipe.view})
        return Siege(self.defense, whole, self.threat, Opponents(micro_batch=self.micro_batch))

    def right(self, defense: Deployed, x: Tensor, key: Key, draws: int) -> np.ndarray:
        """Share of draws right, (B,)."""
        found = answers(defense, x, key, draws, self.micro_batch) == self.y[:, None]
        return _array(found.double().mean(1))

    def margins(self, x: Tensor, key: Key) -> np.ndarray:
        """The true margin loss on fresh draws, (B,)."""
        threat = replace(self.threat, access="gradients")
        whole = Oracle(
            self.defense, margin(), threat, Meter(None), self.fresh, "loss", self.micro_batch
        )
        loss = whole(x, self.y, key, gradient=False).loss
        return np.zeros(len(x)) if loss is None else _array(loss.double())


def _of_images(visit: _Visit) -> Iterator[Exhibit | None]:
    flat = visit.x.flatten(1)
    eps = visit.threat.ball.eps if isinstance(visit.threat.ball, Linf) else float("nan")
    yield 37, Pixels(_array(flat.amin(1)), _array(flat.amax(1)), eps), "images"


def _of_models(visit: _Visit) -> Iterator[Exhibit | None]:
    for part in visit.defense.parts:
        model, about = part.classifier, part.classifier.name
        first = probes.stages(part.chain, visit.x, visit.key.fold("doctor"))
        seen = visit.x if not first else first[-1].link.forward(first[-1].x, first[-1].draw)
        yield 10, probes.modes(model, seen), about
        yield 9, probes.outputs(model, seen), about
        yield 33, probes.coupling(model, seen), about
        yield _or_none(3, partial(probes.derivative_of_model, model, seen, visit.key), about)


def _of_links(visit: _Visit) -> Iterator[Exhibit | None]:
    key = visit.key.fold("doctor")
    for part in visit.defense.parts:
        for stage in probes.stages(part.chain, visit.x, key):
            about = stage.link.name
            yield _or_none(2, partial(probes.graph, stage), about)
            yield _or_none(3, partial(probes.derivative_of_link, stage, key), about)
            yield _or_none(8, partial(probes.displacement, stage, key), about)
            yield _or_none(32, partial(probes.repeats, stage, key), about)
            yield _or_none(32, partial(probes.unkeyed, stage), about)
            yield _or_none(41, partial(probes.inside, stage), about)
            yield _or_none(7, partial(_lead, visit, stage), about)


def _or_none(number: int, probe: Callable[[], Any], about: str) -> Exhibit | None:
    """An exhibit, if the probe brings evidence; a link that cannot be asked has none."""
    try:
        evidence = probe()
    except BesiegeError:
        return None
    return None if evidence is None else (number, evidence, about)


def _lead(visit: _Visit, stage: probes.Stage) -> Lead | None:
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


def _of_whole(visit: _Visit) -> Iterator[Exhibit | None]:
    """What clean images tell of the defense as a whole."""
    key, defense, x = visit.key.fold("doctor", "whole"), visit.defense, visit.x
    about = defense.name
    yield 33, _coupled(visit), about
    clean = visit.right(defense, x, key, visit.fresh)
    bare = defense.parts[0]
    alone = replace(bare, chain=Chain(), vote=type(bare.vote)()) if bare.links else bare
    yield 38, Clean(clean, visit.right(alone, x, key, 1)), about
    yield _or_none(1, partial(_slopes, visit), about)
    yield _or_none(5, partial(_saturation, visit), about)
    if visit.random:
        yield _or_none(4, partial(_agreement, visit), about)
        yield _or_none(28, partial(_nothing, visit, clean), about)


def _coupled(visit: _Visit) -> Coupling:
    """Logits of the first half of the images, with the others and with others in their place."""
    key, x, half = visit.key.fold("coupling"), visit.x, (len(visit.x) + 1) // 2
    with torch.no_grad():
        own = visit.defense.logits(x, key)
        others = visit.defense.logits(torch.cat([x[:half], 1 - x[half:]]), key)
        turned = visit.defense.logits(x.flip(0), key[torch.arange(len(x) - 1, -1, -1)]).flip(0)
    change = torch.maximum((others - own)[:half].abs(), (turned - own)[:half].abs()).amax(1)
    keyed = not any(probes.unkeyed(s).differs for s in _stages(visit))
    return Coupling(_array(change if keyed else 0 * change), _array(own[:half].abs().amax(1)))


def _stages(visit: _Visit) -> list[probes.Stage]:
    key = visit.key.fold("doctor")
    return [s for part in visit.defense.parts for s in probes.stages(part.chain, visit.x, key)]


def _gradient(visit: _Visit, loss: str, *parts: str | int, start: Tensor | None = None) -> Tensor:
    """The mean gradient as the recipe sees it, (B, C, H, W)."""
    siege = visit.siege(replace(visit.recipe, loss=loss))
    draws = visit.recipe.draws if visit.random else 1
    problem = siege.problem(visit.x, visit.y, visit.key.fold("doctor", *parts), Meter(None), draws)
    return problem.slope(visit.x if start is None else start, 0)


def _slopes(visit: _Visit) -> Slopes:
    return Slopes(_array(linf(_gradient(visit, "margin", "slope"))))


def _saturation(visit: _Visit) -> Saturation:
    slope = _gradient(visit, "cross-entropy", "slope")
    return Saturation(_array(linf(slope)), visit.margins(visit.x, visit.key.fold("margin")))


def _agreement(visit: _Visit) -> Agreement:
    """Of two means of `recipe.draws` draws, at random points of the ball."""
    start = visit.threat.ball.start(visit.x, visit.key.fold("doctor", "start"))
    a, b = (_gradient(visit, "margin", "half", i, start=start).double() for i in range(2))
    cosine = row_sum(a * b) / (l2(a) * l2(b)).clamp_min(1e-300)
    return Agreement(_array(cosine), visit.recipe.draws)


def _nothing(visit: _Visit, clean: np.ndarray) -> Control:
    """What the recipe claims to leave of images that it may not change."""
    threat = replace(visit.threat, ball=replace(visit.threat.ball, eps=0.0))  # type: ignore[type-var]
    siege = replace(visit.siege(visit.recipe), threat=threat)
    claim = siege.attack(visit.x, visit.y, visit.key).claim
    return Control(1 - _array(claim.double()), clean)


# One short search


class _Spy:
    """Stands between attack and oracle, and keeps where gradients were asked and what was told."""

    def __init__(self, problem: Problem) -> None:
        self.oracle = problem.oracle
        self.asked: list[Tensor] = []
        self.scores: list[Tensor] = []

    def __call__(self, x: Tensor, goal: Tensor, key: Key, **how: Any) -> Reading:
        reading = self.oracle(x, goal, key, **how)
        if reading.gradient is not None and x.ndim == 4:
            self.asked.append(x.detach())
        if reading.scores is not None and reading.scores.ndim == 2:
            self.scores.append(reading.scores)
        return reading


@dataclass(frozen=True)
class _Search:
    """Where a short search went."""

    x: Tensor
    asked: Asked | None
    ranks: Ranks | None


def _search(visit: _Visit, recipe: Recipe, key: Key) -> _Search | None:
    """The steps of the recipe's attack, overheard; None for one that runs by itself."""
    siege = visit.siege(recipe)
    attack = siege.made
    if attack.whole is not None or recipe.union:
        return None
    draws = recipe.draws if visit.random else 1
    problem = siege.problem(visit.x, visit.y, key, Meter(None), draws)
    spy = _Spy(problem)
    problem = replace(problem, oracle=spy)
    state = attack.init(problem)
    spy.asked.clear()
    off, gone = [], []
    for t in range(recipe.steps):
        here = state.x
        state = attack.step(problem, state, t)
        if spy.asked:
            off.append(torch.stack([l2(here - x) for x in spy.asked]).amin(0))
            gone.append(l2(here - visit.x))
        spy.asked.clear()
    asked = Asked(_columns(off), _columns(gone)) if off else None
    ranks = Ranks(_columns([_rank(s, visit.y) for s in spy.scores])) if spy.scores else None
    return _Search(visit.threat.project(state.x, visit.x), asked, ranks)


def _rank(scores: Tensor, y: Tensor) -> Tensor:
    """How many logits are above the label's, (T * B,)."""
    own = scores.gather(1, y.repeat(len(scores) // len(y))[:, None])
    return (scores > own).sum(1)


def _columns(parts: list[Tensor]) -> np.ndarray:
    return _array(torch.stack(parts, 1))


def _of_search(visit: _Visit) -> Iterator[Exhibit | None]:
    """What a short search shows, and where random noise gets."""
    key, about = visit.key.fold("doctor", "search"), visit.recipe.name
    try:
        found = _search(visit, visit.recipe, key)
    except BesiegeError:
        return
    if found is None:
        return
    if found.asked is not None:
        yield 21, found.asked, about
    if found.ranks is not None and "published" in (visit.siege(visit.recipe).loss):
        yield 6, found.ranks, about
    fresh = visit.key.fold("doctor", "duel")
    signs = key.fold("noise").normal(*visit.shape).to(visit.x)
    ball = visit.threat.ball
    noise = visit.threat.project(visit.x + ball.eps * ball.ascent(signs), visit.x)
    yield 18, Duel(visit.margins(found.x, fresh), visit.margins(noise, fresh)), about
    yield 46, _saved(visit, found.x), visit.defense.name
    if visit.random:
        yield _or_none(30, partial(_luck, visit, found.x), visit.defense.name)


def _saved(visit: _Visit, x: Tensor) -> Saved:
    """Labels of the points as floats, and as 8 bit rounded and cut off; the same draws."""
    key = visit.key.fold("doctor", "saved")
    ways = {"as floats": x, "rounded": (x * 255).round() / 255, "cut off": (x * 255).floor() / 255}
    labels = [answers(visit.defense, z, key, 1, visit.micro_batch)[:, 0] for z in ways.values()]
    return Saved(_columns(labels), tuple(ways))


def _luck(visit: _Visit, x: Tensor) -> Luck | None:
    """Accuracy if the draw is known: a search on it, judged on it."""
    recipe = replace(visit.recipe, name="frozen", links="frozen", draws=1)
    key = visit.key.fold("attack", "frozen")
    key = Key(key.values, key.values)
    found = _search(visit, recipe, key)
    if found is None:
        return None
    view = visit.siege(recipe).views[0]
    fresh = visit.right(visit.defense, x, visit.key.fold("doctor", "luck"), visit.fresh)
    return Luck(visit.right(view, found.x, key, 1), fresh)


def _array(x: Tensor) -> np.ndarray:
    found: np.ndarray = x.detach().cpu().numpy()
    return found
