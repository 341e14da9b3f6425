"""Who has lost the name writes nothing; SQLite and PostgreSQL, blocking and asynchronous."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from handler_tools import process_of, wait_for

from instar.handlers import current, epoch
from instar.handlers.epoch import REBOOT_JUMP, Record
from instar.handlers.errors import Fenced, HandlerError, NotActiveError
from instar.handlers.fence import fence, fence_async
from instar.handlers.lease import Lease

NAME = "main.work.1"


class Database:
    """One of the four ways to a database, seen as blocking calls."""

    def __init__(self, kind: str, address: str) -> None:
        self.kind, self.address = kind, address
        self.mark = "?" if "sqlite" in kind else "%s"
        self._opened = []
        with self.connect() as connection:
            connection.run("DROP TABLE IF EXISTS work")
            connection.run("DROP TABLE IF EXISTS instar_lease")
            connection.run("CREATE TABLE work (holder TEXT, epoch BIGINT)")

    def connect(self, **options) -> Connection:
        self._opened.append(Connection(self, options))
        return self._opened[-1]

    def work(self) -> list[tuple[str, int]]:
        with self.connect() as connection:
            return connection.rows("SELECT holder, epoch FROM work ORDER BY epoch, holder")

    def lease(self) -> dict[str, int]:
        with self.connect() as connection:
            return dict(connection.rows("SELECT name, epoch FROM instar_lease WHERE name <> ''"))

    def close(self) -> None:
        for connection in list(self._opened):
            connection.close()


class Connection:
    """As a context: commits, or rolls back on an error; may be used again, as the libraries' own."""

    def __init__(self, database: Database, options) -> None:
        self._database = database
        self._loop = asyncio.new_event_loop() if "async" in database.kind else None
        self.raw = self._open({} if database.kind.startswith("postgres") else {"timeout": 30} | options)

    def _open(self, options):
        match self._database.kind:
            case "sqlite":
                return sqlite3.connect(self._database.address, check_same_thread=False, **options)
            case "sqlite async":
                import aiosqlite

                return self._do(aiosqlite.connect(self._database.address, **options))
            case "postgres":
                import psycopg

                return psycopg.connect(self._database.address)
            case _:
                import psycopg

                return self._do(psycopg.AsyncConnection.connect(self._database.address))

    def _do(self, value):
        async def wait():
            return await value

        return self._loop.run_until_complete(wait()) if self._loop else value

    def run(self, sql, values=()):
        return self._do(self.raw.execute(sql.replace("?", self._database.mark), values))

    def rows(self, sql):
        return [tuple(row) for row in self._do(self.run(sql).fetchall())]

    def fence(self, lease):
        return self._do(fence_async(lease, self.raw)) if self._loop else fence(lease, self.raw)

    def write(self, lease, holder):
        """What a handler does: fence, write, commit."""
        with self:
            number = self.fence(lease)
            self.run("INSERT INTO work VALUES (?, ?)", (holder, number))
        return number

    def commit(self):
        self._do(self.raw.commit())

    def rollback(self):
        self._do(self.raw.rollback())

    def close(self):
        self._do(self.raw.close())
        if self._loop:
            self._loop.close()
        self._database._opened.remove(self)

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        if kind:
            self.rollback()
        else:
            self.commit()


@pytest.fixture(params=["sqlite", "sqlite async", "postgres", "postgres async"])
def database(request, tmp_path):
    if "postgres" in request.param:
        address = request.getfixturevalue("postgres")
    else:
        if "async" in request.param:
            pytest.importorskip("aiosqlite", reason="aiosqlite is not installed")
        address = str(tmp_path / "work.db")
    made = Database(request.param, address)
    yield made
    made.close()


@pytest.fixture
def sqlite_database(tmp_path):
    made = Database("sqlite", str(tmp_path / "work.db"))
    yield made
    made.close()


@pytest.fixture
def take(lock_path):
    """Leases of this process: the locks of two of them exclude each other as those of two processes do."""
    leases = []

    def start(path=lock_path, **changes):
        leases.append(Lease(NAME, path, **({"owner": f"owner-{len(leases)}"} | changes)))
        assert leases[-1].take(blocking=False)
        return leases[-1]

    yield start
    for lease in leases:
        lease.close()


def lose_state(lock_path: Path) -> None:
    """The state directory is lost; what runs on has its files open."""
    lock_path.unlink()
    lock_path.parent.rmdir()


