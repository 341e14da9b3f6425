"""Writes tables of `instar.toml`."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

_BARE = re.compile(r"[A-Za-z0-9_-]+")


def value(item: object) -> str:
    """A text, number, switch, list or table on one line."""
    if isinstance(item, Mapping):
        return "{" + ", ".join(f"{key(name)} = {value(inner)}" for name, inner in item.items()) + "}"
    if isinstance(item, list | tuple):
        return "[" + ", ".join(map(value, item)) + "]"
    # JSON's texts, numbers and switches are TOML's, but for one character.
    return json.dumps(item, ensure_ascii=False).replace("\x7f", "\\u007f")


def key(name: str) -> str:
    """A key, in quotes where it needs them."""
    return name if _BARE.fullmatch(name) else value(name)


def table(path: Iterable[str], rows: Mapping[str, object], notes: Mapping[str, str]) -> Iterator[str]:
    """The lines of one table; `notes` are comments for keys."""
    yield f"[{'.'.join(map(key, path))}]"
    for name, item in rows.items():
        note = f"  # {notes[name]}" if name in notes else ""
        yield f"{key(name)} = {value(item)}{note}"


def document(raw: Mapping[str, Any], notes: Mapping[str, str]) -> str:
    """All tables, each below the table that it belongs to. `notes` are comments for dotted keys."""
    return "\n".join(_tables((), raw, notes)).strip() + "\n"


def _tables(path: tuple[str, ...], raw: Mapping[str, Any], notes: Mapping[str, str]) -> Iterator[str]:
    plain = {name: item for name, item in raw.items() if not isinstance(item, Mapping)}
    if plain and path:
        prefix = f"{'.'.join(path)}."
        own = {name: text for name in plain if (text := notes.get(prefix + name))}
        yield from ("", *table(path, plain, own))
    for name, item in raw.items():
        if isinstance(item, Mapping) and item:
            yield from _tables((*path, name), item, notes)
