"""The protocol of every input transformation, and the ways to combine them.

A transform draws its random numbers first (`draw`) and is a pure function of image and draw
(`forward`), so that a draw can be replayed, shared or averaged over. What attackers need of it
is its `surrogates`: differentiable stand-ins for the backward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, runtime_checkable

import torch
from torch import Tensor, nn

from besiege.core.batch import Draw
from besiege.core.errors import BadSetting, unknown
from besiege.ops.registration import moved, movement

if TYPE_CHECKING:
    from besiege.core.key import Key
    from besiege.models.classifier import Classifier

Shape: TypeAlias = tuple[int, int, int]  # (C, H, W)
Surrogate: TypeAlias = Callable[[Tensor, Any], Tensor]  # (x, draw) -> what forward would return


@runtime_checkable
class Transform(Protocol):
    """One link of a defense. Implementations are frozen dataclasses that inherit from this class.

    x is float (B, C, H, W) in [0, 1]; B may be any number and rows never mix.
    """

    @property
    def name(self) -> str:
        """The name by which experiments and views address this link."""
        ...

    def draw(self, key: Key, shape: Shape) -> Draw:
        """Random numbers for a batch of len(key) images of `shape`; None if deterministic."""
        return None

    def forward(self, x: Tensor, draw: Any) -> Tensor:
        """Exactly what is deployed. Same dtype and device as x; values in [0, 1]."""
        ...

    def out_shape(self, shape: Shape) -> Shape:
        """Shape of the output image for an input of `shape`."""
        return shape

    @property
    def surrogates(self) -> Mapping[str, Surrogate]:
        """Differentiable stand-ins, best first; "exact" where forward has a true gradient."""
        return {}

    def beside(self, classifier: Classifier) -> Transform:
        """This link as it is in front of `classifier`; a `Defense` asks when it is made."""
        return self


def identity(x: Tensor, draw: Any) -> Tensor:
    """The surrogate that every shape-preserving link has: the input itself."""
    return x


@dataclass(frozen=True, eq=False)
class Follow:
    """The stand-in "moved": the input with its pixels where `link` has put them.

    Of each example under its draw, as comparing what goes in and comes out shows (`movement`), so
    that a shift, a reflection or a smooth warp is followed whoever made it. Cost: one forward of
    the link where its value is not at hand, and about as much as a small network's.
    """

    link: Transform

    def __call__(self, x: Tensor, draw: Any) -> Tensor:
        """What the link would return of x, but for all that it does beside moving pixels."""
        return self.towards(x, self.link.forward(x.detach(), draw).detach())

    def towards(self, x: Tensor, value: Tensor) -> Tensor:
        """The same where the link has already returned `value`."""
        with torch.no_grad():
            found = movement(x.detach(), value)
        z = moved(x, found)
        return z if z.shape == value.shape else z.mean(1, keepdim=True).expand_as(value)


def surrogate_of(link: Transform, name: str) -> Surrogate:
    """The stand-in called `name`; "best" is the first, "identity" and "moved" are always there.

    Raises UnknownName, naming the nearest.
    """
    table = {**link.surrogates}
    table.setdefault("identity", identity)
    table.setdefault("moved", Follow(link))
    if name == "best":
        return next(iter(table.values()))
    if name not in table:
        raise unknown(f"surrogate of {link.name}", name, ["best", *table])
    return table[name]


@dataclass(frozen=True, eq=False)
class Around(Transform):
    """A link of which something is changed; all that a subclass does not say is the link's."""

    link: Transform

    @property
    def name(self) -> str:
        """The link's own name, so that a view addresses both alike."""
        return self.link.name

    def draw(self, key: Key, shape: Shape) -> Draw:
        """The link's own draw."""
        return self.link.draw(key, shape)

    def forward(self, x: Tensor, draw: Any) -> Tensor:
        """The link's own."""
        return self.link.forward(x, draw)

    def out_shape(self, shape: Shape) -> Shape:
        """The link's own."""
        return self.link.out_shape(shape)

    @property
    def surrogates(self) -> Mapping[str, Surrogate]:
        """The link's own."""
        return self.link.surrogates

    def beside(self, classifier: Classifier) -> Transform:
        """Around the link beside it."""
        return replace(self, link=self.link.beside(classifier))


