"""An experiment with its model, images and cells loaded: what a worker holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from besiege.attacks.threat import Threat
from besiege.core.batch import chunks
from besiege.core.errors import BadImages, BadModel, BadSetting
from besiege.core.files import existing
from besiege.core.key import Key
from besiege.core.passes import passing
from besiege.data.catalog import load_images
from besiege.data.images import ImageSet
from besiege.defenses.defense import Defense
from besiege.defenses.transform import Chain, Shape
from besiege.models.catalog import load_model
from besiege.models.classifier import Classifier
from besiege.models.drawing import taken_over
from besiege.models.sources import weights_hash
from besiege.study.engines.engine import Task
from besiege.study.experiment.catalogs import Catalogs, load_plugins
from besiege.study.experiment.experiment import Experiment
from besiege.study.experiment.places import respelled
from besiege.study.judge import Judging, answers, check_images
from besiege.study.recipe import Recipe
from besiege.study.record import cell_hash, describe, file_hash, file_name, portable
from besiege.study.shard import Examples, Shard, siege_batch
from besiege.study.siege import Opponents, Siege
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
    places: dict[str, tuple[str, int]]  # cell hash -> its defense by name, its threat by number
    first: tuple[int, ...] = ()  # ids on which attackers are asked more; see `aside`

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
            first=self.first,
            traces=self.experiment.keep.traces,
        )

    def place(self, cell: str) -> dict[str, Any]:
        """What a recipe's table says that is for this cell alone."""
        defense, threat = self.places[cell]
        return {"defenses": (defense,), "threats": (threat,)}

    def title(self, cell: str) -> str:
        """What the cell is, in words."""
        (record,) = (r for r in self.records if r["cell"] == cell)
        goal = "targeted" if record["targeted"] else "untargeted"
        return f"{record['defense']} · {record['recipe']} · {record['threat']} {goal}"

    def examples(self, ids: tuple[int, ...], threat: Threat) -> Examples:
        """The images `ids`, checked, with targets where the threat has them."""
        device = self.experiment.engine.device
        found = self.images.take(list(ids))
        x, label = found.x.to(device), found.y.to(device)
        check_images(x, label, self.classifier.num_classes, self.classifier.channels, ids)
        target = torch.full_like(label, -1)
        if threat.targeted:
            target = self._targets(found.targets, x, label, ids)
        return Examples(ids, x, label, target)

    def _targets(
        self, given: Tensor | None, x: Tensor, label: Tensor, ids: tuple[int, ...]
    ) -> Tensor:
        """As data.targets says, (B,) int64."""
        how = self.experiment.data.targets
        if how == "given":
            if given is None:
                raise BadSetting(
                    f'data.targets = "given", but {self.images.name} gives no targets: '
                    'use targets = "random".'
                )
            return given.to(label)
        if how == "random":
            key = Key.root(self.experiment.seed, list(ids), label.device)
            return random_targets(key, label, self.classifier.num_classes)
        micro_batch = self.experiment.engine.micro_batch
        return ranked_targets(self.classifier, x, label, how == "least-likely", micro_batch)

    def check(self, ids: Sequence[int]) -> None:
        """Refuse a model or a defense whose scores would mean nothing, before anything is attacked.

        Cost: some forwards of the first eight images.
        """
        if not ids:
            return
        sound, _ = self._taken(ids[:8])
        sound = sound or self.examples(tuple(ids[:8]), self._plain())  # which says why none is
        x = sound.x
        key = Key.root(self.experiment.seed, list(sound.ids[:1]), x.device)
        defenses = {id(s.defense): s.defense for s in self.sieges.values()}.values()
        parts = [part.classifier for defense in defenses for part in defense.parts]
        parts += [m for siege in self.sieges.values() for m in siege.opponents.models.values()]
        for classifier in {id(c): c for c in (self.classifier, *parts)}.values():
            _check_fit(classifier, self.classifier)
            check_classifier(classifier, x)
        for defense in defenses:
            check_defense(defense, x[:1], key)

    def faulty(self, ids: Sequence[int]) -> dict[int, str]:
        """The ids whose images cannot be read or scored, and why.

        Cost: each image is taken once; those of a batch that fails, up to twice more.
        """
        found: dict[int, str] = {}
        size = self.experiment.engine.batch
        for start in range(0, len(ids), size):
            found |= self._taken(ids[start : start + size])[1]
        return found

    def _taken(self, ids: Sequence[int]) -> tuple[Examples | None, dict[int, str]]:
        """The images that can be scored, if any, without targets; and why the others cannot be."""
        plain, bad = self._plain(), dict[int, str]()
        try:
            return self.examples(tuple(ids), plain), bad
        except BadImages:
            for i in ids:
                try:
                    self.examples((i,), plain)
                except BadImages as error:
                    bad[i] = str(error)
        sound = tuple(i for i in ids if i not in bad)
        return (self.examples(sound, plain) if sound else None), bad

    def _plain(self) -> Threat:
        """A threat that needs no targets."""
        return Threat(next(iter(self.sieges.values())).threat.ball)

    def select(self) -> list[int]:
        """The ids to attack: the first data.n from data.start on, all or those got right.

        An image that cannot be scored is among them, so that the run names it in the end.
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
            some, bad = self._taken(pool[start : start + size])
            found = list(bad)
            if some:
                key = Key.root(self.experiment.seed, list(some.ids), some.x.device)
                label = answers(bare, some.x, key, 1, self.experiment.engine.micro_batch)[:, 0]
                right = (label == some.label).tolist()
                found += [i for i, ok in zip(some.ids, right, strict=True) if ok]
            kept += sorted(found)
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


def ranked_targets(
    classifier: Classifier, x: Tensor, label: Tensor, least: bool, micro_batch: int = 32
) -> Tensor:
    """Of all wrong labels the least likely, or the likeliest, on the clean image, (B,) int64.

    x: (B, C, H, W) in [0, 1]. Kurakin et al. 2017 (arXiv:1607.02533), section 2.3, take the least
    likely of all labels, which is another one only where that is the true label.
    Cost: one forward of the bare classifier.
    """
    same = Key.root(0, [0] * micro_batch, x.device)
    with torch.no_grad(), passing(same):
        parts = [
            classifier(x[index])[: window.stop - window.start]
            for window, index in chunks(len(x), micro_batch, x.device)
        ]
    own = torch.nn.functional.one_hot(label, classifier.num_classes).bool()
    logits = torch.cat(parts)
    if least:
        return logits.masked_fill(own, torch.inf).argmin(1)
    return logits.masked_fill(own, -torch.inf).argmax(1)


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
    classifier = _loaded(source, catalogs, engine.device, images.shape)
    fingerprint = {
        "seed": experiment.seed,
        "data": images.digest or experiment.data.source,
        "targets": experiment.data.targets,
        "model": respelled(source, file_name),
        "weights": weights_hash(classifier),
        "plugins": [file_hash(path) for path in experiment.files()],
    }
    cells = experiment.cells(catalogs)
    sources = {m for cell in cells for m in _models(cell.recipe)}.union(experiment.models)
    others = {s: _loaded(s, catalogs, engine.device, images.shape) for s in sorted(sources)}
    classifiers: dict[str | None, Classifier] = {None: classifier}
    classifiers.update(others)
    hashes = {source: weights_hash(model) for source, model in classifiers.items()}
    opponents = Opponents(catalogs.attacks, catalogs.losses, engine.micro_batch, others)
    sieges, records, places = {}, [], {}
    for spec in cells:
        table = spec.defense
        defense = table.deployed(catalogs.transforms, classifiers)
        siege = Siege(defense, spec.recipe, spec.threat, opponents)
        record = describe(siege, judging_of(experiment), defense=table.name, **table.record())
        named = {**portable(record), **table.placed(file_name).record()}
        # By defense: two files of one name may lie in two folders.
        if weights := [hashes[g.model] for g in table.guards if g.model is not None]:
            named["weights"] = weights
        if models := _models(spec.recipe):
            named["recipe_weights"] = [hashes[m] for m in models]
        if learned := [path for search in spec.recipe.searches for path in search.learned]:
            found = [existing(path, "network that imitates a link", BadModel) for path in learned]
            named["learned"] = [file_hash(path) for path in found]
        cell = cell_hash(named, fingerprint)
        sieges[cell], places[cell] = siege, (table.name, spec.place)
        records.append({"cell": cell, **record})
    return Prepared(experiment, catalogs, classifier, images, sieges, records, (), places)


def _loaded(source: str, catalogs: Catalogs, device: str, shape: Shape) -> Classifier:
    """The model, taken over if it draws; what is wrong with one that fails, `check` says."""
    found = load_model(source, catalogs.models, device, shape)
    grey = torch.full((1, *shape), 0.5, device=device)
    try:
        return taken_over(found, grey)
    except Exception:  # a foreign network fails as it likes
        return found


def _models(recipe: Recipe) -> list[str]:
    """The other models that its searches ask."""
    return [name for search in recipe.searches for name in search.models or ()]
