"""Defenses, attacks and evaluations that are broken on purpose, each named by the check it is for.

Every one is asked on the digits with the small network, or on a toy with a known answer, and comes
with the controls that must pass. They say how well the thresholds of `besiege.checks` tell the two
apart: `docs/checks.md` has the rates.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from besiege.attacks.attack import Attack, Point, Problem
from besiege.attacks.catalog import ATTACKS
from besiege.attacks.loss import margin
from besiege.attacks.threat import Linf, RmsL2, Threat
from besiege.checks.catalog import CHECKS
from besiege.checks.finding import Finding
from besiege.checks.optimisation import Iterates
from besiege.core.batch import by_example
from besiege.core.entry import Entry
from besiege.core.key import Key
from besiege.data.catalog import load_images
from besiege.defenses.defense import Defense, Majority
from besiege.defenses.jpeg import Jpeg
from besiege.defenses.noise import Noise
from besiege.defenses.random_distortion import RandomDistortion
from besiege.defenses.transform import Chain, Transform, identity
from besiege.laws.broken_links import (
    Claiming,
    Reseeded,
    Scaled,
    Seen,
    by_numpy,
    coarse,
    in_training,
    misled,
    modelled,
    moved_by_two,
    network,
    quarter,
    restoring,
    signs,
)
from besiege.laws.problems import code_images, coin_defense
from besiege.models.classifier import Classifier
from besiege.study.doctor.doctor import RECIPE, doctor
from besiege.study.evidence.aside import FIRST
from besiege.study.evidence.evidence import Cell, cells_of
from besiege.study.evidence.examine import examine
from besiege.study.judge import Judging
from besiege.study.recipe import Recipe
from besiege.study.record import describe
from besiege.study.shard import Examples, siege_batch
from besiege.study.siege import Opponents, Siege

IMAGES, MORE = 16, 32  # for the doctor, and for runs
THREAT = Threat(Linf(0.1))


@dataclass(frozen=True)
class Broken:
    """checks: numbers of those that have to name it. ask: seed -> what checks find."""

    name: str
    checks: tuple[int, ...]
    ask: Callable[[int], list[Finding]]

    def named(self, seed: int) -> bool:
        """Whether each of its checks finds something."""
        return set(self.checks) <= {finding.number for finding in self.ask(seed)}


def digits(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Other n digits for every seed; after the last comes the first again."""
    images = load_images("digits")
    x, y, _ = images.take([i % len(images) for i in range(seed * n, (seed + 1) * n)])
    return x, y


def behind(*links: Transform, model: Classifier | None = None) -> Defense:
    """A defense of the digits."""
    return Defense(Chain(links), model or network())


def visited(defense: Defense, seed: int, recipe: Recipe = RECIPE) -> list[Finding]:
    """What the doctor finds on other digits for every seed."""
    x, y = digits(IMAGES, seed)
    return doctor(defense, x, y, threat=THREAT, recipe=recipe, seed=seed)


def cells(
    defense: Defense,
    recipes: tuple[Recipe, ...],
    threat: Threat = THREAT,
    seed: int = 0,
    judging: Judging | None = None,
    images: tuple[Tensor, Tensor] | None = None,
    opponents: Opponents | None = None,
) -> list[Cell]:
    """The cells of a small run, in memory."""
    x, y = images or digits(MORE, seed)
    judging = judging or Judging(draws=20)
    ids = list(range(len(x)))
    records: list[dict[str, Any]] = []
    rows: list[dict[str, object]] = []
    traces: list[dict[str, object]] = []
    for recipe in recipes:
        siege = Siege(defense, recipe, threat, opponents or Opponents())
        own = {"defense": defense.name, "chain": defense.name, "vote": defense.counting}
        record = {"cell": f"{len(records):016d}", **describe(siege, judging, **own)}
        given = Examples(ids, x, y, torch.full_like(y, -1))
        shard = siege_batch(record["cell"], siege, given, seed, judging, first=ids[:FIRST])
        records.append(record)
        rows += _rows(shard.rows)
        traces += _rows(shard.traces or {})
    return cells_of(records, rows, traces, ids)


def _rows(columns: Mapping[str, list[object]]) -> list[dict[str, object]]:
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


