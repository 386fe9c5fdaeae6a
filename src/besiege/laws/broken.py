"""Defenses, attacks and evaluations that are broken on purpose, each named by the check it is for.

Every one is asked on the digits with the small network, or on a toy with a known answer, and comes
with the controls that must pass. They say how well the thresholds of `besiege.checks` tell the two
apart: `docs/checks.md` has the rates.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from besiege.attacks.loss import margin
from besiege.attacks.threat import Linf, RmsL2, Threat
from besiege.checks.catalog import CHECKS
from besiege.checks.finding import Finding
from besiege.checks.optimisation import Iterates
from besiege.checks.randomness import Control, Elsewhere, Streams
from besiege.core.batch import by_example
from besiege.core.key import Key
from besiege.data.catalog import load_images
from besiege.defenses.defense import Defense, Majority
from besiege.defenses.feature_distillation import FeatureDistillation
from besiege.defenses.jpeg import Jpeg
from besiege.defenses.noise import Noise
from besiege.defenses.random_distortion import RandomDistortion
from besiege.defenses.transform import Chain, Shape, Surrogate, Transform, identity
from besiege.laws.problems import code_images, coin_defense
from besiege.models.catalog import load_model
from besiege.models.classifier import Classifier
from besiege.study.doctor import RECIPE, doctor
from besiege.study.evidence import Cell, cells_of
from besiege.study.examine import examine
from besiege.study.judge import Judging, answers
from besiege.study.recipe import Recipe
from besiege.study.record import describe
from besiege.study.shard import Examples, siege_batch
from besiege.study.siege import Siege

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
    """Other n digits for every seed."""
    x, y, _ = load_images("digits").take(range(seed * n, (seed + 1) * n))
    return x, y


def network() -> Classifier:
    """The small network of the digits."""
    return load_model("digits-cnn")


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
) -> list[Cell]:
    """The cells of a small run, in memory."""
    x, y = images or digits(MORE, seed)
    judging = judging or Judging(draws=20)
    ids = list(range(len(x)))
    records, rows, traces = [], [], []
    for recipe in recipes:
        siege = Siege(defense, recipe, threat)
        own = {"defense": defense.name, "chain": defense.name, "vote": defense.counting}
        record = {"cell": f"{len(records):016d}", **describe(siege, judging, **own)}
        given = Examples(ids, x, y, torch.full_like(y, -1))
        shard = siege_batch(record["cell"], siege, given, seed, judging)
        records.append(record)
        rows += _rows(shard.rows)
        traces += _rows(shard.traces or {})
    return cells_of(records, rows, traces, ids)


def _rows(columns: Mapping[str, list[object]]) -> list[dict[str, object]]:
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


# Links


@dataclass(frozen=True)
class Seen(Transform):
    """A link that shows attackers only one of its surrogates, as if there were no better."""

    link: Transform
    only: str = "identity"

    @property
    def name(self) -> str:
        """The link's own."""
        return self.link.name

    def draw(self, key: Key, shape: Shape) -> object:  # type: ignore[override]
        """The link's own."""
        return self.link.draw(key, shape)

    def forward(self, x: Tensor, draw: object) -> Tensor:
        """The link's own."""
        return self.link.forward(x, draw)

    @property
    def surrogates(self) -> Mapping[str, Surrogate]:
        """One."""
        return {self.only: self.link.surrogates.get(self.only, identity)}


@dataclass(frozen=True, eq=False)
class Claiming(Transform):
    """A deterministic function that claims an exact gradient; or with a surrogate of its own."""

    f: Callable[[Tensor], Tensor]
    surrogate: Surrogate | None = None
    name: str = "own"

    def forward(self, x: Tensor, draw: object) -> Tensor:
        """f."""
        return self.f(x)

    @property
    def surrogates(self) -> Mapping[str, Surrogate]:
        """ "exact", or that which was given."""
        if self.surrogate is None:
            return {"exact": self.forward}
        return {"own": self.surrogate}


@dataclass(frozen=True)
class Reseeded(Transform):
    """Noise from a generator that is seeded anew in every call: the same for ever."""

    scale: float = 0.1
    name: str = "reseeded"

    def draw(self, key: Key, shape: Shape) -> Tensor:
        """Drawn, and not looked at."""
        return key.normal(*shape)

    def forward(self, x: Tensor, draw: Tensor) -> Tensor:
        """x and noise of seed 0."""
        own = Key.root(0, [0] * len(x), x.device).fold("own").normal(*x.shape[1:])
        return (x + self.scale * own).clamp(0, 1)

    @property
    def surrogates(self) -> Mapping[str, Surrogate]:
        """Exact."""
        return {"exact": self.forward}


