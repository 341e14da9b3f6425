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

    vassal: str
    name: str
    fd: int

    @property
    def key(self) -> str:
        """Tells it from all others, in every process that holds a copy."""
        return f"fd:{os.fstat(self.fd).st_ino}:{self.name}:{self.vassal}"

    @classmethod
    def parse(cls, key: str, fd: int) -> Stored | None:
        """The other way round; None when the key is of something else."""
        kind, _, rest = key.partition(":")
        _, _, rest = rest.partition(":")
        name, _, vassal = rest.partition(":")
        return cls(vassal, name, fd) if kind == "fd" and vassal else None


class FdStore:
    """Owner of what the vassals stored. `kept` and `dropped` are told, so that a copy can be held elsewhere."""

    def __init__(
        self,
        kept: Callable[[Stored], None] = lambda stored: None,
        dropped: Callable[[Stored], None] = lambda stored: None,
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
            stored = Stored(vassal, name if stored_name(name) else _DEFAULT, fd)
            mine.append(stored)
            self._kept(stored)
            taken += 1
        return taken

    def restore(self, stored: Stored) -> None:
        """Go on with one that an earlier Emperor had taken."""
        self._stored.setdefault(stored.vassal, []).append(stored)

    def remove(self, vassal: str, name: str) -> None:
        """Close those of one name."""
        for stored in [item for item in self._stored.get(vassal, ()) if item.name == name]:
            self._stored[vassal].remove(stored)
            self._close(stored)

    def of(self, vassal: str) -> list[Stored]:
        """What a vassal gets at its next start; it stays here too."""
        return list(self._stored.get(vassal, ()))

    def discard(self, vassal: str) -> None:
        """Close all of a vassal that is gone for good."""
        for stored in self._stored.pop(vassal, ()):
            self._close(stored)

    def vassals(self) -> list[str]:
        """Who has left something here."""
        return list(self._stored)

    def close(self) -> None:
        """Close all of them, at the Emperor's end."""
        for vassal in list(self._stored):
            self.discard(vassal)

    def _close(self, stored: Stored) -> None:
        self._dropped(stored)
        close_all([stored.fd])


def _same(one: int, other: int) -> bool:
    """Whether two descriptors are of one open socket or file."""
    first, second = os.fstat(one), os.fstat(other)
    return (first.st_dev, first.st_ino) == (second.st_dev, second.st_ino)
