"""`if-…` and `for…`: what becomes of each line until `endif` or `endfor`."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path

from instar.config.formats.uwsgi.surroundings import Surroundings
from instar.config.formats.uwsgi.values import integer
from instar.errors import ConfigError

ENDS = frozenset({"end", "endif", "end-if", "endfor", "end-for"})

#: More would only fill the memory.
MOST_TURNS = 10_000

#: Stands in the lines of a block for what was tested, or for the turn of the loop.
_CURRENT = "%(_)"


class World:
    """What conditions ask about."""

    def __init__(self, surroundings: Surroundings) -> None:
        self.surroundings = surroundings
        self.plugins = set(surroundings.plugins)
        #: First value of each option so far.
        self.options: dict[str, str] = {}

    def path(self, name: str) -> Path:
        """Names are relative to the folder that the program was started in."""
        return self.surroundings.cwd / name


Values = Callable[[World, str], list[str | None]]


def is_logic(key: str) -> bool:
    """Whether this option opens a block."""
    return key in _LOGIC


def names() -> list[str]:
    """All of them."""
    return list(_LOGIC)


def turns(world: World, key: str, argument: str, value: str) -> list[str]:
    """The values that a line gets inside a block: none when the condition doesn't hold, several in a loop."""
    replacements = _LOGIC[key](world, argument)
    if len(replacements) > MOST_TURNS:
        raise ConfigError(f"{key} = {argument} has more than {MOST_TURNS} turns")
    return [value if item is None else value.replace(_CURRENT, item) for item in replacements]


def _test(condition: Callable[[World, str], bool], *, negated: bool = False) -> Values:
    return lambda world, argument: [argument] if condition(world, argument) != negated else []


def _compare(source: Callable[[World], Mapping[str, str]], *, negated: bool = False) -> Values:
    def values(world: World, argument: str) -> list[str | None]:
        name, equals, wanted = argument.partition("=")
        value = source(world).get(name)
        holds = value is not None and (not equals or value == wanted)
        return [value] if holds != negated else []

    return values


def _matches(world: World, pattern: str) -> bool:
    try:
        return re.search(pattern, world.surroundings.hostname) is not None
    except re.error as error:
        raise ConfigError(f"if-hostname-match has the pattern {pattern!r}: {error}") from None


def _lines(world: World, name: str) -> list[str | None]:
    try:
        with world.path(name).open(encoding="utf-8", newline="\n") as file:
            # uWSGI takes one line end away, be it \n or the \r of a pair's rest.
            return [line[:-1] if line.endswith(("\n", "\r")) else line for line in file]
    except (OSError, UnicodeDecodeError):
        return []


def _glob(world: World, pattern: str) -> list[str | None]:
    # A pattern that is absolute leaves the folder alone.
    found = sorted(glob.glob(pattern, root_dir=world.surroundings.cwd))  # noqa: PTH207
    # GLOB_MARK: folders end with a slash. GLOB_NOCHECK: without a match, the pattern itself.
    return [item + "/" if world.path(item).is_dir() else item for item in found] or [pattern]


def _reload(_world: World, _argument: str) -> list[str | None]:
    return []


def _no_reload(_world: World, _argument: str) -> list[str | None]:
    return [None]


def _pair(name: str, make: Callable[..., Values], subject: Callable[[World, str], bool]) -> dict[str, Values]:
    return {f"if-{name}": make(subject), f"if-not-{name}": make(subject, negated=True)}


def _environ(world: World) -> Mapping[str, str]:
    return world.surroundings.environ


def _options(world: World) -> Mapping[str, str]:
    return world.options


_LOGIC: dict[str, Values] = {
    "for": lambda _world, argument: [word for word in argument.split(" ") if word],
    "for-times": lambda _world, argument: [
        str(number) for number in range(1, min(integer(argument), MOST_TURNS + 1) + 1)
    ],
    "for-glob": _glob,
    "for-readline": _lines,
    "if-env": _compare(_environ),
    "if-not-env": _compare(_environ, negated=True),
    "if-opt": _compare(_options),
    "if-not-opt": _compare(_options, negated=True),
    "if-reload": _reload,
    "if-not-reload": _no_reload,
    **_pair("exists", _test, lambda world, name: os.access(world.path(name), os.R_OK)),
    **_pair("file", _test, lambda world, name: world.path(name).is_file()),
    **_pair("dir", _test, lambda world, name: world.path(name).is_dir()),
    **_pair("plugin", _test, lambda world, name: name in world.plugins),
    **_pair("hostname", _test, lambda world, name: name == world.surroundings.hostname),
    **_pair("hostname-match", _test, _matches),
}
for _alias, _name in {
    "ifenv": "if-env",
    "ifexists": "if-exists",
    "ifplugin": "if-plugin",
    "ifdir": "if-dir",
    "if-directory": "if-dir",
}.items():
    _LOGIC[_alias] = _LOGIC[_name]
