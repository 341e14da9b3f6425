"""Fencing on the user's own connection: one decision for SQLite and PostgreSQL, for threads and event loops.

What has to be said to a database is written once, as a generator of statements that gets their results; two short
drivers run it on a blocking or on an asynchronous connection.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Generator
from typing import Any, Final, NamedTuple

from instar.handlers.errors import HandlerError
from instar.handlers.lease import Lease

#: Key of the advisory lock under which the table is made: two concurrent CREATE TABLE IF NOT EXISTS may collide.
_CREATE_KEY: Final = 0x696E73746172
#: psycopg's TransactionStatus.IDLE.
_IDLE: Final = 0
_CREATE: Final = (
    "CREATE TABLE IF NOT EXISTS instar_lease (name {text} PRIMARY KEY, epoch {number} NOT NULL, owner {text} NOT NULL)"
)
#: An attribute that the owner of a PostgreSQL connection sets if the table, once found, is always there on it.
FENCED: Final = "instar_fenced"
_USABLE: Final = (
    "pass a connection of sqlite3, psycopg or aiosqlite; an ORM has it inside (SQLAlchemy: "
    "connection.connection.driver_connection, Django: connection.connection)"
)


class Statement(NamedTuple):
    """One statement, and whether it has a row to give."""

    sql: str
    values: tuple[object, ...] = ()
    fetch: bool = False


class Result(NamedTuple):
    """The first row (None when there is none or it wasn't asked for) and the number of rows changed."""

    row: Any
    changed: int


Script = Generator[Statement, Result, None]


def fence(lease: Lease, connection: Any) -> int:
    """See `Handler.fence`."""
    lease.require()
    cursor, script = _plan(lease, connection, asynchronous=False)
    _give_tuples(cursor)
    step: Callable[[], Statement] = lambda: next(script)  # noqa: E731
    try:
        while True:
            statement = step()
            try:
                cursor.execute(statement.sql, statement.values)
                result = Result(cursor.fetchone() if statement.fetch else None, cursor.rowcount)
            except BaseException as error:
                step = _thrower(script, error)
            else:
                step = _sender(script, result)
    except StopIteration:
        return lease.epoch
    finally:
        cursor.close()


async def fence_async(lease: Lease, connection: Any) -> int:
    """See `Handler.fence_async`."""
    lease.require()
    cursor, script = _plan(lease, connection, asynchronous=True)
    # aiosqlite makes a cursor in its thread.
    cursor = await cursor if hasattr(cursor, "__await__") else cursor
    _give_tuples(cursor)
    step: Callable[[], Statement] = lambda: next(script)  # noqa: E731
    try:
        while True:
            try:
                statement = step()
            except StopIteration:
                return lease.epoch
            try:
                await cursor.execute(statement.sql, statement.values)
                result = Result(await cursor.fetchone() if statement.fetch else None, cursor.rowcount)
            except BaseException as error:
                step = _thrower(script, error)
            else:
                step = _sender(script, result)
    finally:
        await cursor.close()


def _give_tuples(cursor: Any) -> None:
    """Whatever row factory the user has set; psycopg's cursor was made that way."""
    if not type(cursor).__module__.startswith("psycopg"):
        cursor.row_factory = None


def _sender(script: Script, result: Result) -> Callable[[], Statement]:
    return lambda: script.send(result)


def _thrower(script: Script, error: BaseException) -> Callable[[], Statement]:
    return lambda: script.throw(error)


def _plan(lease: Lease, connection: Any, *, asynchronous: bool) -> tuple[Any, Script]:
    """A cursor and the script for the database."""
    kind = _kind(connection)
    wanted = {"aiosqlite", "psycopg-async"} if asynchronous else {"sqlite", "psycopg"}
    if kind not in wanted:
        other = "fence()" if asynchronous else "fence_async()"
        hint = f"use {other} for it" if kind else _USABLE
        raise HandlerError(f"cannot fence a {type(connection).__module__}.{type(connection).__qualname__}: {hint}")
    if kind.startswith("psycopg"):
        there = bool(getattr(connection, FENCED, False))
        return _postgres_cursor(connection, asynchronous=asynchronous), _postgres(lease, there=there)
    if not connection.in_transaction and getattr(connection, "autocommit", False) is True:
        raise _no_transaction('connection.execute("BEGIN IMMEDIATE")')
    return connection.cursor(), _sqlite(lease, began=not connection.in_transaction)


def _kind(connection: Any) -> str:
    for base in type(connection).__mro__:
        package = base.__module__.partition(".")[0]
        if package == "psycopg":
            return "psycopg-async" if "Async" in base.__name__ else "psycopg"
        if package == "aiosqlite":
            return "aiosqlite"
        if package in ("sqlite3", "_sqlite3", "pysqlite3") and base.__name__ == "Connection":
            return "sqlite"
    return ""


def _postgres_cursor(connection: Any, *, asynchronous: bool) -> Any:
    import psycopg
    from psycopg.rows import tuple_row

    if connection.autocommit and connection.info.transaction_status == _IDLE:
        raise _no_transaction("with connection.transaction():")
    # Not connection.cursor(): the user may have set a class with other placeholders.
    cursor: type[Any] = psycopg.AsyncCursor if asynchronous else psycopg.Cursor
    return cursor(connection, row_factory=tuple_row)


def _no_transaction(remedy: str) -> HandlerError:
    return HandlerError(
        f"cannot fence: the connection is in autocommit mode, where each statement is alone; begin with `{remedy}`"
    )


def _sqlite(lease: Lease, *, began: bool) -> Script:
    if began:
        yield Statement("BEGIN IMMEDIATE")
    try:
        yield Statement(_CREATE.format(text="TEXT", number="INTEGER"))
        # A write even if nothing changes: it takes the write lock, so from here on nobody else can claim.
        same = yield Statement(
            "UPDATE instar_lease SET epoch = epoch WHERE name = ? AND epoch = ? AND owner = ?",
            (lease.name, lease.epoch, lease.owner),
        )
        lease.require()
        if same.changed == 1:
            return
        yield Statement("INSERT OR IGNORE INTO instar_lease VALUES ('', 0, ?)", (secrets.token_hex(16),))
        store = (yield Statement("SELECT owner FROM instar_lease WHERE name = ''", (), True)).row[0]
        row = (
            yield Statement("SELECT epoch, owner = ? FROM instar_lease WHERE name = ?", (lease.owner, lease.name), True)
        ).row
        epoch = lease.claim(store, *((row[0], bool(row[1])) if row else (0, False)))
        yield Statement("INSERT OR REPLACE INTO instar_lease VALUES (?, ?, ?)", (lease.name, epoch, lease.owner))
    except GeneratorExit:
        raise
    except BaseException:
        if began:
            yield Statement("ROLLBACK")
        raise


def _postgres(lease: Lease, *, there: bool = False) -> Script:
    there = there or (yield Statement("SELECT to_regclass('instar_lease') IS NOT NULL", (), True)).row[0]
    if not there:
        yield Statement("SELECT pg_advisory_xact_lock(%s)", (_CREATE_KEY,))
        yield Statement(_CREATE.format(text="text", number="bigint"))
    # Shared, so that several connections of one holder don't wait for each other, but a successor's claim does.
    same = yield Statement(
        "SELECT 1 FROM instar_lease WHERE name = %s AND epoch = %s AND owner = %s FOR SHARE",
        (lease.name, lease.epoch, lease.owner),
        True,
    )
    lease.require()
    if same.row:
        return
    # A row to lock; worth nothing by itself. The row without a name tells databases apart.
    yield Statement(
        "INSERT INTO instar_lease VALUES ('', 0, %s), (%s, 0, '') ON CONFLICT DO NOTHING",
        (secrets.token_hex(16), lease.name),
    )
    store, stored, ours = (
        yield Statement(
            "SELECT (SELECT owner FROM instar_lease WHERE name = ''), epoch, owner = %s"
            " FROM instar_lease WHERE name = %s FOR UPDATE",
            (lease.owner, lease.name),
            True,
        )
    ).row
    # It may have taken long to get the row.
    lease.require()
    epoch = lease.claim(store, stored, ours)
    yield Statement("UPDATE instar_lease SET epoch = %s, owner = %s WHERE name = %s", (epoch, lease.owner, lease.name))