def _by_numpy(x: Tensor) -> Tensor:
    """A soft contrast, computed outside torch."""
    return torch.from_numpy(np.clip(0.9 * x.detach().numpy() + 0.05, 0, 1))


def _sign(x: Tensor) -> Tensor:
    return torch.sign(x - 0.5) / 2 + 0.5


def _quarter(x: Tensor) -> Tensor:
    """The image, with a quarter of its gradient."""
    return x.detach() + (x - x.detach()) / 4


def _moved(x: Tensor) -> Tensor:
    """Feature distillation that hands its output on two pixels lower and to the right."""
    return FeatureDistillation().forward(x, None).roll((2, 2), (-2, -1))


def _coarse(x: Tensor) -> Tensor:
    return (x.detach() * 15).round() / 15


def _misled(x: Tensor, draw: object) -> Tensor:
    """A gradient in a random direction, fixed for each place."""
    return x * Key.root(7, [0] * len(x)).fold("misled").normal(*x.shape[1:]).to(x)


def _restoring(x: Tensor) -> Tensor:
    """Some steps of gradient descent on an energy: autograd inside the forward pass."""
    z = x.detach()
    for _ in range(2):
        with torch.enable_grad():
            leaf = z.clone().requires_grad_()
            rough = (leaf[..., 1:] - leaf[..., :-1]).square().sum()
            z = z - 0.05 * torch.autograd.grad(rough, leaf)[0]
    return z.clamp(0, 1)


class _Scaled(nn.Module):
    """Logits times a factor, or their softmax."""

    def __init__(self, factor: float = 1.0, softmax: bool = False) -> None:
        super().__init__()
        self.inner = network()
        self.factor, self.softmax = factor, softmax

    def forward(self, x: Tensor) -> Tensor:
        """What it does to (B, K) logits."""
        logits: Tensor = self.factor * self.inner(x)
        return logits.softmax(-1) if self.softmax else logits


def _modelled(module: nn.Module) -> Classifier:
    return Classifier(module.eval(), 10, name="broken", channels=1)


def _in_training() -> Classifier:
    classifier = _modelled(nn.Sequential(nn.BatchNorm2d(1), network().network))
    classifier.network[0].train()  # type: ignore[index]
    return classifier


# Evaluations


def _frozen_at_clean(seed: int) -> list[Finding]:
    attack = "gradient-descent:rate=0.02,step=unit,at=clean"
    return visited(behind(), seed, Recipe("clean", attack=attack, loss="margin", steps=8))


def _last_point(seed: int) -> list[Finding]:
    """Large constant steps that jump over the border and back, and the last point handed over."""
    (x, y), model, loss = digits(MORE, seed), network(), margin()
    eps, z, won = 0.06, x.clone(), []
    for _ in range(20):
        leaf = z.detach().requires_grad_()
        value = loss(model(leaf), y, False)
        (slope,) = torch.autograd.grad(value.sum(), leaf)
        won.append((value > 0).double().detach())
        z = torch.minimum(torch.maximum(z + 2 * eps * slope.sign(), x - eps), x + eps).clamp(0, 1)
    with torch.no_grad():
        last = (loss(model(z), y, False) > 0).double()
    evidence = Iterates(torch.stack(won, 1).numpy(), 1, last.numpy(), 1)
    finding = CHECKS[12](evidence, "last point")
    return [finding] if finding else []


def _run(
    defense: Defense, recipes: tuple[Recipe, ...], threat: Threat = THREAT
) -> Callable[[int], list[Finding]]:
    return lambda seed: examine(cells(defense, recipes, threat, seed))


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
        ran = cells(coin_defense(p), recipes, Threat(Linf(0.0)), seed, images=images)
        believed = 1 - ran[1].column("claim").astype(float)
        finding = CHECKS[28](Control(believed, ran[0].right), "claims")
        return [*examine(ran), *([finding] if finding else [])]

    return ask


