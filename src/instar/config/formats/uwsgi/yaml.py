"""YAML, in the dialect that the file was written for."""

from __future__ import annotations

import re
from collections.abc import Iterator

from instar.config.formats.uwsgi import yaml_full, yaml_lines
from instar.config.formats.uwsgi.parsed import Pair, Source
from instar.errors import ConfigError

#: What only libyaml understands, in an indented line: a value in quotes, or in brackets; a key without a value; a list.
_FULL = re.compile(
    r"""^[ ]+(?: [^\s#:]+:[ ]+(["']).*\1 | [^\s#:]+:[ ]+\[.*\] | [^\s#:]+: | -[ ].* )[ \t\r]*(?:\#.*)?$""",
    re.MULTILINE | re.VERBOSE,
)


def parse(source: Source) -> Iterator[Pair]:
    """uWSGI has two readers of YAML, and which one depends on its build. Files that only one of them can have been
    written for are read as that one does; all others, which both read alike but for comments, line by line."""
    lines = _Notices()
    simple = list(yaml_lines.parse(Source(source.text, source.section, source.named, lines)))
    if _needs_full(source, simple, lines):
        full = _Notices()
        try:
            pairs = list(yaml_full.parse(Source(source.text, source.section, source.named, full)))
        except ConfigError as error:
            lines(0, f"it looks like YAML for a uWSGI with libyaml, but {error}")
        else:
            text = "it has quotes or lists: read as a uWSGI with libyaml does; one from PyPI would read it differently"
            source.notice(0, text)
            full.pass_on(source)
            yield from pairs
            return
    lines.pass_on(source)
    yield from simple


def _needs_full(source: Source, simple: list[Pair], notices: _Notices) -> bool:
    """Whether there is such a line in the section."""
    first = min((pair.line for pair in simple), default=0)
    if any(text.startswith(yaml_lines.STOPS) for _, text in notices.seen):
        return True
    numbers = {pair.line for pair in simple}
    return any(first <= number and number in numbers and _FULL.match(line) for number, line in source.lines())


class _Notices:
    """Keeps what one dialect has to say until it is clear which one it is."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, str]] = []

    def __call__(self, line: int, text: str) -> None:
        self.seen.append((line, text))

    def pass_on(self, source: Source) -> None:
        for line, text in self.seen:
            source.notice(line, text)