# Evaluations


def _frozen_at_clean(seed: int) -> list[Finding]:
    attack = "gradient-descent:rate=0.02,step=unit,at=clean"
    return visited(behind(), seed, Recipe("clean", attack=attack, loss="margin", steps=8))


def _last_point(seed: int) -> list[Finding]:
    """A fresh start and one step at each step, and the last of these points handed over."""
    (x, y), model, loss = digits(MORE, seed), network(), margin()
    ball, key, won = Linf(0.12), Key.root(seed, range(len(x))).fold("last"), []
    for step in range(10):
        start = ball.start(x, key.fold(step)).requires_grad_()
        (slope,) = torch.autograd.grad(loss(model(start), y, False).sum(), start)
        with torch.no_grad():
            z = ball.project(start + 0.5 * ball.eps * slope.sign(), x)
            won.append((loss(model(z), y, False) > 0).double())
    evidence = Iterates(torch.stack(won, 1).numpy(), 1, won[-1].numpy(), 1)
    finding = CHECKS[12](evidence, "last point")
    return [finding] if finding else []


def _small_steps(seed: int) -> list[Finding]:
    sizes = ("0.00001", "0.01", "0.1")
    recipes = tuple(
        Recipe(f"step {s}", attack=f"pgd:step={s},decay=constant,start=clean", steps=12)
        for s in sizes
    )
    return examine(cells(behind(), recipes, Threat(Linf(0.2)), seed))


def _three_steps(seed: int) -> list[Finding]:
    attack = "pgd:step=0.1,decay=constant,start=clean"
    recipes = tuple(Recipe(f"{n} steps", attack=attack, steps=n) for n in (3, 30))
    return examine(cells(behind(), recipes, Threat(Linf(0.2)), seed))


def _abort(seed: int) -> list[Finding]:
    attack = "gradient-descent:rate=30,over=abort"
    recipe = Recipe("abort", attack=attack, loss="margin", steps=10)
    return examine(cells(behind(), (recipe,), Threat(RmsL2(0.05)), seed))


def _noise_classifier(p: float) -> Callable[[int], list[Finding]]:
    """A classifier right with probability p whatever it sees, and one lucky draw counted."""

    def ask(seed: int) -> list[Finding]:
        y = torch.arange(MORE) % 10
        images = code_images(y, 10), y
        recipes = (
            Recipe("none", attack="none", links="skip", steps=0),
            Recipe("first", attack="pgd", steps=20, believe_first=True),
        )
        return examine(cells(coin_defense(p), recipes, Threat(Linf(0.04)), seed, images=images))

    return ask


def _told_the_seed(seed: int) -> list[Finding]:
    """Points made on the very draws that judge them."""
    (x, y), defense = digits(2 * MORE, seed), behind(Noise(scale=0.5, clip=True))
    draws, eps, z = 4, 0.08, x.clone()
    keys = Key.root(seed, range(len(x))).fold("judge").spread("draw", draws)
    loss = margin()
    for _ in range(20):
        leaf = z.repeat_interleave(draws, 0).requires_grad_()
        value = loss(defense.logits(leaf, keys), y.repeat_interleave(draws), False)
        (slope,) = torch.autograd.grad(value.sum(), leaf)
        step = 0.2 * eps * by_example(slope, draws).mean(1).sign()
        z = torch.minimum(torch.maximum(z + step, x - eps), x + eps).clamp(0, 1)
    told = Attack(
        lambda p: Point(p.x0), lambda p, s, t: Point(p.threat.project(z[: len(s.x)], s.x))
    )
    known = Opponents(ATTACKS.extended([Entry("told", lambda: told, "house: broken")]))
    recipes = (Recipe("told", attack="told", loss="margin", steps=1),)
    threat, judging = Threat(Linf(eps)), Judging(draws=draws)
    return examine(cells(defense, recipes, threat, seed, judging, (x, y), known))


def _one_draw(seed: int) -> list[Finding]:
    noisy = behind(Noise(scale=0.6, clip=True))
    recipes = (Recipe("none", attack="none", links="skip", steps=0),)
    return examine(cells(noisy, recipes, THREAT, seed, Judging(draws=4)))