def test_a_holder_writes_again_and_again(database, take):
    lease, connection = take(), database.connect()
    assert [connection.write(lease, "a") for _ in range(3)] == [1, 1, 1]
    assert database.connect().write(lease, "a") == 1, "on another connection, too"
    assert database.work() == [("a", 1)] * 4
    assert database.lease() == {NAME: 1}


def test_the_replaced_one_writes_nothing(database, take, lock_path):
    old, connection = take(), database.connect()
    connection.write(old, "old")
    # As if the old one were stopped, and its lock had gone with a copy of the state: it believes that it holds it.
    old.lock.holds = lambda: True
    old.lock.close()
    new = take()
    assert database.connect().write(new, "new") == 2
    with pytest.raises(Fenced, match=rf"cannot write as {NAME} with epoch 1: epoch 2 has taken over"):
        connection.write(old, "old")
    with pytest.raises(Fenced):
        connection.write(old, "old")
    assert database.work() == [("old", 1), ("new", 2)]
    assert database.connect().write(new, "new") == 2


def test_the_replaced_one_that_never_wrote(database, take):
    """It fences for the first time after its successor has: the lock tells that it is too late."""
    old = take()
    old.close()
    new = take()
    database.connect().write(new, "new")
    with pytest.raises(Fenced, match="lock file was replaced"):
        database.connect().write(old, "old")
    assert database.work() == [("new", 2)]


def test_a_swallowed_refusal_writes_nothing_of_ours(database, take):
    old, connection = take(), database.connect()
    connection.write(old, "old")
    old.close()
    new = take()
    database.connect().write(new, "new")
    with connection, contextlib.suppress(Fenced):
        connection.fence(old)
    assert database.lease() == {NAME: 2}


def test_a_claim_that_was_rolled_back(database, take):
    lease, connection = take(), database.connect()
    with pytest.raises(ZeroDivisionError), connection:
        connection.fence(lease)
        connection.run("INSERT INTO work VALUES ('a', 1)")
        raise ZeroDivisionError
    assert database.work() == []
    assert connection.write(lease, "a") == 1
    assert database.lease() == {NAME: 1}


def test_the_state_directory_is_lost(database, take, lock_path):
    """Epochs begin anew, below those that the database has seen: it corrects them, in the file as well."""
    old = take()
    for _ in range(4):
        old.close()
        old = take()
    database.connect().write(old, "old")
    lose_state(lock_path)
    new = take()
    assert new.epoch == 1
    assert database.connect().write(new, "new") == 6
    assert new.epoch == 6
    with pytest.raises(Fenced):
        database.connect().write(old, "old")
    new.close()
    assert take().epoch == 7, "the file knows it"
    assert database.work() == [("old", 5), ("new", 6)]


def test_the_old_one_does_not_get_in_after_the_state_was_lost(database, take, lock_path):
    """Its epoch is above everything that the database has seen, but its lock is one on nothing."""
    first = take()
    database.connect().write(first, "first")
    first.close()
    for _ in range(5):
        old = take()
        old.close()
    old = take()
    lose_state(lock_path)
    new = take()
    assert (old.epoch, new.epoch) == (7, 1)
    assert database.connect().write(new, "new") == 2
    with pytest.raises(Fenced):
        database.connect().write(old, "old")
    assert database.work() == [("first", 1), ("new", 2)]


def test_only_the_first_fence_corrects(database, take, tmp_path):
    """Two state directories, one database, a configuration error: whoever comes later wins, the other leaves."""
    one = take()
    database.connect().write(one, "one")
    two = take(tmp_path / "other/main.work.1.lock")
    assert database.connect().write(two, "two") == 2
    with pytest.raises(Fenced, match="epoch 2 has taken over"):
        database.connect().write(one, "one")
    assert database.connect().write(two, "two") == 2


def test_several_databases(take, tmp_path):
    """Each has its own history; the epoch is the largest of all, and never comes back."""
    lease = take()
    paths = [str(tmp_path / f"{number}.db") for number in (7, 30)]
    databases = [Database("sqlite", path) for path in paths]
    for each, number in zip(databases, (7, 30), strict=True):
        with each.connect() as connection:
            connection.fence(lease)
            connection.run("UPDATE instar_lease SET epoch = ?, owner = 'before' WHERE name = ?", (number, NAME))
    lease.close()
    new = take()
    assert databases[0].connect().write(new, "new") == 8
    assert databases[1].connect().write(new, "new") == 31
    assert databases[0].connect().write(new, "new") == 31
    for each in databases:
        each.close()


