"""What must hold of a model and a defense before a score of them means anything."""

from __future__ import annotations

import torch
from torch import Tensor

from besiege.core.errors import BadModel, BadSetting, BesiegeError
from besiege.core.generators import seeded, standing
from besiege.core.key import Key
from besiege.core.passes import passing
from besiege.defenses.defense import Deployed
from besiege.defenses.transform import Chain, Transform
from besiege.models.classifier import Classifier
from besiege.models.drawing import ASKED, draws_for_itself, is_taken_over, taken_over

UNKEYED = "unkeyed: "  # how the flag of a row begins that can never be made again


def sound_defense(defense: Deployed, x: Tensor) -> Deployed:
    """The defense around classifiers that can be judged: checked, and those that draw taken over.

    x: (B, C, H, W), some images. Raises BadModel as `check_classifier` does.
    """
    known: dict[int, Classifier] = {}

    def once(classifier: Classifier) -> Classifier:
        if id(classifier) not in known:
            known[id(classifier)] = sound_classifier(classifier, x)
        return known[id(classifier)]

    return defense.with_classifiers(once)


def sound_classifier(classifier: Classifier, x: Tensor) -> Classifier:
    """The classifier, taken over if it draws (`models.drawing`), and checked."""
    found = taken_over(classifier, x)
    check_classifier(found, x)
    return found


def remarks(defense: Deployed, x: Tensor, key: Key) -> list[str]:
    """What a reader of every row of a settled defense must know of how it draws.

    x (1, C, H, W), key of that example. Cost: two forwards of each link.
    """
    own: dict[str, None] = {}
    asked: dict[str, None] = {}
    for part in defense.parts:
        own |= dict.fromkeys(unkeyed_links(part.chain, x, key))
        name = part.classifier.name
        if is_taken_over(part.classifier):
            asked[name] = None
        if draws_for_itself(part.classifier):
            own[name] = None
    return [
        *(f"{UNKEYED}{name} draws from a generator of its own" for name in own),
        *(f"{name} draws: it is asked one image at a time" for name in asked),
    ]


def check_classifier(classifier: Classifier, x: Tensor) -> None:
    """Refuse a classifier whose answers no score could mean anything for.

    x: (B, C, H, W), some images. Raises BadModel where a module is in training mode, where all
    logits are NaN, and where an image's logits depend on the others of its batch (batch statistics
    left on, a mean over the batch subtracted).
    Cost: two forwards an image; one of a classifier that is asked one image at a time anyway.
    """
    with torch.no_grad(), passing(Key.root(0, [0] * len(x), x.device)):
        logits = classifier(x)
    if not bool(logits.isfinite().any()):
        raise BadModel(
            f"{classifier.name} returned no finite logit for {len(x)} images: its weights or its "
            "preprocessing are broken (images come in [0, 1])."
        )
    if is_taken_over(classifier):
        return
    first = int(logits.isfinite().all(1).int().argmax())  # 0 if none is
    with torch.no_grad(), passing(Key.root(0, [0] * len(x), x.device)):  # the same draws again
        alone = classifier(x[first : first + 1].expand_as(x).contiguous())[:1]
    own = logits[first : first + 1]
    scale = own.nan_to_num(0.0, 0.0, 0.0).abs().amax().clamp_min(1.0)
    if not torch.allclose(alone, own, rtol=0, atol=float(1e-3 * scale), equal_nan=True):
        raise BadModel(
            f"{classifier.name}: the logits of an image depend on the others in its batch (they "
            f"differ by {float((alone - own).abs().max()):.3g}). No verdict about one image "
            "is possible: take batch statistics out of the network, or wrap it so that it sees one "
            "image at a time."
        )


def check_defense(defense: Deployed, x: Tensor, key: Key) -> None:
    """Refuse a link that draws and says that it draws nothing.

    x (1, C, H, W), key of that example. One that answers differently from call to call, or moves
    the global generators, draws. Raises BadSetting: the judge would ask such a defense once and
    take a lucky answer for a fact. Cost: three forwards of each link.
    """
    for part in defense.parts:
        _check_chain(part.chain, x, key)


def _check_chain(chain: Chain, x: Tensor, key: Key) -> None:
    try:
        unkeyed = unkeyed_links(chain, x, key)
    except BesiegeError:
        raise
    except Exception:  # a link that breaks on this image: its batch says so, and others go on
        return
    draws = chain.draw(key, (x.shape[1], x.shape[2], x.shape[3]))
    for i, link in enumerate(chain.links):
        silent = draws is None or draws[i] is None
        if silent and (link.name in unkeyed or _tosses(link, x)):
            raise BadSetting(
                f"{link.name} says that it draws nothing, but it answers differently to the same "
                "image: give Opaque is_random=True."
            )
        with torch.no_grad():
            x = link.forward(x, None if draws is None else draws[i])


def _tosses(link: Transform, x: Tensor) -> bool:
    """Whether a link that is given no draw moves the global generators, and with them its answer.

    A coin of 95 % is seen by 90 seeds but in one case of 100. Cost: a forward; ASKED if it moves.
    """
    with torch.no_grad():
        with seeded(0, x.device):
            before = standing(x.device)
            first = link.forward(x, None)
            if standing(x.device) == before:
                return False
        for seed in range(1, ASKED):
            with seeded(seed, x.device):
                if not torch.equal(link.forward(x, None), first):
                    return True
    return False


def unkeyed_links(chain: Chain, x: Tensor, key: Key) -> list[str]:
    """Links that answer differently to the same image and draw: they keep a generator of their own.

    x (1, C, H, W). A row of such a defense is a fair sample and can never be made again.
    """
    found = []
    with torch.no_grad():
        for link in chain.links:
            draw = link.draw(key.fold(link.name), (x.shape[1], x.shape[2], x.shape[3]))
            seen = link.forward(x, draw)
            if not torch.equal(seen, link.forward(x, draw)):
                found.append(link.name)
            x = seen
    return found