def _normalised(seed: int) -> list[Finding]:
    x, y = digits(IMAGES, seed)
    return doctor(behind(), (x - 0.5) / 0.5, y, threat=THREAT, seed=seed)


def _masked(seed: int) -> list[Finding]:
    """A surrogate that misleads, in a run that has attackers who do not need it."""
    defense = behind(Claiming(coarse, misled))
    recipes = (
        Recipe("bpda", loss="margin", steps=10),
        Recipe("oblivious", loss="margin", links="skip", steps=10),
        Recipe("square", attack="square", links="as-is", steps=150),
    )
    return examine(cells(defense, recipes, Threat(Linf(0.2)), seed))


def _two_surrogates(seed: int) -> list[Finding]:
    defense = behind(Claiming(coarse, misled))
    recipes = tuple(Recipe(how, loss="margin", links=how, steps=10) for how in ("best", "identity"))
    return examine(cells(defense, recipes, Threat(Linf(0.2)), seed))


def _left_out(seed: int) -> list[Finding]:
    """Two links, one of them seen through a surrogate that misleads, or left out."""
    defense = behind(Claiming(coarse, misled), Claiming(moved_by_two, identity, "moved by 2"))
    recipes = (
        Recipe("bpda", loss="margin", view={"moved by 2": "moved"}, steps=10),
        Recipe("without", loss="margin", view={"own": "skip", "moved by 2": "moved"}, steps=10),
    )
    return examine(cells(defense, recipes, Threat(Linf(0.2)), seed))


def _dead_at_any_radius(seed: int) -> list[Finding]:
    recipe = Recipe("bpda", attack="pgd:start=clean", loss="margin", steps=10)
    return examine(cells(behind(Claiming(signs)), (recipe,), Threat(Linf(1.0)), seed))


def _few_starts(seed: int) -> list[Finding]:
    attack = "pgd:step=0.05,decay=constant"
    starts = tuple(Recipe(f"{n} starts", attack=attack, steps=1, restarts=n) for n in (1, 30))
    return examine(cells(behind(), starts, Threat(Linf(0.2)), seed))


def _creeping(seed: int) -> list[Finding]:
    """One step of the radius, and ten of a thousandth of it."""
    one = Recipe("one", attack="pgd:step=1,start=clean", loss="margin", steps=1)
    ten = Recipe("ten", attack="pgd:step=0.001,start=clean", loss="margin", steps=10)
    return examine(cells(behind(), (one, ten), Threat(Linf(0.2)), seed))


def _wrong_loss(seed: int) -> list[Finding]:
    sure = behind(model=modelled(Scaled(1e4)))
    recipes = tuple(Recipe(loss, loss=loss, steps=10) for loss in ("cross-entropy", "margin"))
    return examine(cells(sure, recipes, Threat(Linf(0.1)), seed))


def _labels_win(seed: int) -> list[Finding]:
    recipes = (
        Recipe("bpda", attack="pgd:start=clean", loss="margin", steps=10),
        Recipe("labels", attack="hop-skip-jump", links="as-is", steps=20),
    )
    images = digits(8, seed)
    defense = behind(Claiming(coarse, misled))
    return examine(cells(defense, recipes, Threat(Linf(0.3)), seed, images=images))


def _quorum(seed: int) -> list[Finding]:
    shy = Defense(Chain((Noise(scale=0.4, clip=True),)), network(), Majority(8, quorum=0.9))
    control = Recipe("none", attack="none", links="skip", steps=0)
    return examine(cells(shy, (control,), seed=seed, judging=Judging(draws=4)))


def _never_projected(seed: int) -> list[Finding]:
    def step(p: Problem, s: Point, t: int) -> Point:
        return Point((s.x + p.threat.ball.eps * p.slope(s.x, t).sign()).clamp(0, 1))

    attack = Attack(lambda p: Point(p.x0), step, loss="margin")
    known = ATTACKS.extended([Entry("unprojected", lambda: attack, "house: broken")])
    recipe = Recipe("unprojected", attack="unprojected", steps=3)
    return examine(cells(behind(), (recipe,), THREAT, seed, opponents=Opponents(known)))


