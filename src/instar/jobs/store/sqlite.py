"""Jobs in SQLite: one file on a local disk, for all processes of one host."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sqlite3
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Final

from instar.handlers.filesystem import unsafe_filesystem
from instar.jobs.errors import StoreError
from instar.jobs.store.backend import Backend, Bell, Rows, Values
from instar.system import unix_address

#: UPDATE … RETURNING (sqlite.org/lang_returning.html).
_OLDEST: Final = (3, 35, 0)
#: Seconds to wait for another writer, whose transactions take milliseconds.
BUSY: Final = 30.0
#: Appended to the database's name: the folder of the handlers' bells.
BELLS: Final = ".bells"


class SQLite(Backend):
    """One writer at a time (BEGIN IMMEDIATE): what a transaction has read is still so when it writes."""

    types: ClassVar[Mapping[str, str]] = {
        "serial": "INTEGER PRIMARY KEY AUTOINCREMENT",
        "text": "TEXT",
        "number": "INTEGER",
        "real": "REAL",
    }
    now = "((julianday('now') - 2440587.5) * 86400.0)"

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self._bells = self.path.with_name(self.path.name + BELLS)
        self._sender: tuple[int, socket.socket] | None = None

    def connect(self) -> sqlite3.Connection:
        """See Backend. The folder must exist."""
        if sqlite3.sqlite_version_info < _OLDEST:
            raise StoreError(
                f"cannot keep jobs in SQLite {sqlite3.sqlite_version}: 3.35 or newer is needed; use PostgreSQL"
            )
        try:
            new = not self.path.exists()
            if new:
                self._check_disk()
            connection = sqlite3.connect(self.path, timeout=BUSY, isolation_level=None, check_same_thread=False)
        except (OSError, sqlite3.Error) as error:
            raise StoreError(f"cannot open the job store {self.path}: {error}") from error
        try:
            _write_ahead(connection)
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA foreign_keys = ON")
        except sqlite3.Error as error:
            connection.close()
            raise StoreError(f"cannot open the job store {self.path}: {error}") from error
        return connection

    def _check_disk(self) -> None:
        name = unsafe_filesystem(self.path.parent)
        if name:
            raise StoreError(
                f"cannot keep jobs in {self.path}: locks on {name} can't be trusted; use a local disk or PostgreSQL"
            )

    def execute(self, connection: sqlite3.Connection, sql: str, values: Values) -> Rows:
        """See Backend."""
        return connection.execute(sql, values).fetchall()

    def each(self, connection: sqlite3.Connection, sql: str, values: Sequence[Values]) -> list[Rows]:
        """See Backend."""
        return [connection.execute(sql, each).fetchall() for each in values]

    def change_each(
        self,
        connection: sqlite3.Connection,
        change: str,
        where: str,
        values: Sequence[Values],
        types: Mapping[str, str],
        giving: str,
    ) -> Rows:
        """See Backend."""
        # Without RETURNING, which costs as much as half of the change.
        sql = f"UPDATE instar_job SET {change} WHERE {where}"
        changed = [each["id"] for each in values if connection.execute(sql, each).rowcount]
        chosen = f"SELECT {giving} FROM instar_job WHERE id IN (SELECT value FROM json_each(?))"
        return connection.execute(chosen, (json.dumps(changed),)).fetchall()

    def begin(self, connection: sqlite3.Connection) -> None:
        """See Backend."""
        connection.execute("BEGIN IMMEDIATE")

    def commit(self, connection: sqlite3.Connection) -> None:
        """See Backend."""
        connection.execute("COMMIT")

    def guard_schema(self, connection: sqlite3.Connection) -> None:
        """There is one writer anyway."""

    def guard_limits(self, connection: sqlite3.Connection) -> None:
        """There is one writer anyway."""

    def has_table(self, connection: sqlite3.Connection, name: str) -> bool:
        """See Backend."""
        return bool(connection.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (name,)).fetchone())

    def explain(self, error: Exception) -> StoreError | None:
        """See Backend."""
        if not isinstance(error, sqlite3.Error):
            return None
        return StoreError(f"cannot use the job store {self.path}: {error}")

    def usable(self, connection: sqlite3.Connection, idle: float) -> bool:
        """See Backend."""
        return True

    def take(
        self, connection: sqlite3.Connection, change: str, where: str, values: Values, *, fair: bool, giving: str
    ) -> Rows:
        """See Backend. Nothing needs a lock."""
        chosen = f"SELECT id FROM instar_job WHERE {where} ORDER BY priority DESC, id LIMIT :limit"
        if fair:
            chosen = "SELECT value FROM json_each(:chosen)"
            values = {**values, "chosen": json.dumps(self._fairly(connection, where, values))}
        sql = f"UPDATE instar_job SET {change} WHERE id IN ({chosen}) RETURNING {giving}"
        return self.execute(connection, sql, values)

    def _fairly(self, connection: sqlite3.Connection, where: str, values: Values) -> list[int]:
        counts = connection.execute(
            "SELECT user_name, count(*), sum(ran_at = :destination) FROM instar_job"
            " WHERE state IN ('dispatching', 'queued', 'running') GROUP BY user_name",
            values,
        )
        live = {user: (everywhere, here) for user, everywhere, here in counts}
        own = (
            f"SELECT priority, id FROM instar_job WHERE user_name = :user AND {where}"
            " ORDER BY priority DESC, id LIMIT :most"
        )
        found = []
        for user in self._users(connection):
            everywhere, here = live.get(user, (0, 0))
            most = min(
                _number(values["window"]),
                _number(values["user_limit"]) - everywhere,
                _number(values["user_limit_here"]) - here,
            )
            rows = connection.execute(own, {**values, "user": user, "most": max(0, most)})
            found += [(-priority, everywhere + turn, job) for turn, (priority, job) in enumerate(rows)]
        return [job for _, _, job in sorted(found)[: _number(values["limit"])]]

    @staticmethod
    def _users(connection: sqlite3.Connection) -> Iterable[str]:
        """Everybody who has a job waiting; each is one step in the index, however many jobs there are."""
        following = "SELECT user_name FROM instar_job WHERE state = 'new' AND user_name {} ? ORDER BY user_name LIMIT 1"
        row = connection.execute(following.format(">="), ("",)).fetchone()
        while row:
            yield row[0]
            row = connection.execute(following.format(">"), row).fetchone()

    def bell(self, name: str) -> Bell:
        """See Backend."""
        try:
            self._bells.mkdir(mode=0o700, exist_ok=True)
            return _Socket(self._bells, name)
        except OSError as error:
            raise StoreError(f"cannot listen in {self._bells}: {error.strerror}") from error

    def ring(self, connection: sqlite3.Connection, handlers: Iterable[str | None]) -> None:
        """A datagram could be read before the transaction is over; see `after_commit`."""

    def after_commit(self, handlers: Iterable[str | None]) -> None:
        """A datagram to each handler. If it is lost, the handler looks by itself a little later."""
        wanted = set(handlers)
        try:
            names = os.listdir(self._bells) if None in wanted else [f"{name}.bell" for name in wanted]
        except OSError:
            return
        sender = self._socket()
        for name in names:
            # Nobody listens there any more, or it has been told often enough.
            with contextlib.suppress(OSError), unix_address(self._bells / name) as address:
                sender.sendto(b"", address)

    def _socket(self) -> socket.socket:
        if self._sender is None or self._sender[0] != os.getpid():
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            sock.setblocking(False)
            self._sender = (os.getpid(), sock)
        return self._sender[1]


def _write_ahead(connection: sqlite3.Connection) -> None:
    """Change the journal's mode. Where others do the same with a new file, SQLite doesn't wait by itself."""
    end = time.monotonic() + BUSY
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > end:
                raise
        time.sleep(0.01)


def _number(value: object) -> int:
    return int(str(value))


class _Socket(Bell):
    """A datagram socket under the handler's name. A successor puts its own in the place."""

    def __init__(self, folder: Path, name: str) -> None:
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._sock.setblocking(False)
        self._path = folder / f"{name}.bell"
        temporary = folder / f".{name}.{os.getpid()}"
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
        with unix_address(temporary) as address:
            self._sock.bind(address)
        temporary.rename(self._path)
        self._inode = self._path.stat().st_ino

    def fileno(self) -> int:
        return self._sock.fileno()

    def hush(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                self._sock.recv(1)

    def close(self) -> None:
        # Between the look and the removal a successor may have come: it is woken by its own look a second later.
        with contextlib.suppress(OSError):
            if self._path.stat().st_ino == self._inode:
                self._path.unlink()
        self._sock.close()
