"""Evidence that checks are asked about a run: what its cells show alone and beside each other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations, pairwise
from typing import Any, TypeAlias

import numpy as np

from besiege.checks.gradients import Graph
from besiege.checks.opponents import Nearer
from besiege.checks.optimisation import Curves, Iterates, Radii, Sweep, Unbounded
from besiege.checks.pair import Pair
from besiege.checks.protocol import (
    Budget,
    Certified,
    Chosen,
    Claims,
    Clean,
    Pixels,
    Scores,
    Sizes,
    Tuned,
)
from besiege.checks.randomness import Answers, Control, Elsewhere, Luckiest, Silence, Split
from besiege.core.entry import parse_spec
from besiege.core.power import images_lacking
from besiege.core.stats import share_interval
from besiege.study.evidence.evidence import Cell, common
from besiege.study.evidence.members import rank, spent, united

# Number of a check, its evidence, what it is about, and the cells whose figures it touches.
Exhibit: TypeAlias = tuple[int, object, str, Sequence[Cell]]

NO_GRADIENT = "no gradient passes "
REFUSED = "point outside the threat"
NORMS = ("linf", "l2", "rms", "l1")  # columns of rows in the unit of eps
MANY = 5  # steps that one step is held against


def exhibits(
    cells: Sequence[Cell],
    select: str,
    pilots: Mapping[str, Sequence[int]],
    proofs: Sequence[Mapping[str, Any]],
) -> Iterator[Exhibit]:
    """All that can be asked of some cells; the settings are those of `examine`."""
    if not cells:
        return
    most = max(len(cell.rows) for cell in cells)
    yield 39, Chosen(select, most), "", ()
    for cell in cells:
        yield from _alone(cell)
        tuned = np.isin(cell.ids, pilots.get(cell.hash, ()))
        yield 45, Tuned(cell.right[tuned], cell.right[~tuned]), cell.title, [cell]
    yield from _few(cells)
    for proof in proofs:
        yield from _proved(cells, proof)
    groups: dict[tuple[Any, ...], list[Cell]] = {}
    for cell in cells:
        r = cell.record
        key = (r["defense"], r["threat"], r["targeted"])
        groups.setdefault(key, []).append(cell)
    for group in groups.values():
        together = common(group)
        if together:
            yield from _among(together)
    yield from _across(cells, select)


def _alone(cell: Cell) -> Iterator[Exhibit]:
    """What one cell shows by itself."""
    about, own, settings = cell.title, [cell], cell.settings
    yield 35, Silence(cell.right, cell.silent), about, own
    yield 29, Answers(cell.hits, cell.ids), about, own
    refused = np.array([any(f.startswith(REFUSED) for f in row["flags"]) for row in cell.rows])
    eps = float(cell.record.get("eps", np.inf))
    norm = cell.record["ball"]
    size = cell.column(norm) if norm in NORMS else np.zeros(len(cell.rows))
    bound = eps if norm in NORMS else np.inf
    yield 36, Sizes(size, bound, refused=refused, ids=cell.ids), about, own
    if cell.control:
        return
    if norm in NORMS[:1] and cell.record.get("eight_bit"):
        yield 37, Pixels(np.zeros(1), np.ones(1), eps), about, own
    claim = cell.column("claim").astype(float)
    made = np.isfinite(claim)
    if made.any() and not cell.transferred and not (cell.left_out and not settings["check_whole"]):
        yield 43, Claims(claim[made], cell.won[made], cell.ids[made]), about, own
    again = cell.shares("again")
    if cell.drawn and (seen := np.isfinite(again)).any():
        yield 32, Elsewhere(cell.right[seen], again[seen]), about, own
    standing = cell.won < 0.5
    searched = cell.made is not None and not cell.made.nearest and settings["steps"] > 0
    used = standing & (spent(cell) if cell.members else searched)
    if norm in NORMS and eps > 0 and used.any():
        yield 42, Budget(size[used] / eps, cell.ids[used]), about, own
    if searched:
        yield from _traced(cell, standing)
    for number, evidence in united(cell):
        yield number, evidence, about, own


def _few(cells: Sequence[Cell]) -> Iterator[Exhibit]:
    """The figure that is known least, for all that are not known well enough (40)."""
    known = {cell.hash: share_interval(cell.right) for cell in cells}
    widest = max(cells, key=lambda c: known[c.hash].high - known[c.hash].low)
    few = [cell for cell in cells if images_lacking(known[cell.hash])]
    yield 40, Scores(widest.right), widest.title, few


def _proved(cells: Sequence[Cell], proof: Mapping[str, Any]) -> Iterator[Exhibit]:
    """The points of a defense beside the certificates of their images (44)."""
    place = {one: i for i, one in enumerate(proof["ids"])}
    answer, radius = np.array(proof["answer"]), np.array(proof["radius"], float)
    for cell in cells:
        if cell.record["defense"] == proof["defense"]:
            at = [place[i] for i in cell.ids.tolist()]
            size, alpha = cell.column(proof["norm"]), proof["alpha"]
            evidence = Certified(radius[at], answer[at], size, cell.predicted, alpha, cell.ids)
            yield 44, evidence, cell.title, [cell]


def _traced(cell: Cell, standing: Any) -> Iterator[Exhibit]:
    """What its traces show."""
    assert cell.made is not None
    rows = [cell.traces[i] for i in cell.ids.tolist() if i in cell.traces]
    about, own = cell.title, [cell]
    if len(rows) == len(cell.rows) and cell.made.whole is None:
        loss = _table([t["loss"][: cell.settings["steps"]] for t in rows])
        if loss is not None and np.isfinite(loss).all():
            yield 11, Curves(loss, standing, cell.ids), about, own
        judged = _table([t["judged_won"] for t in rows])
        if judged is not None and not cell.made.nearest:
            draws = int(cell.record.get("step_draws", 1)) if cell.drawn else 1
            final = cell.predicted.shape[1]
            yield 12, Iterates(judged, draws, cell.won, final, cell.ids), about, own
    if cell.faithful and not cell.settings["believe_first"]:
        lucky = cell.column("lucky").astype(float)[:, None]
        yield 12, Iterates(lucky, 1, cell.won, 1, cell.ids), about, own


def _table(rows: Sequence[Sequence[float]]) -> Any:
    """(n, T), or None where rows are empty or of several lengths."""
    lengths = {len(row) for row in rows}
    return np.array(rows, float) if len(lengths) == 1 and lengths != {0} else None


def _among(cells: Sequence[Cell]) -> Iterator[Exhibit]:
    """What attackers of one defense and threat show beside each other."""
    control = next((c for c in cells if c.control), None)
    attacked = [c for c in cells if not c.control]
    drawn = [c for c in attacked if c.drawn]
    if drawn:
        strongest = min(drawn, key=lambda c: c.right.mean())
        calm = None if control is None or not control.drawn else control.hits
        yield 34, Luckiest(strongest.hits, calm), strongest.title, [strongest]
    if control is not None:
        yield from _idle(attacked, control)
    gradients = [c for c in attacked if c.by_gradients]
    cut = [c for c in gradients if _cut(c)]
    if cut and len(cut) == len(gradients) == len(attacked):
        links = tuple(dict.fromkeys(link for c in cut for link in _cut(c)))
        yield 2, Graph(links, (False,) * len(links)), cut[0].title, cut
    if not gradients:
        return
    best = min(gradients, key=lambda c: c.right.mean())
    for cell in attacked:
        number = rank(cell)
        if number:
            yield number, _pair(best, cell), cell.title, [cell, best]
        if cell.access == "labels" and cell.made is not None and not cell.transferred:
            right = np.min([c.right for c in gradients], axis=0)
            yield 24, Nearer(cell.won, right, cell.drawn, cell.ids), cell.title, [cell, best]
    longest = [c for c in gradients if c.members or c.settings["steps"] >= MANY]
    if longest:
        many = min(longest, key=lambda c: c.right.mean())
        for cell in gradients:
            if cell.settings["steps"] == 1:
                yield 19, _pair(cell, many), cell.title, [cell, many]
    if _unbounded(cells[0]):
        right = np.min([c.right for c in gradients], axis=0)
        classes = len(cells[0].record.get("classes", ()))
        yield 13, Unbounded(right, classes), best.title, gradients


def _cut(cell: Cell) -> list[str]:
    """Links that no gradient passes, as its rows say."""
    flags = {flag for row in cell.rows for flag in row["flags"]}
    return [f.removeprefix(NO_GRADIENT) for f in sorted(flags) if f.startswith(NO_GRADIENT)]


def _unbounded(cell: Cell) -> bool:
    return str(cell.record["threat"]) == "unrestricted" or (
        cell.record["ball"] in NORMS[:1] and cell.record.get("eps", 0) >= 1
    )


def _idle(attacked: Sequence[Cell], control: Cell) -> Iterator[Exhibit]:
    """What attackers claim where nothing may be changed, beside the clean figure (28)."""
    clean = 1 - control.won
    for cell in attacked:
        still = cell.record.get("eps") == 0
        claim = cell.column("claim").astype(float) if still else cell.shares("idle")
        made = np.isfinite(claim)
        if made.any():
            yield 28, Control(1 - claim[made], clean[made]), cell.title, [cell, control]


def _pair(first: Cell, second: Cell, factor: float = 1.0) -> Pair:
    one, other = common([first, second])
    drawn = one.drawn or other.drawn
    return Pair(one.right, other.right, drawn, (first.recipe, second.recipe), factor)


def _sets(cells: Sequence[Cell], key: Callable[[Cell], Any]) -> Iterator[list[Cell]]:
    """Cells that have the same key and an id in common, two or more."""
    groups: dict[Any, list[Cell]] = {}
    for cell in cells:
        groups.setdefault(key(cell), []).append(cell)
    for group in groups.values():
        if len(group) > 1 and common(group):
            yield group


def _where(cell: Cell) -> tuple[Any, ...]:
    r = cell.record
    return r["defense"], r["threat"], r["targeted"]


def _across(cells: Sequence[Cell], select: str) -> Iterator[Exhibit]:
    """Cells that differ in one setting."""
    attacked = [c for c in cells if not c.control and c.made is not None]
    for number, setting in ((15, "steps"), (16, "restarts")):
        for group in _sets(attacked, lambda c, s=setting: (_where(c), c.alike(s))):  # type: ignore[misc]
            group = sorted(group, key=lambda c, s=setting: c.settings[s])  # type: ignore[misc]
            for less, more in pairwise(group):
                if less.settings[setting] == more.settings[setting]:
                    continue
                factor = more.settings[setting] / max(less.settings[setting], 1)
                about = f"{less.title} and {more.recipe}"
                yield number, _pair(less, more, factor), about, [less, more]
    for group in _sets(attacked, lambda c: (_where(c), c.alike("draws", "steps"))):
        yield from _split(group)
    whole = [c for c in attacked if not c.left_out]
    for number, some, but in ((25, whole, ("view", "links")), (20, attacked, ("loss",))):
        for group in _sets(some, lambda c, b=but: (_where(c), c.alike(*b))):  # type: ignore[misc]
            best = min(group, key=lambda c: c.right.mean())
            worst = max(group, key=lambda c: c.right.mean())
            if best.alike() != worst.alike():
                yield number, _pair(worst, best), best.title, [worst, best]
    united = [c for c in cells if c.members]
    yield from _goals([*attacked, *united])
    yield from _sweeps(attacked)
    yield from _radii([*attacked, *united])
    yield from _cost(cells, select)


def _split(group: Sequence[Cell]) -> Iterator[Exhibit]:
    """Equal draws x steps, spent in two ways (31)."""
    for one, other in combinations(group, 2):
        a, b = ((c.settings["draws"], c.settings["steps"]) for c in (one, other))
        if a != b and a[0] * a[1] == b[0] * b[1]:
            pair = _pair(one, other)
            names = tuple(f"{draws} draws x {steps} steps" for draws, steps in (a, b))
            evidence = Split(pair.first, pair.second, (names[0], names[1]))
            yield 31, evidence, one.title, [one, other]


def _goals(attacked: Sequence[Cell]) -> Iterator[Exhibit]:
    """The targeted attack beside the untargeted one of the same settings (20)."""

    def key(cell: Cell) -> tuple[Any, ...]:
        return cell.record["defense"], cell.record["threat"], cell.attacker

    for group in _sets(attacked, key):
        plain = [c for c in group if not c.record["targeted"]]
        aimed = [c for c in group if c.record["targeted"]]
        if plain and aimed:
            pair = _pair(plain[0], aimed[0])
            names = (f"untargeted {plain[0].recipe}", f"targeted {aimed[0].recipe}")
            evidence = Pair(pair.first, pair.second, pair.random, names)
            yield 20, evidence, aimed[0].title, [plain[0], aimed[0]]


def _sweeps(attacked: Sequence[Cell]) -> Iterator[Exhibit]:
    """Attacks that differ in the size of their step alone (17)."""

    def step(cell: Cell) -> float | None:
        found = parse_spec(cell.settings["attack"])[1].get("step") if _plain(cell) else None
        return float(found) if isinstance(found, int | float) else None

    def key(cell: Cell) -> tuple[Any, ...]:
        name, given = parse_spec(cell.settings["attack"])
        rest = sorted((k, repr(v)) for k, v in given.items() if k != "step")
        return _where(cell), cell.alike("attack"), name, repr(rest)

    for group in _sets([c for c in attacked if step(c) is not None], key):
        same = sorted(common(group), key=lambda c: step(c) or 0.0)
        sizes = np.array([step(c) for c in same], float)
        if len(set(sizes.tolist())) == len(sizes) >= 3:
            yield 17, Sweep(sizes, np.stack([c.right for c in same])), same[0].title, same


def _plain(cell: Cell) -> bool:
    """Whether its attack is a spec of the catalog, with nothing around it."""
    spec = cell.settings["attack"]
    return " of " not in spec and "(" not in spec


def _radii(attacked: Sequence[Cell]) -> Iterator[Exhibit]:
    """One attack at several radii (14)."""

    def key(cell: Cell) -> tuple[Any, ...]:
        r = cell.record
        return r["defense"], r["ball"], r["targeted"], cell.recipe, cell.attacker

    for group in _sets(attacked, key):
        if all("eps" in c.record for c in group):
            same = sorted(common(group), key=lambda c: float(c.record["eps"]))
            eps = np.array([float(c.record["eps"]) for c in same])
            if len(set(eps.tolist())) == len(eps):
                right = np.stack([c.right for c in same])
                yield 14, Radii(eps, right), same[-1].title, same


def _cost(cells: Sequence[Cell], select: str) -> Iterator[Exhibit]:
    """Clean accuracy behind the defense beside that of the model alone (38)."""
    controls = [c for c in cells if c.control]
    bare = next((c for c in controls if c.record.get("chain") in ("", "none")), None)
    seen = set()
    for cell in controls:
        if cell is bare or cell.record["defense"] in seen:
            continue
        seen.add(cell.record["defense"])
        alone = cell.shares("bare")
        if np.isfinite(alone).all():
            yield 38, Clean(cell.right, alone), str(cell.record["defense"]), [cell]
        elif bare is not None and (both := common([cell, bare])):
            evidence = Clean(both[0].right, both[1].right)
            yield 38, evidence, str(cell.record["defense"]), [cell]
        elif select == "correct":
            evidence = Clean(cell.right, np.ones(len(cell.rows)))
            yield 38, evidence, str(cell.record["defense"]), [cell]
