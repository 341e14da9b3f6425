"""YAML as uWSGI reads it when it is built with libyaml, as Debian's is: quotes and lists work."""

from __future__ import annotations

from collections.abc import Generator, Iterator

import yaml

from instar.config.formats.uwsgi.parsed import Pair, Source
from instar.errors import ConfigError


def parse(source: Source) -> Iterator[Pair]:
    """The pairs below the section. A list repeats its key, a map in a map is as flat as its parent; keys without a
    value, and aliases, are left out. Nothing is constructed from the file: no tag has an effect. Raises ConfigError.
    """
    try:
        events = yaml.parse(source.text.replace("\0", ""), Loader=yaml.SafeLoader)
        found = False
        for event in events:
            if isinstance(event, yaml.MappingStartEvent) and not found:
                found = yield from _top(events, source)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f" at line {mark.line + 1}" if mark else ""
        raise ConfigError(f"it is not YAML: {error.problem}{where}") from None
    if not found:
        source.notice(0, f"it has no section {source.section}:, so nothing was read")


def _top(events: Iterator[yaml.Event], source: Source) -> Generator[Pair, None, bool]:
    """The outermost map; the value of the generator is whether the section was there."""
    found = False
    for key, value in _items(events):
        wanted = not found and isinstance(key, yaml.ScalarEvent) and key.value == source.section
        pairs = _values("", value, events)
        if wanted:
            found = True
            yield from pairs
        else:
            for _ in pairs:
                pass
    return found


def _items(events: Iterator[yaml.Event]) -> Iterator[tuple[yaml.Event, yaml.Event]]:
    """Key and first event of each value of a map; who takes one reads the rest of that value."""
    while not isinstance(key := next(events), yaml.MappingEndEvent):
        if not isinstance(key, yaml.ScalarEvent):
            for _ in _values("", key, events):
                pass
        yield key, next(events)


def _values(key: str, event: yaml.Event, events: Iterator[yaml.Event]) -> Iterator[Pair]:
    if isinstance(event, yaml.ScalarEvent):
        if key and not _is_missing(event):
            yield Pair(key, event.value, event.start_mark.line + 1 if event.start_mark else 0)
    elif isinstance(event, yaml.SequenceStartEvent):
        while not isinstance(item := next(events), yaml.SequenceEndEvent):
            yield from _values(key, item, events)
    elif isinstance(event, yaml.MappingStartEvent):
        for inner, value in _items(events):
            yield from _values(inner.value if isinstance(inner, yaml.ScalarEvent) else "", value, events)


def _is_missing(event: yaml.ScalarEvent) -> bool:
    return not event.value and event.style is None