def test_after_a_reboot_the_epoch_is_far_above(database, take):
    old = take(boot_id="before")
    database.connect().write(old, "old")
    old.close()
    new = take(boot_id="after")
    assert database.connect().write(new, "new") == 1 + REBOOT_JUMP


def test_a_power_loss_that_drops_the_file(database, take, lock_path):
    old = take()
    old.close()
    old = take()
    database.connect().write(old, "old")
    old.close()
    lock_path.write_bytes(b"\0" * 71)
    new = take()
    assert new.epoch == 1
    assert database.connect().write(new, "new") == 3


def test_threads_of_one_holder(database, take):
    lease = take()
    connections = [database.connect() for _ in range(4)]
    errors = []

    def work(connection):
        try:
            for _ in range(10):
                connection.write(lease, "a")
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(connection,)) for connection in connections]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert database.work() == [("a", 1)] * 40


def test_different_names_do_not_disturb_each_other(database, take, tmp_path):
    one = take()
    two = Lease("main.work.2", tmp_path / "two.lock")
    two.take()
    assert database.connect().write(one, "one") == database.connect().write(two, "two") == 1
    assert database.lease() == {NAME: 1, "main.work.2": 1}
    two.close()


@pytest.mark.parametrize("rows", ["dict", "own"])
def test_row_factories_do_not_matter(database, take, rows):
    connection = database.connect()
    if "sqlite" in database.kind:
        connection.raw.row_factory = sqlite3.Row if rows == "own" else lambda cursor, row: {"row": row}
        connection.raw.text_factory = bytes
    else:
        from psycopg.rows import dict_row, namedtuple_row

        connection.raw.row_factory = dict_row if rows == "dict" else namedtuple_row
    lease = take()
    assert [connection.write(lease, "a") for _ in range(2)] == [1, 1]


def test_before_activation(database, lock_path):
    with pytest.raises(NotActiveError):
        database.connect().fence(Lease(NAME, lock_path))


# --- the connection -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("connection", [object(), None, 3])
async def test_what_is_no_connection(take, connection):
    lease = take()
    with pytest.raises(HandlerError, match=r"pass a connection of sqlite3, psycopg or aiosqlite.*SQLAlchemy"):
        fence(lease, connection)
    with pytest.raises(HandlerError, match="cannot fence"):
        await fence_async(lease, connection)


def test_the_wrong_one_of_the_two(database, take):
    connection = database.connect()
    lease = take()
    if connection._loop:
        with pytest.raises(HandlerError, match=r"use fence_async\(\) for it"):
            fence(lease, connection.raw)
    else:
        with pytest.raises(HandlerError, match=r"use fence\(\) for it"):
            asyncio.run(fence_async(lease, connection.raw))


def test_autocommit_has_no_transaction_to_protect(database, take):
    lease, connection = take(), database.connect()
    if "postgres" in database.kind:
        if connection._loop:
            connection._do(connection.raw.set_autocommit(True))
        else:
            connection.raw.autocommit = True
        with pytest.raises(HandlerError, match="autocommit"):
            connection.fence(lease)
        connection.run("BEGIN")
        connection.fence(lease)
        connection.run("COMMIT")
    else:
        # sqlite3's "autocommit" without transactions of its own: fence begins one, which commit() ends.
        connection.close()
        connection = database.connect(isolation_level=None)
        connection.fence(lease)
        assert connection.raw.in_transaction
        connection.commit()
    assert database.lease() == {NAME: 1}


@pytest.mark.skipif(sys.version_info < (3, 12), reason="sqlite3 has the attribute autocommit since Python 3.12")
def test_sqlite_autocommit_attribute(sqlite_database, take):
    lease = take()
    raw = sqlite3.connect(sqlite_database.address, autocommit=True)
    with pytest.raises(HandlerError, match="autocommit"):
        fence(lease, raw)
    raw.execute("BEGIN IMMEDIATE")
    assert fence(lease, raw) == 1
    raw.execute("COMMIT")
    raw.close()


def test_sqlite_takes_the_write_lock_first(sqlite_database, take):
    """From the fence on nobody else can claim, until the commit."""
    lease, connection = take(), sqlite_database.connect()
    connection.fence(lease)
    other = sqlite3.connect(sqlite_database.address, timeout=0)
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        other.execute("BEGIN IMMEDIATE")
    connection.commit()
    other.close()


