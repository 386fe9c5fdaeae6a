"""What must hold of a model and a defense before a score of them means anything."""

from __future__ import annotations

import torch
from torch import Tensor

from besiege.core.errors import BadModel, BadSetting, BesiegeError
from besiege.core.key import Key
from besiege.core.passes import passing
from besiege.defenses.defense import Deployed
from besiege.defenses.transform import Chain
from besiege.models.classifier import Classifier


def check_classifier(classifier: Classifier, x: Tensor) -> None:
    """Refuse a classifier whose answers no score could mean anything for.

    x: (B, C, H, W), some images. Raises BadModel where a module is in training mode, where all
    logits are NaN, and where an image's logits depend on the others of its batch (batch statistics
    left on, a mean over the batch subtracted).
    Cost: two forwards an image.
    """
    with torch.no_grad(), passing(Key.root(0, [0] * len(x), x.device)):
        logits = classifier(x)
    first = int(logits.isfinite().all(1).int().argmax())  # 0 if none is
    with torch.no_grad(), passing(Key.root(0, [0] * len(x), x.device)):  # the same draws again
        alone = classifier(x[first : first + 1].expand_as(x).contiguous())[:1]
    if not bool(logits.isfinite().any()):
        raise BadModel(
            f"{classifier.name} returned no finite logit for {len(x)} images: its weights or its "
            "preprocessing are broken (images come in [0, 1])."
        )
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
    """Refuse a link that answers differently from call to call and says that it draws nothing.

    x (1, C, H, W), key of that example. Raises BadSetting: the judge would ask such a defense once
    and take a lucky answer for a fact. Cost: two forwards of each link.
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
        if link.name in unkeyed and (draws is None or draws[i] is None):
            raise BadSetting(
                f"{link.name} says that it draws nothing, but it answers differently to the same "
                "image: give Opaque is_random=True."
            )


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
