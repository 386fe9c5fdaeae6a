"""A network that draws from generators of its own choosing, taken over as what it is: random."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from besiege.core.generators import seeded, standing
from besiege.core.key import Key
from besiege.core.passes import passing, stage_key
from besiege.models.classifier import Classifier

ASKED = 90  # times; one answer in 20 that differs goes unnoticed in one case of 100
APART = 1e-4  # in units of the largest logit, or of 1: far above what kernels round by


class Generators(NamedTuple):
    """Where a network gets random numbers from, besides the key of the pass.

    shared: the global generators of torch, NumPy or Python, which can be seeded. own: others, out
    of reach, so that it answers differently under the same seed and key.
    """

    shared: bool
    own: bool


def generators(classifier: Classifier, x: Tensor) -> Generators:
    """From what `classifier` draws when it answers x (B, C, H, W): watched, and asked again.

    A draw from a global generator moves it, which one call shows, however seldom it changes the
    answer. Another generator shows by answers that differ alone: the first image is asked ASKED
    times. The caller's generators stay as they are.
    Cost: a forward an image, and ASKED of one image.
    """
    with seeded(0, x.device):
        before = standing(x.device)
        _answers(classifier, x)
        shared = standing(x.device) != before
    first, own = x[:1], False
    wanted = _under_seed(classifier, first)
    scale = wanted.nan_to_num(0.0, 0.0, 0.0).abs().amax().clamp_min(1.0)
    for _ in range(ASKED - 1):
        again = _under_seed(classifier, first)
        own = not torch.allclose(again, wanted, rtol=0, atol=float(APART * scale), equal_nan=True)
        if own:
            break
    return Generators(shared, own)


def _under_seed(classifier: Classifier, x: Tensor) -> Tensor:
    with seeded(0, x.device):
        return _answers(classifier, x)


def _answers(classifier: Classifier, x: Tensor) -> Tensor:
    with torch.no_grad(), passing(Key.root(0, [0] * len(x), x.device)):
        found: Tensor = classifier(x)
    return found


def taken_over(classifier: Classifier, x: Tensor) -> Classifier:
    """The classifier as it is; one that draws besides the key as one that says so, and by the key.

    x: (B, C, H, W), some images. Such a network is asked one image at a time, the global generators
    seeded before each from the image's key and put back afterwards, as `Opaque` asks a function: it
    is judged on many draws, and its rows can be repeated unless it keeps a generator of its own.
    Raises what the classifier raises. Cost: see `generators`.

    >>> from besiege.laws.problems import linear_classifier
    >>> steady = linear_classifier()
    >>> taken_over(steady, torch.zeros(2, 1, 4, 4)) is steady
    True
    """
    if is_taken_over(classifier) or len(x) == 0:
        return classifier
    found = generators(classifier, x)
    if not (found.shared or found.own):
        return classifier
    return classifier.through(_Drawing(classifier, found.own))


def is_taken_over(classifier: Classifier) -> bool:
    """Whether it is asked one image at a time, since it draws."""
    return any(isinstance(module, _Drawing) for module in classifier.modules())


def draws_for_itself(classifier: Classifier) -> bool:
    """Whether a classifier that was taken over keeps a generator that no key reaches."""
    return any(isinstance(m, _Drawing) and m.own for m in classifier.modules())


class _Drawing(nn.Module):
    """`whole` asked one image at a time, each with the global generators seeded from its key.

    One at a time, since what a foreign network draws for a batch is nobody's in particular: a coin
    that it tosses once would fall alike for all images, and an image's noise would depend on its
    place among others.
    """

    draws = True

    def __init__(self, whole: Classifier, own: bool) -> None:
        super().__init__()
        self.training = whole.training
        self.whole = whole
        self.own = own

    def forward(self, x: Tensor) -> Tensor:
        key = stage_key(x)
        seeds, inner = key.fold("seed").integers(1 << 31).tolist(), key.fold("inside")
        rows: list[Tensor] = []
        with seeded(0, x.device) as seed_all:
            for i, seed in enumerate(seeds):
                if i and seed == seeds[0] and torch.equal(x[i], x[0]):  # fills a batch up
                    rows.append(rows[0])
                    continue
                seed_all(seed)
                with passing(inner[i : i + 1]):
                    rows.append(self.whole(x[i : i + 1]))
        return torch.cat(rows) if rows else x.new_zeros(0, self.whole.num_classes)