def test_sqlite_in_a_transaction_that_has_only_read(sqlite_database, take):
    lease, connection = take(), sqlite_database.connect()
    connection.raw.execute("PRAGMA journal_mode = WAL")
    connection.write(lease, "a")
    connection.raw.execute("BEGIN")
    connection.raw.execute("SELECT * FROM work").fetchall()
    assert connection.fence(lease) == 1
    other = sqlite3.connect(sqlite_database.address, timeout=0)
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        other.execute("BEGIN IMMEDIATE")
    connection.commit()
    # A reader whose view is older than somebody's write can't become a writer: SQLite refuses, nothing is lost.
    connection.raw.execute("BEGIN")
    connection.raw.execute("SELECT * FROM work").fetchall()
    other.execute("INSERT INTO work VALUES ('other', 0)")
    other.commit()
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        connection.fence(lease)
    connection.rollback()
    assert connection.fence(lease) == 1
    connection.rollback()
    other.close()


def test_sqlite_ends_the_transaction_that_it_has_begun(sqlite_database, take):
    old = take()
    old.close()
    new = take()
    sqlite_database.connect().write(new, "new")
    connection = sqlite_database.connect()
    old.lock.holds = lambda: True
    old._stores.add(dict(connection.rows("SELECT name, owner FROM instar_lease"))[""])
    connection.rollback()
    with pytest.raises(Fenced):
        connection.fence(old)
    assert not connection.raw.in_transaction


def test_sqlite_a_locked_database_is_said(sqlite_database, take):
    lease, other = take(), sqlite_database.connect()
    other.raw.execute("BEGIN IMMEDIATE")
    connection = sqlite3.connect(sqlite_database.address, timeout=0)
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        fence(lease, connection)
    other.rollback()
    assert fence(lease, connection) == 1
    connection.close()


def test_postgres_a_claim_waits_for_the_open_transaction_of_the_old_one(postgres, take):
    """Whatever the old one has fenced is committed or dropped before the new one decides anything."""
    import psycopg

    database = Database("postgres", postgres)
    old, connection = take(), database.connect()
    connection.write(old, "old")
    connection.fence(old)
    connection.run("INSERT INTO work VALUES ('old', 1)")
    old.close()
    new, second = take(), database.connect()
    claimed = []
    thread = threading.Thread(target=lambda: claimed.append(second.write(new, "new")))
    thread.start()
    with psycopg.connect(postgres) as watcher:
        waiting = "SELECT 1 FROM pg_stat_activity WHERE pid = %s AND wait_event_type = 'Lock'"

        def blocked():
            watcher.rollback()
            return bool(watcher.execute(waiting, (second.raw.info.backend_pid,)).fetchone())

        wait_for(blocked)
    assert claimed == []
    connection.commit()
    thread.join()
    assert claimed == [2]
    assert database.work() == [("old", 1), ("old", 1), ("new", 2)]
    database.close()


def test_postgres_the_table_is_made_once_by_many(postgres, take, tmp_path):
    for _ in range(5):
        database = Database("postgres", postgres)
        leases = [Lease(f"main.many.{number}", tmp_path / f"{number}.lock") for number in range(8)]
        barrier, results = threading.Barrier(8), []

        def first_fence(lease, connection, barrier=barrier, results=results):
            lease.take()
            barrier.wait()
            try:
                results.append(connection.write(lease, lease.name) > 0)
            except BaseException as error:
                results.append(error)

        threads = [threading.Thread(target=first_fence, args=(lease, database.connect())) for lease in leases]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert results == [True] * 8
        for lease in leases:
            lease.close()
        database.close()


def test_postgres_repeatable_read(postgres, take):
    """A view that is older than the successor's claim: the server refuses, nothing is written."""
    import psycopg

    database = Database("postgres", postgres)
    old, connection = take(), database.connect()
    connection.write(old, "old")
    connection.raw.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
    connection.rows("SELECT * FROM work")
    old.lock.holds = lambda: True
    old.lock.close()
    database.connect().write(take(), "new")
    with pytest.raises((Fenced, psycopg.errors.SerializationFailure)), connection:
        connection.fence(old)
    assert database.work() == [("old", 1), ("new", 2)]
    database.close()


@pytest.mark.parametrize("cursor", ["ClientCursor", "RawCursor", "ServerCursor"])
def test_postgres_cursor_classes_do_not_matter(postgres, take, cursor):
    import psycopg

    database = Database("postgres", postgres)
    connection = database.connect()
    connection.raw.cursor_factory = getattr(psycopg, cursor)
    assert fence(take(), connection.raw) == 1
    connection.commit()
    database.close()


