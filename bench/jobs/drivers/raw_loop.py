"""The limit: nothing but the statements, by hand, on the smallest table that has the same guarantees.

Batches of 10: one transaction takes them, they are run one after the other, one transaction records their ends. Both
make sure that the name is still held, and both are on the disk before the loop goes on.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import time
from typing import Any

from contract import CONCURRENCY, STORE, Driver, main, noop

_LEASE = "CREATE TABLE lease (name text PRIMARY KEY, epoch bigint NOT NULL)"
_JOB = (
    "CREATE TABLE job (id {serial}, payload text NOT NULL, state text NOT NULL DEFAULT 'new', handler text,"
    " priority int NOT NULL DEFAULT 0, run_at float NOT NULL DEFAULT 0, attempt int NOT NULL DEFAULT 0,"
    " claim_epoch bigint, finished_at float)"
)
_READY = "CREATE INDEX job_ready ON job (priority DESC, id) WHERE state = 'new'"
_LIVE = "CREATE INDEX job_live ON job (handler) WHERE state = 'running'"


class RawSQLite(Driver):
    """One writer at a time: what the transaction has read is still so when it writes."""

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(STORE, isolation_level=None)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        return connection

    async def prepare(self) -> None:
        connection = self._connect()
        serial = "INTEGER PRIMARY KEY AUTOINCREMENT"
        for statement in (_LEASE, _JOB.format(serial=serial), _READY, _LIVE, "INSERT INTO lease VALUES ('one', 1)"):
            connection.execute(statement)

    async def open(self) -> None:
        self.connection = self._connect()

    async def one(self, number: int, sent: int = 0) -> None:
        self.connection.execute("INSERT INTO job (payload) VALUES (?)", (json.dumps([number, sent]),))

    async def many(self, numbers: list[int]) -> None:
        self.connection.execute("BEGIN IMMEDIATE")
        rows = [(json.dumps([number, 0]),) for number in numbers]
        self.connection.executemany("INSERT INTO job (payload) VALUES (?)", rows)
        self.connection.execute("COMMIT")

    async def ended(self) -> int:
        return int(self.connection.execute("SELECT count(*) FROM job WHERE state = 'ok'").fetchone()[0])

    def work(self) -> None:
        connection = self._connect()
        fence = "EXISTS (SELECT 1 FROM lease WHERE name = 'one' AND epoch = 1)"
        claim = (
            "UPDATE job SET state = 'running', handler = 'one', claim_epoch = 1, attempt = attempt + 1 WHERE id IN"
            f" (SELECT id FROM job WHERE state = 'new' AND run_at <= ? AND (handler IS NULL OR handler = 'one')"
            f" AND {fence} ORDER BY priority DESC, id LIMIT ?) RETURNING id, payload"
        )
        finish = f"UPDATE job SET state = 'ok', finished_at = ? WHERE id = ? AND claim_epoch = 1 AND {fence}"
        while True:
            with _transaction(connection):
                jobs = connection.execute(claim, (time.time(), CONCURRENCY)).fetchall()
            if not jobs:
                time.sleep(0.005)
                continue
            for _, payload in jobs:
                noop(*json.loads(payload))
            with _transaction(connection):
                connection.executemany(finish, [(time.time(), job) for job, _ in jobs])


class RawPostgreSQL(Driver):
    """FOR SHARE waits for a successor that takes the name over, and sees its epoch then."""

    def _connect(self) -> Any:
        import psycopg

        return psycopg.connect(STORE, autocommit=True)

    async def prepare(self) -> None:
        connection = self._connect()
        serial = "bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY"
        for statement in (_LEASE, _JOB.format(serial=serial), _READY, _LIVE, "INSERT INTO lease VALUES ('one', 1)"):
            connection.execute(statement)

    async def open(self) -> None:
        self.connection = self._connect()

    async def close(self) -> None:
        self.connection.close()

    async def one(self, number: int, sent: int = 0) -> None:
        self.connection.execute("INSERT INTO job (payload) VALUES (%s)", (json.dumps([number, sent]),))

    async def many(self, numbers: list[int]) -> None:
        with self.connection.transaction(), self.connection.cursor() as cursor:
            rows = [(json.dumps([number, 0]),) for number in numbers]
            cursor.executemany("INSERT INTO job (payload) VALUES (%s)", rows)

    async def ended(self) -> int:
        return int(self.connection.execute("SELECT count(*) FROM job WHERE state = 'ok'").fetchone()[0])

    def work(self) -> None:
        connection = self._connect()
        lease = "WITH l AS (SELECT 1 FROM lease WHERE name = 'one' AND epoch = 1 FOR SHARE)"
        claim = (
            f"{lease}, c AS (SELECT id FROM job WHERE state = 'new' AND run_at <= %s AND (handler IS NULL OR handler ="
            " 'one') AND EXISTS (SELECT 1 FROM l) ORDER BY priority DESC, id LIMIT %s FOR UPDATE SKIP LOCKED)"
            " UPDATE job SET state = 'running', handler = 'one', claim_epoch = 1, attempt = attempt + 1 FROM c"
            " WHERE job.id = c.id RETURNING job.id, payload"
        )
        finish = (
            f"{lease} UPDATE job SET state = 'ok', finished_at = %s WHERE id = ANY(%s) AND claim_epoch = 1"
            " AND EXISTS (SELECT 1 FROM l)"
        )
        while True:
            # Each statement is a transaction.
            jobs = connection.execute(claim, (time.time(), CONCURRENCY)).fetchall()
            if not jobs:
                time.sleep(0.005)
                continue
            for _, payload in jobs:
                noop(*json.loads(payload))
            connection.execute(finish, (time.time(), [job for job, _ in jobs]))


@contextlib.contextmanager
def _transaction(connection: sqlite3.Connection) -> Any:
    connection.execute("BEGIN IMMEDIATE")
    yield
    connection.execute("COMMIT")


if __name__ == "__main__":
    main(RawPostgreSQL() if STORE.startswith("postgresql:") else RawSQLite())
