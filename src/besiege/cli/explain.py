"""`besiege explain NAME`."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from besiege.cli.shelves import traits
from besiege.core.entry import Entry

if TYPE_CHECKING:
    from besiege.defenses.transform import Transform


def explain(
    name: Annotated[str, typer.Argument(help="A name that `besiege list` prints.")],
) -> None:
    """Formula, parameters, source, surrogates and cost of one component."""
    from besiege.cli.shelves import shelves
    from besiege.core.errors import unknown

    known = shelves()
    found = [(shelf, catalog[name]) for shelf, catalog in known.items() if name in catalog]
    if not found:
        raise unknown("name", name, [n for catalog in known.values() for n in catalog])
    for shelf, entry in found:
        print("\n".join(_lines(shelf, entry)))


def _lines(shelf: str, entry: Entry[Any]) -> Iterator[str]:
    yield f"{entry.name}  ({shelf})"
    yield ""
    yield inspect.getdoc(entry.factory) or ""
    yield ""
    yield f"source: {entry.source}"
    yield from (f"{trait}: {value}" for trait, value in traits(shelf, entry).items())
    if entry.parameters:
        yield "parameters:"
    for key, default in entry.parameters.items():
        given = "must be given" if default is inspect.Parameter.empty else repr(default)
        yield f"  {key} = {given}"
    if len(entry.specs) > 1:
        yield "for example:"
        yield from (f"  {spec}" for spec in entry.specs[1:])
    if shelf == "transforms":
        yield from _of_transform(entry)
    for law, reason in entry.known_failures.items():
        yield f"known failure of the law {law}: {reason}"


def _of_transform(entry: Entry[Transform]) -> Iterator[str]:
    """What only a transform has: surrogates, draws, and what it costs on this machine."""
    from besiege.core.errors import BesiegeError

    try:
        links = [entry.factory(**case) for case in entry.cases]
    except BesiegeError as error:  # files that it needs are not at hand
        yield f"not at hand: {error}"
        return
    names = dict.fromkeys(name for link in links for name in link.surrogates)
    yield f"surrogates, best first: {', '.join(names) or 'identity'}"
    try:
        yield from _measured(links[0])
    except BesiegeError as error:
        yield f"cost, on this machine: not measured ({error})"


def _measured(link: Transform) -> Iterator[str]:
    """Numbers drawn, shape and milliseconds an image, for a batch of 8 of 3 x 32 x 32."""
    from besiege.core.batch import Draw
    from besiege.core.key import Key
    from besiege.defenses.transform import Graft

    def count(draw: Draw) -> int:
        if draw is None:
            return 0
        return sum(map(count, draw)) if isinstance(draw, tuple) else draw[0].numel()

    key, shape = Key.root(0, range(8)), (3, 32, 32)
    x = key.fold("x").uniform(*shape)
    draw = link.draw(key, shape)
    drawn = f"{count(draw)} numbers" if draw is not None else "nothing: deterministic"
    yield f"draws an image of 3 x 32 x 32: {drawn}"
    if (changed := link.out_shape(shape)) != shape:
        yield f"makes of it: {' x '.join(map(str, changed))}"

    def milliseconds(call: Callable[[], object]) -> float:
        times = []
        for _ in range(4):
            start = time.perf_counter()
            call()
            times.append(time.perf_counter() - start)
        return 1e3 * min(times) / len(x)

    def gradient() -> None:
        leaf = x.clone().requires_grad_()
        Graft(link).forward(leaf, link.draw(key, shape)).sum().backward()  # type: ignore[no-untyped-call]

    forward = milliseconds(lambda: link.forward(x, link.draw(key, shape)))
    both = milliseconds(gradient)
    yield f"cost, on this machine: {forward:.2g} ms an image, {both:.2g} ms with a gradient"
