"""Turns the errors of pydantic into one plain sentence each."""

from __future__ import annotations

import json
import typing
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from instar.config.hook import Hook
from instar.config.nearest import did_you_mean
from instar.config.table import Table

#: Keys whose values may be secrets.
SECRET_KEYS = frozenset({"env", "headers"})

_KINDS = {
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "a text in quotes",
    "tuple_type": "a list",
    "list_type": "a list",
    "dict_type": "a table",
    "model_type": "a table",
    "model_attributes_type": "a table",
}


def sentence(error: ErrorDetails, model: type[Table]) -> str:
    """What is wrong, for a person: `[web] workers must be a whole number, not "four"`."""
    location = error["loc"]
    if error["type"] == "extra_forbidden":
        return _unknown(location, model)
    return f"{describe(location, model)} {_problem(error)}"


def describe(location: Sequence[int | str], model: type[Table]) -> str:
    """A place in the file: `[restart.canary] share`, `[web] bind, entry 2`."""
    tables, keys = _split(location, model)
    text = f"[{'.'.join(tables)}]" if tables else ""
    before: int | str = ""
    for part in keys:
        if isinstance(part, int):
            text += f", entry {part + 1}"
        else:
            text += f": {part}" if isinstance(before, int) else f" {part}"
        before = part
    return text.strip() or "the file"


def _split(location: Sequence[int | str], model: type[Table]) -> tuple[list[str], list[int | str]]:
    """Names of the tables that lead to a place, and the keys behind them."""
    tables: list[str] = []
    current: type[BaseModel] | None = model
    rest = list(location)
    while rest and current is not None and rest[0] in current.model_fields:
        annotation = current.model_fields[str(rest[0])].annotation
        table, named = table_of(annotation)
        if table is None:
            break
        tables.append(str(rest.pop(0)))
        if named:
            if not rest:
                break
            tables.append(str(rest.pop(0)))
        current = table
    return tables, rest


def table_of(annotation: Any) -> tuple[type[Table] | None, bool]:
    """The table that a field holds, and whether it holds several by name (`[services.NAME]`)."""
    named = typing.get_origin(annotation) is dict
    kind = typing.get_args(annotation)[1] if named else annotation
    # A parametrised generic (`tuple[str, ...]`) passes for a type, and yet issubclass refuses it.
    if typing.get_origin(kind) is None and isinstance(kind, type) and issubclass(kind, Table):
        return kind, named
    return None, False


def _unknown(location: Sequence[int | str], model: type[Table]) -> str:
    key = str(location[-1])
    tables, keys = _split(location[:-1], model)
    if not tables and not keys:
        return _unknown_table(key, model)
    owner = _table_at(tables, model)
    if keys:
        owner = Hook  # the only table that stands in lists
    text = f"{describe(location, model)} is not a known key"
    hint = did_you_mean(key, owner.model_fields)
    return text + (hint or _elsewhere(key, model))


def _unknown_table(key: str, model: type[Table]) -> str:
    homes = _homes(key, model)
    if homes:
        return f"{key} stands outside of any table; it is a key of [{homes[0]}]"
    return f"[{key}] is not a known table{did_you_mean(key, model.model_fields, '[{}]')}"


def _elsewhere(key: str, model: type[Table]) -> str:
    homes = _homes(key, model)
    return f"; it belongs in [{homes[0]}]" if homes else ""


def _homes(key: str, model: type[Table], prefix: str = "") -> list[str]:
    """Names of the tables that know a key."""
    result: list[str] = []
    for name, field in model.model_fields.items():
        table, named = table_of(field.annotation)
        if table is None:
            continue
        path = f"{prefix}{name}" + (f".{table.entry}" if named else "")
        if key in table.model_fields:
            result.append(path)
        result.extend(_homes(key, table, f"{path}."))
    return result


def _table_at(tables: Sequence[str], model: type[Table]) -> type[Table]:
    current = model
    names = list(tables)
    while names:
        table, named = table_of(current.model_fields[names.pop(0)].annotation)
        if table is None:
            break
        current = table
        if named and names:
            names.pop(0)
    return current


def _problem(error: ErrorDetails) -> str:
    kind, context = error["type"], error.get("ctx", {})
    shown = "" if _secret(error) else _shown(error["input"])
    if kind in ("value_error", "assertion_error"):
        return str(context.get("error", error["msg"]))
    if kind == "literal_error":
        return _choice(error, shown)
    if kind == "missing":
        return "is missing"
    if kind in ("too_short", "string_too_short"):
        return "must not be empty"
    if kind in _KINDS:
        return f"must be {_KINDS[kind]}{shown}"
    for name, words in (("ge", "at least"), ("gt", "more than"), ("le", "at most"), ("lt", "less than")):
        if name in context:
            return f"must be {words} {context[name]:g}{shown}"
    return f"is wrong: {error['msg'].lower()}"


def _choice(error: ErrorDetails, shown: str) -> str:
    choices = [word.strip().strip("'") for word in error["ctx"]["expected"].replace(" or ", ", ").split(",")]
    listed = ", ".join(choices[:-1]) + f" or {choices[-1]}"
    hint = did_you_mean(error["input"], choices) if isinstance(error["input"], str) else ""
    return f"must be {listed}{shown}{hint}"


def _secret(error: ErrorDetails) -> bool:
    return any(part in SECRET_KEYS for part in error["loc"])


def _shown(value: object) -> str:
    if isinstance(value, str | int | float | bool):
        text = json.dumps(value, ensure_ascii=False)
        return f", not {text if len(text) <= 60 else text[:57] + '...'}"
    if isinstance(value, dict):
        return ", not a table"
    if isinstance(value, list | tuple):
        return ", not a list"
    return ""
