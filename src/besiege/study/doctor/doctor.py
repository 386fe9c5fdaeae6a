"""A model and its defense looked over before any attack: probes, and one short search."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import NamedTuple

from torch import Tensor

from besiege.attacks.threat import Linf, Threat
from besiege.checks.catalog import CHECKS, DOCTOR
from besiege.checks.finding import LEVELS, NOT_ASKED, Answer, Finding, answered
from besiege.checks.protocol import Pixels
from besiege.core.errors import BesiegeError
from besiege.core.key import Key
from besiege.defenses.defense import Deployed
from besiege.models.classifier import Classifier
from besiege.models.drawing import is_taken_over, taken_over
from besiege.ops.codec import codec_version
from besiege.study.doctor import overheard, probes, visit
from besiege.study.doctor.codecs import codec, codec_of, saved
from besiege.study.doctor.preparations import preparations
from besiege.study.doctor.visit import DRAWS, Visit, array
from besiege.study.recipe import Recipe

STEPS = 10  # of the short search
THREAT = Threat(Linf(8 / 255))
RECIPE = Recipe("doctor", attack="pgd", loss="margin", steps=STEPS, draws=DRAWS)
NOBODY = "nobody brings its evidence yet"
FOLLOWS = "what check {} found comes first: all else would follow from it"
NEITHER = "there is nothing to compare"


class Question(NamedTuple):
    """A check, what brings its evidence, and what that is about."""

    number: int
    probe: Callable[[], object]
    about: str
    ends: bool = False  # where it finds something, all else would follow from it


@dataclass(frozen=True)
class Diagnosis:
    """findings: gravest first. answers: what became of every question, by the number of its check.

    answers: found, passed with its figure, or not asked and why; one for each check and thing that
    it is about.
    """

    findings: tuple[Finding, ...]
    answers: tuple[Answer, ...]


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

    As `diagnose`, which also tells what passed and what could not be asked.
    """
    found = diagnose(
        defense, x, y, threat=threat, recipe=recipe, seed=seed, micro_batch=micro_batch
    )
    return list(found.findings)


def diagnose(
    defense: Deployed,
    x: Tensor,
    y: Tensor,
    *,
    threat: Threat = THREAT,
    recipe: Recipe = RECIPE,
    seed: int = 0,
    micro_batch: int = 32,
) -> Diagnosis:
    """What was asked of `defense`, and of how `recipe` attacks it, and what came of it.

    x (B, C, H, W) as they would be attacked, y (B,) labels; 16 are enough, fewer than 8 prove
    little. threat: untargeted. recipe: of its attack `recipe.steps` steps are made.
    A module in training mode, or images that are not in [0, 1], end the visit: all else would
    follow from it. A model that draws without saying so is taken over first (`models.drawing`).
    Cost: about 150 forwards and 60 backwards an image on a random defense of one link, 60 forwards
    more for each surrogate, and 90 of one image.
    """
    key = Key.root(seed, range(len(x)), x.device)
    there = Visit(defense, x, y, threat, recipe, key, micro_batch)
    said = list(_answered(_of_images(there)))
    if not _ended(said):
        settled = _settled(there)
        said += _answered(_of_models(there, settled))
    if not _ended(said):
        there = replace(there, defense=defense.with_classifiers(lambda m: settled[id(m)]))
        for some in (_of_draws, _of_links, _of_whole, _of_search):
            said += _answered(some(there))
    rank = list(LEVELS)
    findings = [one.finding for one in said if one.finding]
    answers = [*(one.answer for one in said), *_left(said)]
    return Diagnosis(
        tuple(sorted(findings, key=lambda f: (rank.index(f.level), f.number))),
        tuple(sorted(answers, key=lambda a: a.number)),
    )


class _Said(NamedTuple):
    question: Question
    answer: Answer
    finding: Finding | None = None


def _answered(questions: Iterable[Question]) -> Iterator[_Said]:
    for question in questions:
        check, about = CHECKS[question.number], question.about
        try:
            said = check.asked(question.probe(), about)
        except BesiegeError as error:
            yield _Said(question, _unasked(question.number, about, str(error)))
            continue
        if said is None:
            yield _Said(question, _unasked(question.number, about, NEITHER))
            continue
        found = said if isinstance(said, Finding) else None
        yield _Said(question, answered(check, [(said, about)]), found)


def _unasked(number: int, about: str, because: str) -> Answer:
    return Answer(number, NOT_ASKED, about=about, because=because)


def _ended(said: Sequence[_Said]) -> bool:
    """Whether what was found makes all that follows meaningless."""
    return any(one.finding and one.question.ends for one in said)


