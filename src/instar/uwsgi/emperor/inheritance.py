"""Takes over what an Emperor that died has left: its vassals, their links, and what they stored."""

from __future__ import annotations

import os
import signal
import socket

from instar.supervisor.changes import Changes
from instar.system import System
from instar.uwsgi.emperor.fdstore import FdStore, Stored
from instar.uwsgi.emperor.link import Order
from instar.uwsgi.emperor.process import VassalProcess
from instar.uwsgi.emperor.roll import Entry, Roll
from instar.uwsgi.emperor.safe import Safe


class Inheritance:
    """Read once, at the start; each vassal that is still wanted claims its part of it."""

    def __init__(self, roll: Roll, safe: Safe, system: System, changes: Changes) -> None:
        self._system = system
        self._changes = changes
        self._safe = safe
        self._held = safe.open()
        self._entries = roll.read()

    def restore(self, store: FdStore) -> None:
        """What the vassals had stored."""
        for key in list(self._held):
            if (stored := Stored.parse(key, self._held[key])) is not None:
                del self._held[key]
                store.restore(stored)

    def claim(self, vassal: str, *, standin: bool = False) -> tuple[VassalProcess, Entry] | None:
        """The living process of a vassal, or its restarter."""
        entry = next((item for item in self._entries if (item.vassal, item.standin) == (vassal, standin)), None)
        if entry is None:
            return None
        self._entries.remove(entry)
        try:
            process = VassalProcess(entry.pid, entry.kind, entry.program, self._system, self._changes, child=None)
        except OSError:  # it has ended meanwhile
            return None
        process.adopted(entry.began)
        link = self._held.pop(f"link:{entry.pid}", None)
        if link is not None:
            process.connect(socket.socket(fileno=link))
        return process, entry

    def vassals(self) -> list[str]:
        """Whose processes nobody has claimed."""
        return sorted({entry.vassal for entry in self._entries})

    async def end(self, vassal: str, *, graceful: bool, mercy: float) -> None:
        """End the processes of a vassal whose file is gone."""
        for standin in (True, False):
            if (found := self.claim(vassal, standin=standin)) is not None:
                await found[0].end(Order.STOP_GRACEFULLY if graceful else Order.STOP, signal.SIGTERM, mercy)

    def close(self) -> None:
        """Let go of what belongs to nobody any more."""
        for key, fd in self._held.items():
            self._safe.take(key)
            os.close(fd)
        self._held.clear()
