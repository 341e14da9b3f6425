"""The notes in SQLite."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path
from typing import Any

#: A term is the time for which one process holds a handler's name.
_SCHEMA = """
CREATE TABLE IF NOT EXISTS note (
    id INTEGER PRIMARY KEY,
    text TEXT NOT NULL,
    created REAL NOT NULL,
    generation INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS report (
    id INTEGER PRIMARY KEY,
    note INTEGER NOT NULL,
    words INTEGER NOT NULL,
    longest TEXT NOT NULL,
    digest TEXT NOT NULL,
    name TEXT NOT NULL,
    epoch INTEGER NOT NULL,
    generation INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS term (
    name TEXT NOT NULL,
    epoch INTEGER NOT NULL,
    generation INTEGER NOT NULL,
    since REAL NOT NULL,
    until REAL,
    task TEXT,
    PRIMARY KEY (name, epoch)
);
"""


def prepare(path: Path) -> None:
    """Create the database if there is none."""
    connection = sqlite3.connect(path, timeout=10, isolation_level=None)
    # Readers and writers don't wait for each other; handlers write all the time.
    connection.execute("PRAGMA journal_mode = WAL")
    connection.executescript(_SCHEMA)
    connection.close()


class Store:
    """One connection; used from the event loop's thread only."""

    def __init__(self, path: Path) -> None:
        # During a restart two generations write to the file: each waits for the other.
        self._connection = sqlite3.connect(path, timeout=10, isolation_level=None)
        self._connection.row_factory = sqlite3.Row

    def add(self, text: str, generation: int) -> int:
        """Store a note; its number."""
        cursor = self._connection.execute(
            "INSERT INTO note (text, created, generation) VALUES (?, ?, ?)", (text, time.time(), generation)
        )
        assert cursor.lastrowid is not None
        return cursor.lastrowid

    def newest(self, limit: int = 12) -> list[dict[str, Any]]:
        """The newest notes first."""
        rows = self._connection.execute("SELECT * FROM note ORDER BY id DESC LIMIT ?", (limit,))
        return [
            {**dict(row), "clock": time.strftime("%H:%M:%S", time.localtime(row["created"]))} for row in rows.fetchall()
        ]

    def reports(self, limit: int = 6) -> list[dict[str, Any]]:
        """The newest reports, each with the beginning of its note."""
        rows = self._connection.execute(
            "SELECT report.*, substr(note.text, 1, 80) AS text FROM report JOIN note ON note.id = report.note "
            "ORDER BY report.id DESC LIMIT ?",
            (limit,),
        )
        return [dict(row) for row in rows.fetchall()]

    def terms(self, limit: int = 8) -> dict[str, list[dict[str, Any]]]:
        """By name of a handler: who has held it, the last first."""
        names = self._connection.execute("SELECT DISTINCT name FROM term ORDER BY name").fetchall()
        return {name: self._terms(name, limit) for (name,) in names}

    def _terms(self, name: str, limit: int) -> list[dict[str, Any]]:
        rows = self._connection.execute(
            "SELECT term.*, (SELECT count(*) FROM report WHERE report.name = term.name) AS reports "
            "FROM term WHERE name = ? ORDER BY epoch DESC LIMIT ?",
            (name, limit),
        )
        return [dict(row) for row in rows.fetchall()]

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
