"""Standard attacks on defenses that they never saw: python examples/standard_attacks.py [NAME]

photographs: tables III, VII and VIII of Qiu et al. 2020. FGSM, I-FGSM, L-BFGS, C&W and DeepFool,
made once on bare MobileNetV2, then judged behind FD, RDG, Rand and their pairs, on 100 photographs
of the NIPS 2017 development set at 299 px. channels: table 3 of Dziedzic and
Krishnan 2020, lossy channels on 200 images of CIFAR-10 that ResNet-20 gets right. Data
in `../shared/data`.

Each ends with attackers who know the defense, and prints its tables as Markdown. Without NAME both,
and the figure docs/images/standard_attacks.svg. One thread takes about 30 minutes of CPU for
the photographs and 5 for the channels.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib as mpl
import torch
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import track
from torch import Tensor

from besiege.attacks.threat import L2, Linf, RmsL2, Threat
from besiege.core.batch import l2, linf
from besiege.core.key import Key
from besiege.core.stats import Interval, right_shares, share_interval
from besiege.data.catalog import load_images
from besiege.data.images import Images
from besiege.defenses.catalog import parse_chain
from besiege.defenses.defense import Defense
from besiege.models.catalog import load_model
from besiege.models.classifier import Classifier
from besiege.report.figures import COLOURS, STYLE
from besiege.study.judge import Judging, judge
from besiege.study.recipe import Recipe
from besiege.study.siege import Opponents, Siege

ROOT = Path(__file__).parents[1]
DATA = ROOT.parent / "shared" / "data"
PICTURE = ROOT / "docs" / "images" / "standard_attacks.svg"
CONSOLE = Console(stderr=True)
BELOW = (0.45, -0.14)  # the axes


class Attacker(NamedTuple):
    """One attack with its threat.

    last: the point after the last step is handed over whatever it is worth, as by loops that do not
        test their points; else the search hands over its best, or its first success.
    check_whole: as in a recipe: each step is tried, too, where the attack itself does not ask.
    n: images at most, where a step is dear.
    """

    name: str
    spec: str
    threat: Threat
    steps: int
    last: bool = False
    check_whole: bool = False
    n: int = 200


class Guard(NamedTuple):
    """One defense: its forms, what is published of each attack in turn, and whether it is besieged.

    published: accuracy, or accuracy/targets hit, in per cent; "-" where it is not known.
    """

    name: str
    chains: Sequence[str]
    published: str = ""
    besieged: bool = False


class Study(NamedTuple):
    """What is asked; `forms` are the heads of the guards' chains, insiders ask `eot` draws."""

    images: str
    n: int
    net: str
    forms: Sequence[str]
    attackers: Sequence[Attacker]
    guards: Sequence[Guard]
    insiders: Sequence[Attacker]
    n_insiders: int
    draws: int
    eot: int
    batch: int
    shown: Sequence[str]  # the attackers in the figure
    both: Sequence[str] = ()  # those that meet all forms of a guard, not the first alone


class Row(NamedTuple):
    """Of one attack behind one form of a guard, on n images."""

    n: int
    attack: str
    guard: str
    form: str
    right: Interval
    hit: Interval | None  # of targeted attacks
    size: float  # median l2 length of the change


