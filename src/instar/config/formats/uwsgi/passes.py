"""`$(ENV)`, `@(file)` and `%(option)`: replaced, in this order, when all files have been read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from instar.config.formats.uwsgi.values import integer
from instar.errors import ConfigError

#: A text that grows, or repeats, for ever.
_MOST_REPLACEMENTS = 1000
_LONGEST = 1 << 20


def replace(text: str, symbol: str, lookup: Callable[[str], str | None]) -> str:
    """The text with every `SYMBOL(name)` replaced; what `lookup` doesn't know stays as it is.

    What was put in is looked at again, except its first character. Raises ConfigError when that never ends.
    """
    start = 0
    for _ in range(_MOST_REPLACEMENTS):
        found = _find(text, symbol, start)
        while found and (value := lookup(text[found[0] + 2 : found[1] - 1])) is None:
            found = _find(text, symbol, found[1])
        if not found:
            return text
        text = text[: found[0]] + (value or "") + text[found[1] :]
        if len(text) > _LONGEST:
            break
        start = 1
    raise ConfigError(f"it refers to itself through {symbol}(…)")


def _find(text: str, symbol: str, start: int) -> tuple[int, int] | None:
    """First and last position (excluded) of `SYMBOL(name)`, where the name isn't empty and has no SYMBOL in it."""
    while (begin := text.find(f"{symbol}(", start)) >= 0:
        depth = 0
        for position in range(begin + 2, len(text)):
            character = text[position]
            if character == symbol:
                start = position
                break
            if character == ")" and not depth:
                if position > begin + 2:
                    return begin, position + 1
                start = position + 1
                break
            depth += (character == "(") - (character == ")")
        else:
            return None
    return None


def file_content(name: str, cwd: Path) -> str:
    """For `@(name)`: the file without its last line end. Raises ConfigError."""
    if "://" in name:
        scheme = name.partition("://")[0]
        raise ConfigError(f"@({scheme}://…) is not read by instar, only files are; put the value into a file")
    path = cwd / name
    try:
        if not path.is_file():
            raise ConfigError(f"there is no file {path}")
        if path.stat().st_size > _LONGEST:
            raise ConfigError(f"{path} is larger than 1 MB")
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path} can't be read: {(error.strerror or str(error)).lower()}") from error
    except UnicodeDecodeError:
        raise ConfigError(f"{path} is not UTF-8 text") from None
    return text[:-1] if text.endswith(("\n", "\r")) else text


def reference(expression: str, options: Mapping[str, str]) -> str | None:
    """For `%(expression)`: an option's first value, or words and options joined or calculated from left to right."""
    if " " not in expression:
        return options.get(expression)
    result: str | None = None
    operator = ""
    for word in expression.split(" "):
        if word in ("+", "-", "*", "/"):
            operator = word
        elif word in ("++", "--"):
            if result is not None:
                result = str(integer(result) + (1 if word == "++" else -1))
            operator = ""
        elif word:
            value = word if word.isdecimal() else options.get(word, "")
            result = _apply(operator, result or "", value)
            operator = ""
    return result


def _apply(operator: str, left: str, right: str) -> str:
    if not operator:
        return left + right
    first, second = integer(left), integer(right)
    if operator == "+":
        return str(first + second)
    if operator == "-":
        return str(first - second)
    if operator == "*":
        return str(first * second)
    if not second:
        return "0"
    # C divides towards zero.
    quotient = abs(first) // abs(second)
    return str(quotient if (first < 0) == (second < 0) else -quotient)
