"""The notes in SQLite."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path
from typing import Any

_SCHEMA = """
CREATE TABLE IF NOT EXISTS note (
    id INTEGER PRIMARY KEY,
    text TEXT NOT NULL,
    created REAL NOT NULL,
    generation INTEGER NOT NULL
)
"""


def prepare(path: Path) -> None:
    """Create the database if there is none."""
    connection = sqlite3.connect(path, timeout=10, isolation_level=None)
    connection.execute(_SCHEMA)
    connection.close()


class Store:
    """One connection; used from the event loop's thread only."""

    def __init__(self, path: Path) -> None:
        # During a restart two generations write to the file: each waits for the other.
        self._connection = sqlite3.connect(path, timeout=10, isolation_level=None)
        self._connection.row_factory = sqlite3.Row

    def add(self, text: str, generation: int) -> None:
        """Store a note."""
        self._connection.execute(
            "INSERT INTO note (text, created, generation) VALUES (?, ?, ?)", (text, time.time(), generation)
        )

    def newest(self, limit: int = 12) -> list[dict[str, Any]]:
        """The newest notes first."""
        rows = self._connection.execute("SELECT * FROM note ORDER BY id DESC LIMIT ?", (limit,))
        return [
            {**dict(row), "clock": time.strftime("%H:%M:%S", time.localtime(row["created"]))} for row in rows.fetchall()
        ]

    def version(self) -> tuple[int, int]:
        """Changes when anybody has written: other connections (`data_version`) or this one."""
        (others,) = self._connection.execute("PRAGMA data_version").fetchone()
        return others, self._connection.total_changes

    def check(self) -> None:
        """Raise when the database can't be read."""
        self._connection.execute("SELECT count(*) FROM note").fetchone()

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()