SMALL, LARGE = (Threat(Linf(eps), targeted=True) for eps in (0.01, 0.03))
FAR = Threat(RmsL2(1.0), targeted=True)  # any image: of those that look for the nearest
CLEAN = Attacker("clean", "none", Threat(RmsL2(1.0)), 0)
FD, RELEASED = "fd:form=released", "sampling=nearest,corner=upper-left"
PHOTOGRAPHS = Study(
    f"nips2017:path={DATA / 'imagenet_nips2017'}",
    100,
    f"file:{DATA / 'imagenet_mobilenet_v2_fp16.safetensors'}",
    ("as released", "aligned"),
    [
        CLEAN,
        Attacker("FGSM .01", "fgsm", SMALL, 1, last=True),
        Attacker("FGSM .03", "fgsm", LARGE, 1, last=True),
        Attacker("I-FGSM .01", "bim", SMALL, 10, last=True),
        Attacker("I-FGSM .03", "bim", LARGE, 10, last=True),
        Attacker("L-BFGS", "l-bfgs:searches=2", FAR, 60),
        Attacker("C&W", "cw:kappa=10,rate=0.05,c=0.1,searches=3", FAR, 60),
        Attacker("DeepFool", "deepfool:candidates=2,sure=1", Threat(RmsL2(1.0)), 8),
    ],
    [
        Guard("none", ("none",), "- 43/0 42/0 65/17 20/70 0/100 6/94 -"),
        Guard("FD", (FD, "fd"), "97 64 47 96 87 - 84 96"),
        Guard("RDG", (f"rdg:limit=0.15,{RELEASED}", "rdg:limit=0.15"), "96 66 56 92 75 - 83 98"),
        Guard(
            "FD + RDG",
            (f"{FD} + rdg:limit=0.25,{RELEASED}", "fd + rdg:limit=0.25"),
            "93 75 55 91 89 94 83 94",
            besieged=True,
        ),
        Guard("Rand", ("pad:form=bpda", "pad"), "96 69 60 92 86 93 86 91"),
        Guard("FD + Rand", (f"{FD} + pad:form=bpda", "fd + pad"), "92 79 58 91 88 87 86 93", True),
    ],
    [
        Attacker("I-FGSM .03", "bim", LARGE, 10),
        # No farther than the points of C&W in the mean (0.0178), with a tenth of their steps.
        Attacker("PGD, distance of C&W", "pgd", Threat(RmsL2(0.0175), targeted=True), 6),
    ],
    n_insiders=20,
    draws=2,
    eot=4,
    batch=10,
    shown=("clean", "FGSM .03", "I-FGSM .03", "L-BFGS", "C&W"),
    both=("clean", "I-FGSM .01", "I-FGSM .03", "L-BFGS", "C&W", "DeepFool"),
)

NEAR = Threat(L2(20.0))
WIDE = "convention=released,space=cifar10,clip=false"
FGSM = "gradient-descent:rate=0.002,at=clean,step=unit"  # one sign, in ever larger steps
ROWS = "84-89 84-89 49-79 79-83 -"  # over all channels
CHANNELS = Study(
    f"packed:path={DATA / 'cifar10_test_subset.npz'}",
    200,
    f"file:{DATA / 'cifar10_resnet20.safetensors'}",
    ("accuracy",),
    [
        CLEAN,
        Attacker("C&W", "cw:rate=0.01,c=0.003,searches=2", NEAR, 100),
        Attacker("PGD, first success", "bim:step=0.03333333", Threat(Linf(0.33)), 40),
        Attacker("PGD, a tenth of the step", "bim:step=0.003333333", Threat(Linf(0.33)), 60),
        Attacker("FGSM, least step", FGSM, Threat(Linf(0.1)), 50, check_whole=True),
        Attacker("L-BFGS", "l-bfgs:c=0.01,searches=4", Threat(L2(20.0), targeted=True), 80),
        Attacker("PGD 8/255, all steps", "bim", Threat(Linf(8 / 255)), 20, last=True),
    ],
    [
        Guard("none", ("none",)),
        Guard("FC 20 %", ("fft:percent=20,form=released",), f"- 85.2 {ROWS}", True),
        Guard("CD 4 bits", ("bits:bits=4",), f"- 84.4 {ROWS}", True),
        Guard("SVD 50 %", ("svd:percent=50,space=cifar10,clip=false",), f"- - {ROWS}", True),
        Guard("uniform .01", (f"noise:kind=uniform,scale=0.01,{WIDE}",), f"- 84.3 {ROWS}", True),
        Guard("Gauss .02", (f"noise:kind=gaussian,scale=0.02,{WIDE}",), f"- 84.8 {ROWS}", True),
        Guard("Laplace .02", (f"noise:kind=laplace,scale=0.02,{WIDE}",), f"- - {ROWS}", True),
    ],
    [
        Attacker("C&W", "cw:rate=0.01,c=0.03,searches=2", NEAR, 40),
        Attacker("PGD 8/255, all steps", "bim", Threat(Linf(8 / 255)), 20),
    ],
    n_insiders=20,
    draws=8,
    eot=4,
    batch=50,
    shown=("clean", "C&W", "L-BFGS", "PGD 8/255, all steps"),
)
STUDIES = {"photographs": PHOTOGRAPHS, "channels": CHANNELS}


class End:
    """A watch that keeps the points after the last step."""

    def __init__(self, steps: int) -> None:
        self.every = steps
        self.x: Tensor | None = None

    def observe(self, step: int, x: Tensor, index: Tensor) -> None:
        """All rows: nobody is dropped where successes are no facts."""
        self.x = x


