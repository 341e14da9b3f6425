"""Descriptors that vassals leave with the Emperor, so that their listening sockets outlive them (FDSTORE=1)."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterable

from instar.system.notify import close_all, stored_name

#: As many for one vassal; a vassal that leaks can't take the Emperor's descriptors.
MOST = 256
_DEFAULT = "stored"


@dataclasses.dataclass(frozen=True)
class Stored:
    """One descriptor, which the store owns."""

    name: str
    fd: int


class FdStore:
    """Owner of what the vassals stored. `kept` and `dropped` are told, so that a copy can be held elsewhere."""

    def __init__(
        self,
        kept: Callable[[str, Stored], None] = lambda vassal, stored: None,
        dropped: Callable[[str, Stored], None] = lambda vassal, stored: None,
    ) -> None:
        self._stored: dict[str, list[Stored]] = {}
        self._kept = kept
        self._dropped = dropped

    def add(self, vassal: str, name: str, fds: Iterable[int]) -> int:
        """Take descriptors over; those that are there already, or one too many, are closed. How many were taken."""
        mine, taken = self._stored.setdefault(vassal, []), 0
        for fd in fds:
            if len(mine) >= MOST or any(_same(fd, item.fd) for item in mine):
                os.close(fd)
                continue
            stored = Stored(name if stored_name(name) else _DEFAULT, fd)
            mine.append(stored)
            self._kept(vassal, stored)
            taken += 1
        return taken

    def remove(self, vassal: str, name: str) -> None:
        """Close those of one name."""
        for stored in [item for item in self._stored.get(vassal, ()) if item.name == name]:
            self._stored[vassal].remove(stored)
            self._close(vassal, stored)

    def of(self, vassal: str) -> list[Stored]:
        """What a vassal gets at its next start; it stays here too."""
        return list(self._stored.get(vassal, ()))

    def discard(self, vassal: str) -> None:
        """Close all of a vassal that is gone for good."""
        for stored in self._stored.pop(vassal, ()):
            self._close(vassal, stored)

    def close(self) -> None:
        """Close all of them, at the Emperor's end."""
        for vassal in list(self._stored):
            self.discard(vassal)

    def _close(self, vassal: str, stored: Stored) -> None:
        self._dropped(vassal, stored)
        close_all([stored.fd])


def _same(one: int, other: int) -> bool:
    """Whether two descriptors are of one open socket or file."""
    first, second = os.fstat(one), os.fstat(other)
    return (first.st_dev, first.st_ino) == (second.st_dev, second.st_ino)
