"""What has to be said about options when an instance starts: unknown, unsupported, refused."""

from __future__ import annotations

import re
from collections.abc import Iterator

from instar.config.formats.uwsgi import Option, UwsgiConfig
from instar.config.formats.uwsgi.known import nearest_name
from instar.config.formats.uwsgi.values import is_true
from instar.uwsgi.options import meaning

#: Options that are left out although they are refused: `instar.ignore` names them.
IGNORE = "ignore"


def refusals(config: UwsgiConfig, ignored: frozenset[str]) -> list[str]:
    """Why the instance can't start, one sentence an option."""
    return [
        f"cannot use {option.key} ({option.place}): {meaning(option.key).text}; to start without it, "
        f"--set instar.{IGNORE}={option.key}"
        for option in _once(config)
        if meaning(option.key).effect == "refused" and option.key not in ignored and not _is_off(option)
    ]


def warnings(config: UwsgiConfig, ignored: frozenset[str]) -> list[str]:
    """What is missed, or probably a mistake."""
    found = []
    for option in _once(config):
        effect = meaning(option.key).effect
        if effect == "unsupported" and option.key not in ignored and not _is_off(option):
            found.append(f"{option.place}: {option.key} has no effect: {meaning(option.key).text}")
        elif effect == "unknown" and nearest_name(option.key) and not is_used(config, option.key):
            found.append(f"{option.place}: {option.key}: {meaning(option.key).text}")
    return found


def is_used(config: UwsgiConfig, name: str) -> bool:
    """Whether some line refers to it, as in `%(name)`: then it is a variable."""
    reference = re.compile(rf"%\([^)]*(?<![\w-]){re.escape(name)}(?![\w-])")
    return any(reference.search(option.raw) for option in config)


def _once(config: UwsgiConfig) -> Iterator[Option]:
    """The first option of each name."""
    yield from {option.key: option for option in reversed(config.options)}.values()


def _is_off(option: Option) -> bool:
    return not is_true(option.value)
