"""Environment files: `NAME=value` lines, and the environment that an application gets."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from instar.errors import ConfigError

if TYPE_CHECKING:
    from instar.config.model import Config

_LINE = re.compile(r"(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)\s*=\s*(.*)", re.DOTALL)
_DOUBLE = re.compile(r'"((?:[^"\\]|\\.)*)"\s*(?:#.*)?', re.DOTALL)
_SINGLE = re.compile(r"'([^']*)'\s*(?:#.*)?", re.DOTALL)
_ESCAPES = {"n": "\n", "r": "\r", "t": "\t"}


def read_env_file(path: Path) -> dict[str, str]:
    """The variables of a file. Raises ConfigError with the line's number, never with its text.

    Empty lines and lines that begin with `#` are skipped; `export` may stand in front. A value may be quoted:
    in '…' all is literal, in "…" the escapes of `\\n`, `\\r`, `\\t`, `\\"` and `\\\\` hold; a quoted value may
    span lines. Behind an unquoted value ` #` begins a comment. Variables in values are not replaced.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ConfigError(f"cannot read [app] env_file {path}: {(error.strerror or str(error)).lower()}") from error
    except UnicodeDecodeError:
        raise ConfigError(f"cannot read [app] env_file {path}: it is not UTF-8 text") from None
    return _parse(path, text.splitlines())


def _parse(path: Path, lines: list[str]) -> dict[str, str]:
    result: dict[str, str] = {}
    number = 0
    while number < len(lines):
        first = number
        statement = lines[number].strip()
        number += 1
        if not statement or statement.startswith("#"):
            continue
        match = _LINE.fullmatch(statement)
        if match is None:
            raise ConfigError(f"cannot read [app] env_file {path}: line {first + 1} is not NAME=value")
        name, value = match[1], match[2]
        while value[:1] in ("'", '"') and _quoted(value) is None and number < len(lines):
            value += "\n" + lines[number]
            number += 1
        result[name] = _value(path, first + 1, value)
    return result


def _value(path: Path, line: int, value: str) -> str:
    if value[:1] in ("'", '"'):
        text = _quoted(value)
        if text is None:
            raise ConfigError(f"cannot read [app] env_file {path}: the quote in line {line} is not closed")
    else:
        text = re.sub(r"(^|\s)#.*", "", value, count=1).strip()
    if "\0" in text:
        raise ConfigError(f"cannot read [app] env_file {path}: line {line} has a zero byte")
    return text


def _quoted(value: str) -> str | None:
    if match := _SINGLE.fullmatch(value):
        return match[1]
    if match := _DOUBLE.fullmatch(value):
        return re.sub(r"\\(.)", lambda escape: _ESCAPES.get(escape[1], escape[1]), match[1], flags=re.DOTALL)
    return None


def environment(config: Config) -> dict[str, str]:
    """What the configuration adds to the application's environment: `env_file`, then `env` over it."""
    variables = read_env_file(config.app.env_file) if config.app.env_file else {}
    return {**variables, **config.app.env}
