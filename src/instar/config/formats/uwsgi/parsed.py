"""What the parser of a file format finds."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

from instar.config.formats.uwsgi.magic import GLUE

#: Tells something about a line of the file (0: about all of it).
Notice = Callable[[int, str], None]


@dataclasses.dataclass(frozen=True)
class Pair:
    """A key and its value as written."""

    key: str
    value: str
    line: int


@dataclasses.dataclass(frozen=True)
class Source:
    """The text of a file, in which `%d` and the like are replaced, and what is wanted of it."""

    text: str
    #: The section, object or id that was asked for.
    section: str
    #: Whether it was named, as in `file.ini:section`.
    named: bool
    notice: Notice

    def lines(self) -> Iterator[tuple[int, str]]:
        """Each line with its number in the file."""
        number = 1
        for line in self.text.split("\n"):
            glued = line.count(GLUE)
            yield number, line.replace(GLUE, "")
            number += 1 + glued
