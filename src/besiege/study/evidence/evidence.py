"""What the rows of a cell say, as arrays that checks can compare."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from besiege.attacks.attack import Attack
from besiege.attacks.catalog import ATTACKS, GRADIENTS, load_attack
from besiege.core.entry import Catalog
from besiege.core.errors import BesiegeError
from besiege.defenses.defense import ABSTAIN, STAGES, VOTE
from besiege.study.recipe import ADAPTIVE, GIVEN, UNION, Recipe

Shares = NDArray[np.float64]
PLAIN = asdict(Recipe("plain"))
NO_LINKS = (STAGES, VOTE)  # what a view names beside links


@dataclass(frozen=True)
class Cell:
    """One cell of a run: its record in resolved.json, its rows by id, and its traces."""

    record: Mapping[str, Any]
    rows: Sequence[Mapping[str, Any]]
    traces: Mapping[int, Mapping[str, Any]]
    attacks: Catalog[Attack] = ATTACKS

    @property
    def settings(self) -> Mapping[str, Any]:
        """Those of its recipe; what an older run does not say is as in a plain one."""
        return {**PLAIN, **self.record["recipe_settings"]}

    @property
    def recipe(self) -> str:
        """Name of its recipe."""
        return str(self.record["recipe"])

    @property
    def hash(self) -> str:
        """What names it."""
        return str(self.record["cell"])

    @property
    def title(self) -> str:
        """What it is, in words."""
        goal = "targeted" if self.record["targeted"] else "untargeted"
        return f"{self.record['defense']} · {self.recipe} · {self.record['threat']} {goal}"

    def column(self, name: str) -> NDArray[Any]:
        """A column of its rows."""
        return np.array([row[name] for row in self.rows])

    def shares(self, name: str) -> Shares:
        """(n,) a column that older folders, and rows that were not asked, lack: NaN there."""
        found = (row.get(name) for row in self.rows)
        return np.array([np.nan if v is None else v for v in found], float)

    @cached_property
    def ids(self) -> NDArray[np.int64]:
        """(n,) of its rows."""
        return self.column("id")

    @cached_property
    def predicted(self) -> NDArray[np.int64]:
        """(n, k) labels of the judge's draws; the fewest of any row."""
        k = min(len(row["predicted"]) for row in self.rows)
        return np.array([row["predicted"][:k] for row in self.rows])

    @property
    def drawn(self) -> bool:
        """Whether it was judged on several draws, as random defenses are."""
        return bool(self.predicted.shape[1] > 1)

    @cached_property
    def hits(self) -> NDArray[np.bool_]:
        """(n, k) whether each draw gave the label."""
        found: NDArray[np.bool_] = self.predicted == self.column("label")[:, None]
        return found

    @cached_property
    def right(self) -> Shares:
        """(n,) shares of draws right."""
        found: Shares = self.hits.mean(1)
        return found

    @cached_property
    def won(self) -> Shares:
        """(n,) shares of draws that met the goal."""
        if not self.record["targeted"]:
            return 1 - self.right
        met: Shares = (self.predicted == self.column("target")[:, None]).mean(1)
        return met

    @cached_property
    def silent(self) -> Shares:
        """(n,) shares of draws without an answer."""
        found: Shares = (self.predicted == ABSTAIN).mean(1)
        return found

    @cached_property
    def made(self) -> Attack | None:
        """Its attack; None for points of others, for a union, and for one that is not at hand."""
        spec = self.settings["attack"]
        if spec in (GIVEN, UNION, ADAPTIVE):
            return None
        try:
            return load_attack(spec, self.attacks)
        except BesiegeError:
            return None

    @cached_property
    def members(self) -> tuple[Cell, ...]:
        """Of a union its searches, each as if it were alone; their rows are those of the union."""
        links = self.record.get("view", {})
        found = []
        for own in self.settings.get("union", ()):
            view = {link: own.get("view", {}).get(link, own.get("links")) for link in links}
            more = {"recipe": own["name"], "recipe_settings": own, "view": view}
            found.append(Cell({**self.record, **more}, self.rows, {}, self.attacks))
        return tuple(found)

    @property
    def control(self) -> bool:
        """Whether nothing was attacked."""
        return bool(self.settings["attack"] == "none")

    @property
    def links(self) -> dict[str, str]:
        """How each link is seen."""
        view = self.record.get("view", {})
        return {link: how for link, how in view.items() if link not in NO_LINKS}

    @property
    def left_out(self) -> list[str]:
        """Links that the attacker does not see."""
        return [link for link, how in self.links.items() if how == "skip"]

    @property
    def transferred(self) -> bool:
        """Whether its points come from other models, or from the classifier alone."""
        others = self.settings.get("models") is not None
        return others or (bool(self.links) and len(self.left_out) == len(self.links))

    @property
    def access(self) -> str:
        """The least that its attack needs of the defense; "" where that is not known."""
        if self.made is None or self.control:
            return ""
        spec = self.settings.get("gradients", "backward")
        estimates = self.made.access == "gradients" and GRADIENTS.build(spec).estimates
        return "scores" if estimates else self.made.access

    @property
    def by_gradients(self) -> bool:
        """Whether it, or one of its union, follows gradients of the defense with all its links."""
        if self.members:
            return any(one.by_gradients for one in self.members)
        return self.access == "gradients" and not self.transferred and not self.left_out

    @property
    def effort(self) -> int:
        """Steps of its restarts, times the draws of each."""
        own = self.settings
        return int(own["steps"] * own["restarts"] * own["draws"])

    @property
    def attacker(self) -> str:
        """What is the same of one attacker under other threats: a union is worked out for each."""
        return f"{UNION} {self.recipe}" if self.members else self.alike()

    @property
    def faithful(self) -> bool:
        """Whether a success that the attacker reads is one of a defense that draws nothing."""
        plain = self.settings.get("precision") == "float32" and not self.record.get("eight_bit")
        return plain and not self.transferred and not self.left_out and not self.drawn

    def alike(self, *but: str) -> str:
        """Its settings but some, as text: cells alike differ in these alone."""
        own = {k: v for k, v in self.settings.items() if k not in ("name", *but)}
        if not {"view", "links"} & set(but):
            own["view"] = self.record.get("view")
        judged = [self.record.get(k) for k in ("draws", "eight_bit", "passes", "access")]
        return repr((judged, sorted((k, repr(v)) for k, v in own.items())))