def chosen(study: Study, net: Classifier) -> Images:
    """The first images that the network gets right; targets are runners-up where none are given."""
    images = load_images(study.images)
    x, y, targets = images.take(range(min(len(images), 2 * study.n)))
    with torch.no_grad():
        best = torch.cat([net(some).topk(2).indices for some in x.split(study.batch)])
    right = (best[:, 0] == y).nonzero()[: study.n, 0]
    targets = best[:, 1] if targets is None else targets
    return Images(x[right], y[right], targets[right])


def first(images: Images, n: int) -> Images:
    """The first n of them."""
    x, y, targets = images
    return Images(x[:n], y[:n], None if targets is None else targets[:n])


def made(
    attacker: Attacker, recipe: Recipe, defense: Defense, images: Images, batch: int
) -> Tensor:
    """The points that an attacker hands over, (N, C, H, W)."""
    siege = Siege(defense, recipe, attacker.threat, Opponents(micro_batch=batch))
    goal = images.targets if attacker.threat.targeted else images.y
    assert goal is not None
    found = []
    for ids in torch.arange(len(images.x)).split(batch):
        end = End(attacker.steps)
        result = siege.attack(images.x[ids], goal[ids], Key.root(0, ids), end)
        found.append(end.x if attacker.last and end.x is not None else result.x)
    return torch.cat(found)


def blind(attacker: Attacker, net: Classifier, images: Images, batch: int) -> Tensor:
    """The points of an attacker who knows the network alone."""
    name, spec, _, steps, _, check_whole, _ = attacker
    recipe = Recipe(name, attack=spec, steps=steps, check_whole=check_whole, links="skip")
    # Behind any link that is left out a success is no fact, and the search goes on to its end.
    chain = parse_chain("bits" if attacker.last else "none")
    return made(attacker, recipe, Defense(chain, net), images, batch)


def judged(
    attacker: Attacker, guard: Guard, form: int, defense: Defense, x: Tensor, images: Images,
    study: Study,
) -> Row:  # fmt: skip
    """How the points x fare behind a defense."""
    judging = Judging(draws=study.draws, micro_batch=study.batch)
    answers: list[list[int]] = []
    for ids in torch.arange(len(x)).split(study.batch):
        here, clean, key = x[ids], images.x[ids], Key.root(0, ids)
        verdict = judge(defense, attacker.threat, here, clean, key, judging)
        answers += verdict.predicted.tolist()

    def share(label: Tensor) -> Interval:
        return share_interval(right_shares(answers, label.tolist()))

    targets = images.targets if attacker.threat.targeted else None
    hit = None if targets is None else share(targets)
    size = float(l2(x - images.x).median())
    return Row(len(x), attacker.name, guard.name, study.forms[form], share(images.y), hit, size)


def oblivious(study: Study, net: Classifier, images: Images) -> tuple[list[Row], list[str]]:
    """Every attack behind every guard, and how far each attack went, in Markdown."""
    rows, sizes = [], []
    for attacker in track(study.attackers, "made once, judged behind each", console=CONSOLE):
        some = first(images, attacker.n)
        x = blind(attacker, net, some, study.batch)
        shift, relative = x - some.x, l2(x - some.x) / l2(some.x)
        figures = (linf(shift).mean(), l2(shift).median(), (relative**2).mean())
        cells = [attacker.name, str(len(x)), *(f"{float(f):.2g}" for f in figures)]
        sizes.append(f"| {' | '.join(cells)} |")
        for guard in study.guards:
            forms = guard.chains if attacker.name in study.both else guard.chains[:1]
            for form, chain in enumerate(forms):
                defense = Defense(parse_chain(chain), net)
                rows.append(judged(attacker, guard, form, defense, x, some, study))
    return rows, sizes


def informed(study: Study, net: Classifier, images: Images) -> list[Row]:
    """Attackers who know everything but the draws, on the first few of the images."""
    some = first(images, study.n_insiders)
    guards = [guard for guard in study.guards if guard.besieged]
    rows = []
    jobs = [(guard, attacker) for guard in guards for attacker in study.insiders]
    for guard, attacker in track(jobs, "made on each", console=CONSOLE):
        defense = Defense(parse_chain(guard.chains[0]), net)
        name, spec, _, steps, *_ = attacker
        recipe = Recipe(name, attack=spec, steps=steps, draws=study.eot, confirm=study.eot)
        x = made(attacker, recipe, defense, some, study.batch)
        rows.append(judged(attacker, guard, 0, defense, x, some, study._replace(draws=20)))
    return rows