async def test_a_cancelled_fence_leaves_no_transaction(sqlite_database, take):
    aiosqlite = pytest.importorskip("aiosqlite")
    lease, other = take(), sqlite_database.connect()
    other.raw.execute("BEGIN IMMEDIATE")
    async with aiosqlite.connect(sqlite_database.address, timeout=30) as connection:
        task = asyncio.create_task(fence_async(lease, connection))
        await asyncio.sleep(0.05)
        task.cancel()
        other.rollback()
        with pytest.raises(asyncio.CancelledError):
            await task
        await connection.rollback()
        assert await fence_async(lease, connection) == 1
        await connection.commit()


# --- processes -------------------------------------------------------------------------------------------------------


def test_a_stopped_holder_that_wakes_up_writes_nothing(spawn, lock_path, database):
    """The name has moved on while it was stopped (its lock file was replaced by hand); then it is continued."""

    def body(child):
        handler = current.install(process_of(child, lock_path))
        handler.wait_active()
        own = Database.__new__(Database)
        own.kind, own.address, own.mark, own._opened = database.kind, database.address, database.mark, []
        connection = own.connect()
        me = handler._process.lease
        child.say(wrote=connection.write(me, f"pid {os.getpid()}"))
        while child.await_order():
            try:
                with connection:
                    number = connection._do(
                        handler.fence_async(connection.raw) if connection._loop else handler.fence(connection.raw)
                    )
                    connection.run("INSERT INTO work VALUES (?, ?)", (f"pid {os.getpid()}", number))
                child.say(wrote=number)
            except Fenced:
                child.say(fenced=True, releasing=bool(handler.releasing), active=handler.active)
                return

    old = spawn(body)
    old.hear()
    old.arm()
    assert old.hear("wrote") == {"wrote": 1}
    old.stop()
    lock_path.unlink()
    new = spawn(body)
    new.hear()
    new.arm()
    assert new.hear("wrote") == {"wrote": 2}
    old.tell()
    os.kill(old.pid, 18)
    assert old.hear("fenced") == {"fenced": True, "releasing": True, "active": False}
    assert old.hear("error")["event"] == "lost"
    new.tell()
    assert new.hear("wrote") == {"wrote": 2}
    assert database.work() == [(f"pid {old.pid}", 1)] + [(f"pid {new.pid}", 2)] * 2


def test_a_holder_killed_within_its_transaction(spawn, lock_path, database):
    def body(child):
        handler = current.install(process_of(child, lock_path))
        handler.wait_active()
        own = Database.__new__(Database)
        own.kind, own.address, own.mark, own._opened = database.kind, database.address, database.mark, []
        connection = own.connect()
        number = connection.fence(handler._process.lease)
        connection.run("INSERT INTO work VALUES ('killed', ?)", (number,))
        child.say(fenced=number)
        child.await_order()

    old = spawn(body)
    old.hear()
    old.arm()
    assert old.hear("fenced") == {"fenced": 1}
    old.kill()
    old.wait()
    lease = Lease(NAME, lock_path)
    assert lease.take()
    assert database.connect().write(lease, "new") == 2
    assert database.work() == [("new", 2)]
    lease.close()


def test_the_record_in_the_file_is_whole_at_any_moment(lock_path, take):
    """A reader (status) never sees half of it."""
    lease = take()
    done = threading.Event()
    odd = []

    def read():
        with lock_path.open("rb") as file:
            while not done.is_set():
                if epoch.read(file.fileno()) is None:
                    odd.append(lock_path.read_bytes())

    thread = threading.Thread(target=read)
    thread.start()
    for number in range(2000):
        epoch.write(lease.lock.fd, Record(number * 10**12, "x" * 36))
    done.set()
    thread.join()
    assert odd == []


def test_no_driver_is_needed(tmp_path):
    """The module loads and fences SQLite in an interpreter that has nothing installed."""
    program = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import sqlite3, pathlib\n"
        "from instar.handlers.lease import Lease\n"
        "from instar.handlers.fence import fence\n"
        "lease = Lease('a', pathlib.Path(sys.argv[2], 'a.lock')); lease.take()\n"
        "print(fence(lease, sqlite3.connect(':memory:')))\n"
    )
    source = str(Path(current.__file__).parents[2])
    done = subprocess.run([sys.executable, "-I", "-S", "-c", program, source, tmp_path], capture_output=True, text=True)
    assert done.stdout == "1\n", done.stderr
