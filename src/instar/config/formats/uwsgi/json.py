"""JSON: the object of the section's name."""

from __future__ import annotations

import json
from collections.abc import Iterator

from instar.config.formats.uwsgi.parsed import Pair, Source
from instar.errors import ConfigError


def parse(source: Source) -> Iterator[Pair]:
    """Texts and whole numbers as they are, true is 1, false and null are 0, a list repeats its key. Fractions,
    objects and lists of lists have no meaning. Of a key that is there twice the last counts. Raises ConfigError."""
    text = source.text.replace("\0", "")
    try:
        root = json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigError(f"it is not JSON: {error.msg.lower()} at line {error.lineno}") from None
    except RecursionError:
        raise ConfigError("it is not JSON that can be read: it is too deep") from None
    section = root.get(source.section) if isinstance(root, dict) else None
    if not isinstance(section, dict):
        raise ConfigError(f'it has no object "{source.section}"')
    for key, value in section.items():
        line = _line(text, key, source.section)
        for item in value if isinstance(value, list) else [value]:
            if (option := _text(item)) is None:
                source.notice(line, f'"{key}" has a value that uWSGI leaves out: neither text, whole number nor switch')
            else:
                yield Pair(key, option, line)


def _text(value: object) -> str | None:
    if isinstance(value, str):
        return value
    if value is None or isinstance(value, bool):
        return "1" if value else "0"
    return str(value) if isinstance(value, int) else None


def _line(text: str, key: str, section: str) -> int:
    """Where the key seems to be: the parser doesn't tell."""
    begin = max(text.find(json.dumps(section)), 0)
    position = text.find(json.dumps(key), begin)
    return text.count("\n", 0, position) + 1 if position >= 0 else 0