def _cell(row: Row) -> str:
    """Accuracy with its interval, and where there was a target how often it was hit."""
    low, high = 100 * row.right.low, 100 * row.right.high
    cell = f"{100 * row.right.estimate:.1f} [{low:.0f}, {high:.0f}]"
    return cell if row.hit is None else f"{cell} / {100 * row.hit.estimate:.1f}"


def markdown(study: Study, rows: Sequence[Row]) -> str:
    """A line a guard and attack: published, and each form."""
    known = {(row.guard, row.attack, row.form): row for row in rows}
    lines = [
        f"| defense | attack | published | {' | '.join(study.forms)} |",
        "|---|---|---:|" + "---:|" * len(study.forms),
    ]
    for guard in study.guards:
        printed = guard.published.split() or ["-"] * len(study.attackers)
        for attacker, published in zip(study.attackers, printed, strict=True):
            keys = [(guard.name, attacker.name, form) for form in study.forms]
            cells = [_cell(known[key]) if key in known else "" for key in keys]
            lines.append(f"| {guard.name} | {attacker.name} | {published} | {' | '.join(cells)} |")
    return "\n".join(lines)


def sieges(rows: Sequence[Row]) -> str:
    """A line a guard and insider: accuracy, targets hit, and how far it went."""
    lines = ["| defense | attack | accuracy / targets hit % | median l2 |", "|---|---|---:|---:|"]
    lines += [f"| {r.guard} | {r.attack} | {_cell(r)} | {r.size:.2g} |" for r in rows]
    return "\n".join(lines)


class Found(NamedTuple):
    """All that is measured of one study."""

    oblivious: Sequence[Row]
    informed: Sequence[Row]
    sizes: Sequence[str]


def measured(study: Study) -> Found:
    """Both blocks, from files to figures."""
    net = load_model(study.net)
    images = chosen(study, net)
    rows, sizes = oblivious(study, net, images)
    return Found(rows, informed(study, net, images), sizes)


def report(study: Study, found: Found) -> str:
    """The tables of one study."""
    heads = "| attack | n | mean linf | median l2 | mean (relative l2)^2 |"
    far = "\n".join([heads, "|---|---:|---:|---:|---:|", *found.sizes])
    return "\n\n".join((markdown(study, found.oblivious), far, sieges(found.informed)))


def picture(found: Mapping[str, Found]) -> Figure:
    """A panel a study: accuracy behind each guard's first form, unseen (dots) and known."""
    figure = Figure(figsize=(4.6 * len(found), 4.2), layout="constrained")
    plots = figure.subplots(1, len(found), squeeze=False).flat
    for axes, (name, blocks) in zip(plots, found.items(), strict=True):
        study = STUDIES[name]
        names = [guard.name for guard in study.guards]
        shown = [(blocks.oblivious, attack, "o", f"{attack}, unseen") for attack in study.shown]
        shown[0] = (*shown[0][:3], "no attack")
        shown += [(blocks.informed, a.name, "D", f"{a.name}, known") for a in study.insiders]
        colours = [*COLOURS[: len(study.shown)], "black", "grey"]
        for k, (rows, attack, mark, label) in enumerate(shown):
            own = [r for r in rows if r.attack == attack and r.form == study.forms[0]]
            lift = 0.8 * (k + 0.5) / len(shown) - 0.4
            at = [names.index(row.guard) + lift for row in own]
            middle = [100 * row.right.estimate for row in own]
            ends = [[abs(100 * r.right[side] - m) for r, m in zip(own, middle, strict=True)]
                    for side in (1, 2)]  # fmt: skip
            axes.errorbar(
                middle, at, xerr=ends, fmt=mark, color=colours[k], markersize=4, linewidth=1,
                label=label,
            )  # fmt: skip
        axes.set_yticks(range(len(names)), names)
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.set_xlim(-2, 102)
        axes.set_title(name, loc="left", fontsize=9)
        axes.set_xlabel("accuracy %, 95 % interval")
        axes.grid(axis="x", alpha=0.25)
        axes.legend(frameon=False, fontsize=7.5, loc="upper center", bbox_to_anchor=BELOW, ncols=2)
    return figure


def main(*wanted: str) -> None:
    """Print the tables of each study and, if it is both, draw their picture."""
    found = {name: measured(STUDIES[name]) for name in wanted or STUDIES}
    for name, blocks in found.items():
        print(f"{name}\n\n{report(STUDIES[name], blocks)}\n")
    if not wanted:
        with mpl.rc_context(STYLE):
            picture(found).savefig(PICTURE, metadata={"Date": None})


if __name__ == "__main__":
    main(*sys.argv[1:])
