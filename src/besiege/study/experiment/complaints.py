"""What the schema complains of, as sentences: file, key, what was expected, what came."""

from __future__ import annotations

from difflib import get_close_matches
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from besiege.core.errors import BadSetting, several


def explained(error: ValidationError, schema: type[BaseModel], where: str) -> BadSetting:
    """The error to raise for what pydantic found in `where`."""
    found = error.errors(include_url=False)
    # A list whose items are wrong is then also "too short": no more than an echo of the items.
    inner = {e["loc"][:1] for e in found if len(e["loc"]) > 1}
    found = [e for e in found if e["type"] != "too_short" or e["loc"] not in inner]
    return BadSetting(f"{where}: {several([_sentence(dict(e), schema) for e in found])}")


def _sentence(error: dict[str, Any], schema: type[BaseModel]) -> str:
    place = _place(error["loc"])
    table = _table_at(schema, error["loc"][:-1])
    if error["type"] == "extra_forbidden":
        names = sorted(table.model_fields) if table else []
        near = get_close_matches(str(error["loc"][-1]), names, n=1, cutoff=0.5)
        hint = f' Did you mean "{near[0]}"?' if near else ""
        return f"{place} is no key.{hint} Keys here: {', '.join(names)}."
    info = table.model_fields.get(str(error["loc"][-1])) if table else None
    if error["type"] == "missing":
        return f"{place} is missing{_meaning(info)}."
    came = error.get("input")
    message = error["msg"].removeprefix("Value error, ")
    message = message.removeprefix("Input should be ").removeprefix("a valid ")
    message = message.replace(", unable to parse string as a number", "")
    if error["type"] == "too_short":
        message = f"{error['ctx']['min_length']} or more [[{error['loc'][-1]}]]"
    return f"{place}: expected {message}{_meaning(info)}; got {came!r}."


def _meaning(info: FieldInfo | None) -> str:
    return f" ({info.description})" if info is not None and info.description else ""


def _place(loc: tuple[str | int, ...]) -> str:
    """("recipe", 1, "steps") -> recipe[1].steps."""
    text = ""
    for part in loc:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text


def _table_at(schema: type[BaseModel], loc: tuple[str | int, ...]) -> type[BaseModel] | None:
    """The model that describes the table at `loc`."""
    here: type[BaseModel] | None = schema
    for part in loc:
        if isinstance(part, int) or here is None:
            continue
        field = here.model_fields.get(part)
        here = _model_in(field.annotation) if field else None
    return here


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((m for a in get_args(annotation) if (m := _model_in(a))), None)
