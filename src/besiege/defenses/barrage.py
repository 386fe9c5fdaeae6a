"""Barrage: at each draw one of several chains, chosen at random."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from besiege.core.batch import Draw, take
from besiege.core.errors import BadSetting
from besiege.core.key import Key
from besiege.defenses.transform import Graft, Shape, Surrogate, Transform, contents
from besiege.models.classifier import Classifier


class Pick(NamedTuple):
    """Which chain each example goes through, and what every chain drew for it."""

    chain: Tensor  # (B,) int64
    draws: tuple[Draw, ...]


@dataclass(frozen=True)
class Barrage(Transform):
    """Barrage: at each draw one of several chains, chosen at random, each as likely.

    In a chain written as text, "jpeg | bits:bits=3 | median" is a barrage, and brackets hold more
    than one link: "(jpeg + bits) | median + noise" ends with noise in both cases. Views address it
    as a whole, as "barrage".

    chains: transforms of equal output shape, at least two.

    Surrogates: "exact" where every chain has it, else "best-of-each"; attackers average over draws
    (bpda+eot) to see all chains. Source: house; after Raff et al. 2019, "Barrage of random
    transforms", which chains several of ten in random order. Cost: each image goes through one.
    """

    chains: tuple[Transform, ...]
    name: str = "barrage"

    def __post_init__(self) -> None:
        sound = isinstance(self.chains, tuple) and all(map(_is_link, self.chains))
        if not sound or len(self.chains) < 2:
            raise BadSetting(
                f"barrage: chains are at least two transforms, got {self.chains!r}. In text, write "
                '"jpeg | bits | median".'
            )

    @property
    def digest(self) -> str:
        """Names the files that its chains read, chain by chain; "" if none reads any."""
        read = [contents(chain) for chain in self.chains]
        return " | ".join(read) if any(read) else ""

    def beside(self, classifier: Classifier) -> Barrage:
        """Every chain beside it."""
        return replace(self, chains=tuple(chain.beside(classifier) for chain in self.chains))

    def draw(self, key: Key, shape: Shape) -> Pick:
        """A number of a chain, and the draw of each chain."""
        draws = tuple(
            chain.draw(key.fold("chain", i), shape) for i, chain in enumerate(self.chains)
        )
        return Pick(key.fold("pick").integers(len(self.chains)), draws)

    def forward(self, x: Tensor, draw: Pick) -> Tensor:
        """x float (B, C, H, W) in [0, 1], each image through its chain."""
        return _through(self.chains, x, draw)

    def out_shape(self, shape: Shape) -> Shape:
        """That of every chain. Raises BadSetting where they differ."""
        shapes = {chain.name: chain.out_shape(shape) for chain in self.chains}
        if len(set(shapes.values())) > 1:
            raise BadSetting(f"{self.name}: its chains give images of different shapes, {shapes}.")
        return self.chains[0].out_shape(shape)

    @property
    def surrogates(self) -> Mapping[str, Surrogate]:
        """The true gradient where all chains have one, else the best of each."""
        if all("exact" in chain.surrogates for chain in self.chains):
            return {"exact": self.forward}
        best = tuple(Graft(chain) for chain in self.chains)
        return {"best-of-each": partial(_through, best)}


def _is_link(link: Any) -> bool:
    return isinstance(link, Transform)


def _through(chains: tuple[Transform, ...], x: Tensor, draw: Pick) -> Tensor:
    """Rows sorted by chain, each lot through its own, and back in order."""
    order = draw.chain.argsort(stable=True)
    done = []
    for i, chain in enumerate(chains):
        index = (draw.chain == i).nonzero()[:, 0]
        if len(index):
            done.append(chain.forward(x[index], take(draw.draws[i], index)))
    return torch.cat(done)[order.argsort()] if done else x