@dataclass(frozen=True, eq=False)
class Graft(Around):
    """The value of `link`, bit for bit, with the gradient of one of its surrogates.

    Athalye et al. 2018 (arXiv:1802.00420), section 4.1. Cost: link and surrogate forward once each.
    """

    surrogate: str = "best"

    def forward(self, x: Tensor, draw: Any) -> Tensor:
        """The link's value; the surrogate's gradient."""
        table = self.link.surrogates
        stand_in = surrogate_of(self.link, self.surrogate)
        if stand_in == table.get("exact") or not x.requires_grad:
            return self.link.forward(x, draw)
        # Detached here, not under no_grad: a link may itself use autograd (an optimisation loop).
        value = self.link.forward(x.detach(), draw).detach()
        # A stand-in that follows the link would ask it for this value once more.
        smooth = stand_in.towards(x, value) if isinstance(stand_in, Follow) else stand_in(x, draw)
        if smooth.shape != value.shape:
            raise BadSetting(
                f'surrogate "{self.surrogate}" of {self.name} returns {tuple(smooth.shape)}, the '
                f"link itself {tuple(value.shape)}; `besiege explain {self.name}` lists the others."
            )
        return value + (smooth - smooth.detach())


@dataclass(frozen=True, eq=False)
class Frozen(Around):
    """`link` with one draw per example, kept for every step, draw and restart of an attack.

    The draw comes from the key's origin (seed and id), so no fold changes it; the judge's stream is
    another one.
    """

    def draw(self, key: Key, shape: Shape) -> Draw:
        """The same draw for every key with this seed and id."""
        return self.link.draw(key.origin().fold("frozen", self.name), shape)


@dataclass(frozen=True, eq=False)
class Chain(Transform):
    """Links in order, each handed its own input shape and key. A chain is a transform."""

    links: tuple[Transform, ...] = ()

    def __post_init__(self) -> None:
        names = [link.name for link in self.links]
        if twice := {n for n in names if names.count(n) > 1}:
            raise BadSetting(
                f'two links of a chain have the name "{sorted(twice)[0]}", and a view could not '
                f'tell them apart: wrap one as Named(link, "other name"), or write "other=fd + fd".'
            )

    @property
    def name(self) -> str:
        """The links' names, joined by " + "."""
        return " + ".join(link.name for link in self.links) or "none"

    def draw(self, key: Key, shape: Shape) -> Draw:
        """One draw per link (None where a link is deterministic); None if all are."""
        draws: list[Draw] = []
        for link in self.links:
            draws.append(link.draw(key.fold(link.name), shape))
            shape = link.out_shape(shape)
        return tuple(draws) if any(d is not None for d in draws) else None

    def forward(self, x: Tensor, draw: Any) -> Tensor:
        """All links in order."""
        for i, link in enumerate(self.links):
            x = link.forward(x, None if draw is None else draw[i])
        return x

    def out_shape(self, shape: Shape) -> Shape:
        """Shape after the last link."""
        for link in self.links:
            shape = link.out_shape(shape)
        return shape

    @property
    def surrogates(self) -> Mapping[str, Surrogate]:
        """ "best": every link under its best surrogate; "exact" instead where all links have it."""
        best = Chain(tuple(Graft(link) for link in self.links)).forward
        exact = all("exact" in link.surrogates for link in self.links)
        return {"exact": self.forward} if exact else {"best-of-each": best}

    def beside(self, classifier: Classifier) -> Chain:
        """Every link beside it."""
        return Chain(tuple(link.beside(classifier) for link in self.links))


@dataclass(frozen=True, eq=False)
class Named(Around):
    """`link` under another name, so that one chain can hold it twice."""

    alias: str

    @property
    def name(self) -> str:
        """The alias."""
        return self.alias


def contents(link: Transform) -> str:
    """What names the files that `link` reads, which its settings do not; "" if it reads none.

    A link that reads files has an attribute `digest` over their content.
    """
    if isinstance(link, Chain):
        return " + ".join(filter(None, map(contents, link.links)))
    if isinstance(link, Around) and not hasattr(link, "digest"):
        return contents(link.link)
    return str(getattr(link, "digest", ""))


class _Module(nn.Module):
    """See `module`."""

    def __init__(self, transform: Transform, key: Key) -> None:
        super().__init__()
        self.transform = Graft(transform)
        self.key = key
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        """x (B, C, H, W) in [0, 1]; call n, row i draws from key.fold("call", n, "row", i)."""
        key = self.key.fold("call", self.calls).spread("row", len(x)).to(x.device)
        self.calls += 1
        shape = (x.shape[1], x.shape[2], x.shape[3])
        return self.transform.forward(x, self.transform.draw(key, shape))


def module(transform: Transform, key: Key) -> nn.Module:
    """`transform` as a plain torch module, for `nn.Sequential`.

    key: of one row, Key.root(seed, [0]); every call and row draws afresh from it.
    Gradients pass through the best surrogate of each link.
    """
    if len(key) != 1:
        raise BadSetting(f"module() takes the key of one row, got {len(key)}: Key.root(seed, [0]).")
    return _Module(transform, key)
