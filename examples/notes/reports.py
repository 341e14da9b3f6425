"""The handlers of the pool "reports": each takes notes from the queue and writes a short report on them.

A handler has a name (`notes.reports.1`) that one process at a time holds. At a restart its successor has booted before
it is asked to leave; it finishes the note in its hands, and the rest of the queue is the successor's.
"""

from __future__ import annotations

import hashlib
import sqlite3
import time
from pathlib import Path

import instar

#: Seconds that a report takes. Real work would; this one sleeps, so that a restart finds it busy.
THOROUGH = 0.5


def work(database: Path) -> None:
    """Until the name is to be passed on."""
    handler = instar.current_handler()
    if not handler.wait_active():
        return
    desk = Desk(database, handler)
    desk.open()
    while not handler.releasing:
        message = handler.receive(timeout=10.0)
        if message is not None:
            desk.report(int(message))
    desk.close()


class Desk:
    """What the holder of a name writes down. Each transaction begins with `fence`: nobody who has lost the name, say
    because the machine was suspended meanwhile, gets anything into the database."""

    def __init__(self, database: Path, handler: instar.Handler) -> None:
        self._handler = handler
        self._key = (handler.name, handler.epoch)
        self._connection = sqlite3.connect(database, timeout=10)
        self._connection.row_factory = sqlite3.Row

    def open(self) -> None:
        """The term begins; one that was killed could not end its own."""
        with self._connection as connection:
            # After a lost state directory the first fence raises the epoch.
            self._key = (self._handler.name, self._handler.fence(connection))
            connection.execute(
                "INSERT OR REPLACE INTO term (name, epoch, generation, since) VALUES (?, ?, ?, ?)",
                (*self._key, self._handler.generation, time.time()),
            )

    def report(self, number: int) -> None:
        """Read a note, think, write the report."""
        note = self._connection.execute("SELECT * FROM note WHERE id = ?", (number,)).fetchone()
        if note is None:
            return
        self._say(note["text"])
        time.sleep(THOROUGH)
        words = note["text"].split()
        digest = hashlib.sha256(f"{number} {note['text']}".encode()).hexdigest()
        with self._connection as connection:
            self._handler.fence(connection)
            connection.execute(
                "INSERT INTO report (note, words, longest, digest, name, epoch, generation) "
                "VALUES (?, ?, ?, ?, ?, ?, ?)",
                (number, len(words), max(words, key=len, default=""), digest, *self._key, self._handler.generation),
            )
            connection.execute("UPDATE term SET task = NULL WHERE name = ? AND epoch = ?", self._key)

    def _say(self, task: str) -> None:
        with self._connection as connection:
            self._handler.fence(connection)
            connection.execute("UPDATE term SET task = ? WHERE name = ? AND epoch = ?", (task[:40], *self._key))

    def close(self) -> None:
        """The term ends: the last thing before the process does."""
        with self._connection as connection:
            self._handler.fence(connection)
            connection.execute("UPDATE term SET until = ? WHERE name = ? AND epoch = ?", (time.time(), *self._key))
