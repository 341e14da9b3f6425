"""YAML as uWSGI reads it when it is built without libyaml, as from PyPI: line by line, no quotes, no lists."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator

from instar.config.formats.uwsgi.known import is_known
from instar.config.formats.uwsgi.parsed import Pair, Source

#: What notices about lost lines begin with.
STOPS = "uWSGI stops reading here"

_INDENT = re.compile(r"[ \t\r]*")
_BLANK = " \t\r"
_LIST_OR_MAP = ("-", "[", "{")


@dataclasses.dataclass(frozen=True)
class _Line:
    number: int
    depth: int
    #: Without indentation and comment.
    text: str
    #: Whether a # ended it that doesn't look like a comment.
    cut: bool

    @property
    def pair(self) -> tuple[str, str] | None:
        """Key and value, split at the first colon with a blank after it."""
        for mark in (": ", ":\t"):
            key, found, value = self.text.partition(mark)
            if found:
                return key.strip(_BLANK), value.strip(_BLANK)
        return None


def parse(source: Source) -> Iterator[Pair]:
    """The `key: value` lines below the section, which is the first key in column 1 of its name.

    All depths are one; a `#` starts a comment wherever it is; values have no quotes. It ends at the next text in
    column 1 and, without a word of uWSGI, at a line that is no `key: value`. A file whose indentation was lost on
    the way, as on some web pages, is taken as if it still had it; uWSGI would find nothing in it.
    """
    body, flat = _body(source)
    for line in body:
        if line.text.startswith(_LIST_OR_MAP):
            source.notice(line.number, f"{STOPS}, at a list or map: the rest is lost")
            return
        if line.pair is None:
            if not flat:
                source.notice(line.number, f'{STOPS}, since "{line.text}" is no "key: value": the rest is lost')
            return
        if line.cut:
            source.notice(line.number, "a # is a comment even in the middle of a value: what follows it is lost")
        yield Pair(*line.pair, line.number)


def _body(source: Source) -> tuple[list[_Line], bool]:
    """The lines of the section, and whether they have lost their indentation."""
    lines = [line for number, text in source.lines() if (line := _line(number, text)).text]
    for index, line in enumerate(lines):
        name, colon, _ = line.text.partition(":")
        if colon and not line.depth and not line.text.startswith(_LIST_OR_MAP) and name == source.section:
            return _below(source, line.number, lines[index + 1 :])
    source.notice(0, f"it has no section {source.section}:, so nothing was read")
    return [], False


def _below(source: Source, number: int, lines: list[_Line]) -> tuple[list[_Line], bool]:
    end = next((index for index, line in enumerate(lines) if not line.depth), len(lines))
    if end or not lines or lines[0].pair is None or not is_known(lines[0].pair[0]):
        return lines[:end], False
    text = 'uWSGI would read nothing; they are read as if indented, up to the first that is no "key: value"'
    source.notice(number, f"the lines below have lost their indentation: {text}")
    end = next((index for index, line in enumerate(lines) if line.text.startswith("---")), len(lines))
    return lines[:end], True


def _line(number: int, text: str) -> _Line:
    # uWSGI leaves the \r of Windows' line ends in the values, which no file that works can want.
    text, mark, _ = text.rstrip("\r").partition("#")
    indent = _INDENT.match(text)
    depth = len(indent[0]) if indent else 0
    cut = bool(mark) and len(text) > depth and text[-1] not in _BLANK
    return _Line(number, depth, text[depth:], cut)