BROKEN: tuple[Broken, ...] = (
    Broken("graph cut by NumPy", (2,), lambda s: visited(behind(Claiming(by_numpy)), s)),
    Broken("sign quantiser", (1,), lambda s: visited(behind(Claiming(signs)), s)),
    Broken("logits x 1e4", (5,), lambda s: visited(behind(model=modelled(Scaled(1e4))), s)),
    Broken(
        "FD moved by 2 px, identity",
        (8,),
        lambda s: visited(behind(Claiming(moved_by_two, identity)), s),
    ),
    Broken(
        "warp, identity",
        (7,),
        lambda s: visited(behind(Seen(RandomDistortion(limit=0.9, cells=2))), s),
    ),
    Broken("gradient at the clean image", (21,), _frozen_at_clean),
    Broken("last point, not the best", (12,), _last_point),
    Broken("step 1e-5", (11, 17), _small_steps),
    Broken("generator reseeded in forward", (32,), lambda s: visited(behind(Reseeded()), s)),
    Broken("batch norm in training", (10, 33), lambda s: visited(behind(model=in_training()), s)),
    Broken(
        "softmax output", (9,), lambda s: visited(behind(model=modelled(Scaled(softmax=True))), s)
    ),
    Broken("normalised input", (37,), _normalised),
    Broken("abort over budget", (42,), _abort),
    Broken("noise classifier p = 0.5", (28, 43), _noise_classifier(0.5)),
    Broken("noise classifier p = 0.8", (28, 43), _noise_classifier(0.8)),
    Broken("noise classifier p = 0.95", (28, 43), _noise_classifier(0.95)),
    Broken("attacker told the judge's seed", (32,), _told_the_seed),
    Broken(
        "surrogate that returns noise",
        (7, 18),
        lambda s: visited(behind(Claiming(coarse, misled)), s),
    ),
    Broken("one draw for a verdict", (29,), _one_draw),
    Broken("gradient scaled by 1/4", (3,), lambda s: visited(behind(Claiming(quarter)), s)),
    Broken("3 steps", (15,), _three_steps),
    Broken("masked, with other attackers", (22, 23), _masked),
    Broken("two surrogates, one misled", (25,), _two_surrogates),
    Broken("a link better left out", (26,), _left_out),
    Broken(
        "one draw of strong noise",
        (4,),
        lambda s: visited(behind(Noise(scale=1.0, clip=True)), s, replace(RECIPE, draws=1)),
    ),
    Broken("dead gradient, any image", (13,), _dead_at_any_radius),
    Broken("one random start", (16,), _few_starts),
    Broken("steps of a thousandth", (19,), _creeping),
    Broken("cross-entropy on logits x 1e4", (20,), _wrong_loss),
    Broken("misled, against labels", (22, 24), _labels_win),
    Broken("vote that abstains", (35,), _quorum),
    Broken("never projected", (36,), _never_projected),
    Broken(
        "optimises inside",
        (41,),
        lambda s: visited(behind(Claiming(restoring, identity)), s),
    ),
)


def _control(*links: Transform, votes: int = 0) -> Callable[[int], list[Finding]]:
    """Doctor and a small run."""

    def ask(seed: int) -> list[Finding]:
        defense = behind(*links)
        if votes:
            defense = Defense(defense.chain, defense.classifier, Majority(votes))
        recipes = (
            Recipe("none", attack="none", links="skip", steps=0),
            Recipe("bpda", loss="margin", view=_one(votes), steps=10),
            Recipe("bpda+eot", loss="margin", view=_one(votes), steps=20, draws=4),
        )
        judging = Judging(draws=4 if votes else 20)
        return [*visited(defense, seed), *examine(cells(defense, recipes, THREAT, seed, judging))]

    return ask


def _one(votes: int) -> dict[str, str]:
    return {"vote": "one"} if votes else {}


CONTROLS: tuple[Broken, ...] = (
    Broken("no defense", (), _control()),
    Broken("Gaussian noise, exact gradient", (), _control(Noise(scale=0.1, clip=True))),
    Broken("JPEG, identity", (), _control(Seen(Jpeg()))),
    Broken("majority of 16", (), _control(Noise(scale=0.1, clip=True), votes=16)),
)
