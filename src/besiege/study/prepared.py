"""An experiment with its model, images and cells loaded: what a worker holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from besiege.attacks.threat import Threat
from besiege.core.errors import BadImages, BadSetting
from besiege.core.key import Key
from besiege.data.catalog import load_images
from besiege.data.images import ImageSet
from besiege.defenses.defense import Defense
from besiege.defenses.transform import Chain
from besiege.models.catalog import load_model
from besiege.models.classifier import Classifier
from besiege.study.catalogs import Catalogs, load_plugins
from besiege.study.engines.engine import Task
from besiege.study.experiment import Experiment
from besiege.study.judge import Judging, answers, check_images
from besiege.study.recipe import Opponents, Siege
from besiege.study.record import cell_hash, describe, file_hash, weights_hash
from besiege.study.shard import Examples, Shard, siege_batch
from besiege.study.soundness import check_classifier, check_defense


@dataclass(frozen=True)
class Prepared:
    """Everything that the cells of one experiment share; called with tasks by an engine."""

    experiment: Experiment
    catalogs: Catalogs
    classifier: Classifier
    images: ImageSet
    sieges: dict[str, Siege]  # cell hash -> who attacks what
    records: list[dict[str, Any]]  # as in resolved.json, with their hashes
    keep: tuple[int, ...]  # ids whose images are kept

    def __call__(self, task: Task) -> Shard:
        """Attack and judge one batch of one cell."""
        siege = self.sieges[task.cell]
        return siege_batch(
            task.cell,
            siege,
            self.examples(task.ids, siege.threat),
            self.experiment.seed,
            judging_of(self.experiment),
            keep=self.keep,
            traces=self.experiment.keep.traces,
        )

    def examples(self, ids: tuple[int, ...], threat: Threat) -> Examples:
        """The images `ids`, checked, with targets where the threat has them."""
        device = self.experiment.engine.device
        found = self.images.take(list(ids))
        x, label = found.x.to(device), found.y.to(device)
        check_images(x, label, self.classifier.num_classes, self.classifier.channels, ids)
        target = torch.full_like(label, -1)
        if threat.targeted and self.experiment.data.targets == "given":
            if found.targets is None:
                raise BadSetting(
                    f'data.targets = "given", but {self.images.name} gives no targets: '
                    'use targets = "random".'
                )
            target = found.targets.to(device)
        elif threat.targeted:
            target = random_targets(
                Key.root(self.experiment.seed, list(ids), device),
                label,
                self.classifier.num_classes,
            )
        return Examples(ids, x, label, target)

    def check(self, ids: Sequence[int]) -> None:
        """Refuse a model or a defense whose scores would mean nothing, before anything is attacked.

        Cost: some forwards of the first eight images.
        """
        first = list(ids[:8])
        if not first:
            return
        bad = self.faulty(first)
        sound = [i for i in first if i not in bad] or first  # if none is, the first says why
        x = self.examples(tuple(sound), self._plain()).x
        key = Key.root(self.experiment.seed, sound[:1], x.device)
        defenses = {id(s.defense): s.defense for s in self.sieges.values()}.values()
        parts = [part.classifier for defense in defenses for part in defense.parts]
        for classifier in {id(c): c for c in (self.classifier, *parts)}.values():
            _check_fit(classifier, self.classifier)
            check_classifier(classifier, x)
        for defense in defenses:
            check_defense(defense, x[:1], key)

    def faulty(self, ids: Sequence[int]) -> set[int]:
        """The ids whose images cannot be read or scored.

        Cost: each image is taken once; those of a batch that fails, once more each.
        """
        found: set[int] = set()
        size = self.experiment.engine.batch
        for start in range(0, len(ids), size):
            some = ids[start : start + size]
            if not self._sound(some):
                found |= {i for i in some if not self._sound([i])}
        return found

    def _sound(self, ids: Sequence[int]) -> bool:
        try:
            self.examples(tuple(ids), self._plain())
        except BadImages:
            return False
        return True

    def _plain(self) -> Threat:
        """A threat that needs no targets."""
        return Threat(next(iter(self.sieges.values())).threat.ball)

    def select(self) -> list[int]:
        """The ids to attack: the first data.n from data.start on, all or those got right.

        Cost: with select = "correct", one forward pass of the bare classifier an image looked at.
        """
        data = self.experiment.data
        pool = range(data.start, len(self.images))
        wanted = data.n or len(pool)
        if data.select == "all":
            return list(pool[:wanted])
        kept: list[int] = []
        size = self.experiment.engine.batch
        bare = Defense(Chain(), self.classifier)
        for start in range(0, len(pool), size):
            ids = tuple(pool[start : start + size])
            some = self.examples(ids, self._plain())
            key = Key.root(self.experiment.seed, list(ids), some.x.device)
            label = answers(bare, some.x, key, 1, self.experiment.engine.micro_batch)[:, 0]
            kept += [i for i, ok in zip(ids, (label == some.label).tolist(), strict=True) if ok]
            if len(kept) >= wanted:
                break
        return kept[:wanted]


def _check_fit(own: Classifier, main: Classifier) -> None:
    """Refuse a defense's own model for other images or classes than those of [model]."""
    ours, wanted = ((c.num_classes, c.channels) for c in (own, main))
    if ours != wanted:
        raise BadSetting(
            f"the model {own.name} of a defense has (classes, channels) = {ours}, that of [model] "
            f"{wanted}: labels would not mean the same."
        )


def random_targets(key: Key, label: Tensor, classes: int) -> Tensor:
    """A target for each example, uniform over the classes that are not its label, (B,) int64."""
    other = key.fold("target").integers(classes - 1)
    return other + (other >= label).long()


def judging_of(experiment: Experiment) -> Judging:
    """The judge's settings."""
    judge = experiment.judge
    return Judging(judge.draws, judge.every, judge.step_draws, experiment.engine.micro_batch)


def prepare(experiment: Experiment) -> Prepared:
    """Load what `experiment` names and build its cells.

    Raises the errors of the parts; nothing is written.
    """
    catalogs = load_plugins(experiment.plugins)
    engine = experiment.engine
    images = load_images(experiment.data.source, catalogs.datasets)
    source = experiment.model.source
    classifier = load_model(source, catalogs.models, engine.device, images.shape)
    fingerprint = {
        "seed": experiment.seed,
        "data": images.digest or experiment.data.source,
        "targets": experiment.data.targets,
        "model": source,
        "weights": weights_hash(classifier),
        "plugins": [file_hash(path) for path in experiment.files()],
    }
    others = {g.model for g in experiment.guards if g.model is not None}
    loaded: dict[str | None, Classifier] = {
        spec: load_model(spec, catalogs.models, engine.device, images.shape)
        for spec in sorted(others)
    }
    if loaded:
        fingerprint["models"] = {spec: weights_hash(model) for spec, model in loaded.items()}
    classifiers = {None: classifier, **loaded}
    opponents = Opponents(catalogs.attacks, catalogs.losses, engine.micro_batch)
    sieges, records = {}, []
    for spec in experiment.cells(catalogs):
        defense = spec.defense.deployed(catalogs.transforms, classifiers)
        siege = Siege(defense, spec.recipe, spec.threat, opponents)
        judging = judging_of(experiment)
        record = describe(siege, judging, defense=spec.defense.name, **spec.defense.record())
        cell = cell_hash(record, fingerprint)
        sieges[cell] = siege
        records.append({"cell": cell, **record})
    return Prepared(experiment, catalogs, classifier, images, sieges, records, keep=())
