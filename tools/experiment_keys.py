"""The docs' tables of the keys of an experiment file, written from its schema."""

from __future__ import annotations

from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from besiege.study.experiment import experiment, tables

# heading -> schema, in the order of the page
TABLES: tuple[tuple[str, type[BaseModel]], ...] = (
    ("[data]", tables.Data),
    ("[model]", tables.Model),
    ("[[defense]]", tables.DefenseTable),
    ("[[defense.member]]", tables.MemberTable),
    ("[[threat]]", tables.ThreatTable),
    ("[[recipe]]", tables.RecipeTable),
    ("[judge]", tables.Judge),
    ("[keep]", tables.Keep),
    ("[engine]", tables.EngineTable),
)
TOP = ("name", "seed", "plugins")
# What the schema leaves to the recipe, or to a name that says it.
SAID_ELSEWHERE = {
    "name": "how reports call it",
    "seed": "of all random draws",
    "plugins": "Python files, from the folder of the experiment",
    "targeted": "the goal is a given label, not just any wrong one",
    "access": "what an attack may ask of the defense",
    "device": "of model and images, as torch names it",
}


def keys() -> str:
    """All tables as Markdown."""
    top = {name: experiment.Experiment.model_fields[name] for name in TOP}
    parts = [_table("At the top", top)]
    parts += [_table(f"`{name}`: {_first(s)}", s.model_fields) for name, s in TABLES]
    return "\n\n".join(parts)


def _first(schema: type[BaseModel]) -> str:
    text = (schema.__doc__ or "").split("\n", 1)[0].rstrip(".")
    return text[0].lower() + text[1:]


def _table(heading: str, fields: dict[str, FieldInfo]) -> str:
    rows = [f"| `{name}` | {_default(f)} | {_meaning(name, f)} |" for name, f in fields.items()]
    return "\n".join([f"**{heading}**", "", "| key | default | is |", "|---|---|---|", *rows])


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "must be given"
    if field.default is None:
        return "none" if field.description else "the recipe's"
    return f"`{_toml(field.default)}`"


def _toml(value: Any) -> str:
    if isinstance(value, tuple):
        return "[" + ", ".join(map(_toml, value)) + "]"
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else str(value)


def _meaning(name: str, field: FieldInfo) -> str:
    said = field.description or SAID_ELSEWHERE.get(name, "see [attackers](recipes.md)")
    if get_origin(field.annotation) is Literal:
        choices = ", ".join(f"`{_toml(c)}`" for c in get_args(field.annotation))
        return f"{choices}; {said}"
    return said.replace("|", "\\|")


if __name__ == "__main__":
    print(keys())
