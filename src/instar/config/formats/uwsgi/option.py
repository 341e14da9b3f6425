"""What a uWSGI configuration is: an ordered list of options."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from pathlib import Path

from instar.config.formats.uwsgi.values import integer, is_true


@dataclasses.dataclass(frozen=True)
class Place:
    """Where an option stands. Line 0: not in a file, or in one that doesn't tell."""

    file: str = ""
    line: int = 0

    def __str__(self) -> str:
        if not self.file:
            return "the command line"
        return f"{self.file}:{self.line}" if self.line else self.file


@dataclasses.dataclass(frozen=True)
class Option:
    """One line. `raw` is the value before `$(…)`, `@(…)` and `%(…)` were replaced: safe to show to people.

    `immediate` options (`ini`, `if-env`, `for`, `set` …) have done their work while the file was read.
    """

    key: str
    value: str
    place: Place = Place()
    raw: str = ""
    immediate: bool = False
    #: Given on the command line without any value.
    bare: bool = False

    @property
    def shown(self) -> str:
        """The value for people: without what came from the environment or from other files, which may be secret."""
        return self.raw if "$(" in self.raw or "@(" in self.raw else self.value


@dataclasses.dataclass(frozen=True)
class Note:
    """Something in a file that probably isn't meant, or that uWSGI reads in another way than it looks."""

    place: Place
    text: str


@dataclasses.dataclass(frozen=True)
class Skipped:
    """A line whose condition does not hold now, or whose loop has no turns."""

    option: Option
    #: The `if-…` or `for…`.
    block: str
    #: How many options came before it.
    index: int


@dataclasses.dataclass(frozen=True)
class UwsgiConfig:
    """The list, as uWSGI would apply it: from first to last, a later scalar replaces an earlier one."""

    options: tuple[Option, ...]
    notes: tuple[Note, ...] = ()
    #: The file that was asked for, if there was one.
    source: Path | None = None
    #: Lines that are no options now, in order.
    skipped: tuple[Skipped, ...] = ()

    def __iter__(self) -> Iterator[Option]:
        return iter(self.options)

    def all(self, *keys: str) -> list[Option]:
        """Every option that has one of these names (give the synonyms as well), in order."""
        return [option for option in self.options if option.key in keys]

    def last(self, *keys: str) -> Option | None:
        """The one that counts, of an option that isn't a list."""
        return next(reversed(self.all(*keys)), None)

    def flag(self, *keys: str) -> bool:
        """Whether a switch is on."""
        option = self.last(*keys)
        return option is not None and is_true(option.value)

    def has(self, *keys: str) -> bool:
        """Whether it is there at all."""
        return self.last(*keys) is not None

    def text(self, *keys: str, default: str = "") -> str:
        """The value that counts, of an option that isn't a list."""
        option = self.last(*keys)
        return default if option is None else option.value

    def texts(self, *keys: str) -> tuple[str, ...]:
        """All values of a list."""
        return tuple(option.value for option in self.all(*keys))

    def number(self, *keys: str, default: int = 0) -> int:
        """The value as uWSGI reads a number."""
        option = self.last(*keys)
        return default if option is None else integer(option.value)

    def without(self, keys: Iterable[str]) -> UwsgiConfig:
        """The same without some options."""
        unwanted = set(keys)
        kept = tuple(option for option in self.options if option.key not in unwanted)
        return dataclasses.replace(self, options=kept)
