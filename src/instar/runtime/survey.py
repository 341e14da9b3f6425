"""Counts the client connections of this process: only when none is left may the worker stop."""

from __future__ import annotations

from collections.abc import Iterable

from instar.runtime.sockets import Listening, LocalAddresses, own_sockets


class Survey:
    """Counts connections to some listening sockets."""

    def __init__(self, sockets: Iterable[Listening]) -> None:
        self._addresses = LocalAddresses(sockets)

    def count(self) -> int:
        """Established connections, each once however many descriptors it has. About 5 µs for each socket."""
        seen: set[int] = set()
        for fd, inode in own_sockets():
            if inode not in seen and self._addresses.established(fd):
                seen.add(inode)
        return len(seen)


def count_connections(sockets: Iterable[Listening]) -> int:
    """`Survey(sockets).count()`, for a single look."""
    return Survey(sockets).count()