def _left(said: Sequence[_Said]) -> Iterator[Answer]:
    """The doctor's checks that nobody came to ask."""
    first = next((o.answer.number for o in said if o.finding and o.question.ends), 0)
    asked = {one.answer.number for one in said}
    for number, check in CHECKS.items():
        if set(DOCTOR) & set(check.gathered) and number not in asked:
            yield _unasked(number, "", FOLLOWS.format(first) if first else NOBODY)


def _of_images(there: Visit) -> Iterator[Question]:
    flat = there.x.flatten(1)
    low, high = array(flat.amin(1)), array(flat.amax(1))
    yield Question(37, lambda: Pixels(low, high), "images", ends=True)


def _reaching(there: Visit) -> Iterator[tuple[Classifier, Tensor]]:
    """Each classifier, and what reaches it."""
    for part in there.defense.parts:
        first = probes.stages(part.chain, there.x, there.key.fold("doctor"))
        last = first[-1] if first else None
        yield part.classifier, there.x if last is None else last.link.forward(last.x, last.draw)


def _settled(there: Visit) -> dict[int, Classifier]:
    """By the id of each classifier: the same without its checks, taken over if it draws."""
    found = {}
    for model, seen in _reaching(there):
        if id(model) not in found:
            with probes.untouched(model):
                found[id(model)] = taken_over(probes.unchecked(model), seen[:1])
    return found


def _of_models(there: Visit, settled: Mapping[int, Classifier]) -> Iterator[Question]:
    """Of each as it is, and of what it is taken for: what draws would else look coupled."""
    for model, seen in _reaching(there):
        about, kept = model.name, partial(_untouched, model)
        own = settled[id(model)]
        yield Question(10, partial(probes.modes, model, seen), about, ends=True)
        yield Question(10, kept(partial(probes.calls, model, seen)), f"functions of {about}")
        yield Question(9, kept(partial(probes.outputs, model, seen)), about)
        yield Question(32, partial(probes.drawn, own), about)
        yield Question(33, kept(partial(probes.coupling, own, seen)), about)
        yield Question(3, partial(probes.derivative_of_model, own, seen, there.key), about)
        yield Question(37, kept(partial(preparations, own, seen, there.y)), about)


def _untouched(model: Classifier, probe: Callable[[], object]) -> Callable[[], object]:
    """The probe, after which the model's buffers are as they were."""

    def asked() -> object:
        with probes.untouched(model):
            return probe()

    return asked


def _of_draws(there: Visit) -> Iterator[Question]:
    key = there.key.fold("doctor")
    for model, seen in _reaching(there):
        if is_taken_over(model):
            yield Question(32, partial(probes.again, model, seen, key), f"keys of {model.name}")


def _of_links(there: Visit) -> Iterator[Question]:
    key = there.key.fold("doctor")
    for stage in visit.stages(there):
        about = stage.link.name
        seen = f"{about} by {probes.best(stage)}"
        yield Question(2, partial(probes.graph, stage), about)
        yield Question(3, partial(probes.derivative_of_link, stage, key), about)
        yield Question(8, partial(probes.displacement, stage, key), seen)
        yield Question(32, partial(probes.repeats, stage, key), f"keys of {about}")
        yield Question(32, partial(probes.unkeyed, stage), about)
        yield Question(41, partial(probes.inside, stage), about)
        yield Question(7, partial(visit.lead, there, stage), seen)
        if codec_of(stage.link):
            yield Question(46, partial(codec, there, stage), f"{about}, {codec_version()}")


def _of_whole(there: Visit) -> Iterator[Question]:
    """What clean images tell of the defense as a whole."""
    about = there.defense.name
    clean = visit.clean(there)
    yield Question(33, partial(visit.coupled, there), about)
    yield Question(38, partial(visit.cost, there, clean), about)
    yield Question(1, partial(visit.slopes, there), about)
    yield Question(5, partial(visit.saturation, there), about)
    yield Question(4, partial(visit.agreement, there), about)
    yield Question(28, partial(visit.nothing, there, clean), about)
    yield Question(37, partial(visit.floor, there), there.threat.name)


def _of_search(there: Visit) -> Iterator[Question]:
    """What a short search shows, and where random noise gets."""
    about = there.recipe.name

    @cache
    def found() -> overheard.Search:
        return overheard.search(there, there.recipe, there.key.fold("doctor", "search"))

    yield Question(21, lambda: found().places, about)
    yield Question(6, lambda: overheard.ranks(there, found()), about)
    yield Question(18, lambda: overheard.duel(there, found().x), about)
    yield Question(46, lambda: saved(there, found().x), there.defense.name)
    yield Question(30, lambda: overheard.luck(there, found().x), there.defense.name)