def common(cells: Sequence[Cell]) -> list[Cell]:
    """The cells with those rows only whose ids all have; none where they share no id."""
    shared = set.intersection(*(set(c.ids.tolist()) for c in cells)) if cells else set()
    if not shared:
        return []
    return [
        Cell(c.record, [r for r in c.rows if r["id"] in shared], c.traces, c.attacks) for c in cells
    ]


def cells_of(
    records: Iterable[Mapping[str, Any]],
    rows: Iterable[Mapping[str, Any]],
    traces: Iterable[Mapping[str, Any]],
    ids: Iterable[int],
    attacks: Catalog[Attack] = ATTACKS,
) -> list[Cell]:
    """The cells of a run that have rows; of the ids `ids` only."""
    wanted = set(ids)
    by_cell: dict[str, list[Mapping[str, Any]]] = {r["cell"]: [] for r in records}
    for row in rows:
        if row["cell"] in by_cell and row["id"] in wanted:
            by_cell[row["cell"]].append(row)
    traced: dict[str, dict[int, Mapping[str, Any]]] = {}
    for trace in traces:
        traced.setdefault(trace["cell"], {})[trace["id"]] = trace
    return [
        Cell(
            record,
            sorted(by_cell[record["cell"]], key=lambda row: int(row["id"])),
            traced.get(record["cell"], {}),
            attacks,
        )
        for record in records
        if by_cell[record["cell"]]
    ]