def _told_the_seed(seed: int) -> list[Finding]:
    """Points made on the very draws that judge them."""
    (x, y), defense = digits(MORE, seed), behind(Noise(scale=0.3, clip=True))
    judge = Key.root(seed, range(len(x))).fold("judge")
    draws, eps, z = 4, 0.06, x.clone()
    keys, loss = judge.spread("draw", draws), margin()
    for _ in range(10):
        leaf = z.repeat_interleave(draws, 0).requires_grad_()
        value = loss(defense.logits(leaf, keys), y.repeat_interleave(draws), False)
        (slope,) = torch.autograd.grad(value.sum(), leaf)
        step = 0.2 * eps * by_example(slope, draws).mean(1).sign()
        z = torch.minimum(torch.maximum(z + step, x - eps), x + eps).clamp(0, 1)
    judged = (answers(defense, z, judge, draws, 32) == y[:, None]).double().mean(1)
    other = Key.root(seed + 1000, range(len(x))).fold("judge")
    fresh = (answers(defense, z, other, 20, 32) == y[:, None]).double().mean(1)
    exhibits = (
        Streams(keys.values.numpy(), keys.values.numpy()),
        Elsewhere(judged.numpy(), fresh.numpy()),
    )
    found = [CHECKS[32](e, "told the seed") for e in exhibits]
    return [f for f in found if f]


def _one_draw(seed: int) -> list[Finding]:
    noisy = behind(Noise(scale=0.6, clip=True))
    recipes = (Recipe("none", attack="none", links="skip", steps=0),)
    return examine(cells(noisy, recipes, THREAT, seed, Judging(draws=4)))


def _normalised(seed: int) -> list[Finding]:
    x, y = digits(IMAGES, seed)
    return doctor(behind(), (x - 0.5) / 0.5, y, threat=THREAT, seed=seed)


def _masked(seed: int) -> list[Finding]:
    """A surrogate that misleads, in a run that has attackers who do not need it."""
    defense = behind(Claiming(_coarse, _misled))
    recipes = (
        Recipe("bpda", loss="margin", steps=10),
        Recipe("oblivious", loss="margin", links="skip", steps=10),
        Recipe("square", attack="square", links="as-is", steps=150),
    )
    return examine(cells(defense, recipes, Threat(Linf(0.2)), seed))


def _two_surrogates(seed: int) -> list[Finding]:
    defense = behind(Claiming(_coarse, _misled))
    recipes = tuple(Recipe(how, loss="margin", links=how, steps=10) for how in ("best", "identity"))
    return examine(cells(defense, recipes, Threat(Linf(0.2)), seed))


def _left_out(seed: int) -> list[Finding]:
    """Two links, one of them seen through a surrogate that misleads, or left out."""
    defense = behind(Claiming(_coarse, _misled), Claiming(_moved, identity, "moved by 2"))
    recipes = (
        Recipe("bpda", loss="margin", view={"moved by 2": "moved"}, steps=10),
        Recipe("without", loss="margin", view={"own": "skip", "moved by 2": "moved"}, steps=10),
    )
    return examine(cells(defense, recipes, Threat(Linf(0.2)), seed))


BROKEN: tuple[Broken, ...] = (
    Broken("graph cut by NumPy", (2,), lambda s: visited(behind(Claiming(_by_numpy)), s)),
    Broken("sign quantiser", (1,), lambda s: visited(behind(Claiming(_sign)), s)),
    Broken("logits x 1e4", (5,), lambda s: visited(behind(model=_modelled(_Scaled(1e4))), s)),
    Broken(
        "FD moved by 2 px, identity",
        (8,),
        lambda s: visited(behind(Claiming(_moved, identity)), s),
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
    Broken("batch norm in training", (10, 33), lambda s: visited(behind(model=_in_training()), s)),
    Broken("softmax output", (9,), lambda s: visited(behind(model=_soft()), s)),
    Broken("normalised input", (37,), _normalised),
    Broken("abort over budget", (42,), _abort),
    Broken("noise classifier p = 0.5", (28, 43), _noise_classifier(0.5)),
    Broken("noise classifier p = 0.8", (28, 43), _noise_classifier(0.8)),
    Broken("noise classifier p = 0.95", (28, 43), _noise_classifier(0.95)),
    Broken("attacker told the judge's seed", (32,), _told_the_seed),
    Broken(
        "surrogate that returns noise",
        (7, 18),
        lambda s: visited(behind(Claiming(_coarse, _misled)), s),
    ),
    Broken("one draw for a verdict", (29,), _one_draw),
    Broken("gradient scaled by 1/4", (3,), lambda s: visited(behind(Claiming(_quarter)), s)),
    Broken("3 steps", (15,), _three_steps),
    Broken("masked, with other attackers", (22, 23), _masked),
    Broken("two surrogates, one misled", (25,), _two_surrogates),
    Broken("a link better left out", (26,), _left_out),
    Broken(
        "optimises inside",
        (41,),
        lambda s: visited(behind(Claiming(_restoring, identity)), s),
    ),
)


def _soft() -> Classifier:
    return _modelled(_Scaled(softmax=True))


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
