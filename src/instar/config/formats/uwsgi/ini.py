"""INI: `key = value` lines below `[section]`."""

from __future__ import annotations

from collections.abc import Iterator

from instar.config.formats.uwsgi.parsed import Pair, Source

_BLANK = " \t\r"


def parse(source: Source) -> Iterator[Pair]:
    """The lines of the section, which may be continued further down.

    A comment is a line that begins with ; or #; after a value these are part of it. There are no quotes. A key
    without = has an empty value.
    """
    section = ""
    found = False
    for number, line in source.lines():
        text = line.strip(_BLANK)
        if not text or text[0] in ";#":
            continue
        if text[0] == "[":
            section = text[1:-1]
        elif section == source.section:
            found = True
            key, _, value = text.partition("=")
            _look_at(number, value.strip(_BLANK), source)
            yield Pair(key.rstrip(_BLANK), value.strip(_BLANK), number)
    if not found:
        source.notice(0, f"it has no section [{source.section}] with anything in it, so nothing was read")


def _look_at(number: int, value: str, source: Source) -> None:
    if " #" in value or " ;" in value:
        source.notice(number, "a comment can't follow a value: # and ; are part of it here")
    if len(value) > 1 and value[0] == value[-1] and value[0] in "\"'":
        source.notice(number, "the quotes are part of the value: INI files of uWSGI have none")
