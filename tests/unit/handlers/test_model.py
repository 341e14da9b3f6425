"""Lock, epoch and fence against a model, with faults at any step: killed, stopped, files and folders lost, reboots.

Holders are simulated within one process: two open descriptions of a lock file exclude each other as those of two
processes do, and a kill is what the kernel makes of one: descriptors closed, transaction rolled back. A stopped
holder is one that takes no further step until later, be it in the middle of its fence.
"""

from __future__ import annotations

import contextlib
import itertools
import shutil
import sqlite3
import tempfile
import uuid
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)

from instar.handlers import fence as fencing
from instar.handlers.epoch import REBOOT_JUMP
from instar.handlers.errors import Fenced
from instar.handlers.fence import Result
from instar.handlers.lease import Lease

NAME = "main.work.1"


class SqliteStore:
    """The protected database; a busy one is an error at once."""

    busy = (sqlite3.OperationalError,)
    mark = "?"

    def __init__(self, folder: Path) -> None:
        self.path = folder / "store.db"

    def connect(self):
        return sqlite3.connect(self.path, timeout=0, isolation_level=None)

    def script(self, lease):
        return fencing._sqlite(lease, began=True)

    def commit(self, connection):
        connection.execute("COMMIT")

    def rollback(self, connection):
        if connection.in_transaction:
            connection.execute("ROLLBACK")

    def close(self):
        pass


class PostgresStore:
    """The same on a server, where waiting for a row is cut short."""

    mark = "%s"

    def __init__(self, address: str) -> None:
        import psycopg

        self.address = address
        self.busy = (psycopg.errors.LockNotAvailable,)
        self._free = []
        with self.connect() as connection:
            connection.execute("DROP TABLE IF EXISTS instar_lease")
            connection.execute("DROP TABLE IF EXISTS work")

    def connect(self):
        import psycopg

        return psycopg.connect(self.address, options="-c lock_timeout=20ms")

    def script(self, lease):
        return fencing._postgres(lease)

    def commit(self, connection):
        connection.commit()

    def rollback(self, connection):
        connection.rollback()

    def close(self):
        pass


class Holder:
    """One process that has had the name, and what the model knows of it."""

    def __init__(self, lease: Lease, connection, file: int) -> None:
        self.lease, self.connection = lease, connection
        #: Which lock file it has locked.
        self.file = file
        self.alive = True
        self.fenced = False
        #: A fence under way, and what its next step gets.
        self.script = None
        self.result = None
        #: Fenced and written, not committed.
        self.wrote = False

    @property
    def busy(self) -> bool:
        return self.script is not None or self.wrote


class Names(RuleBasedStateMachine):
    holders = Bundle("holders")

    make_store = staticmethod(SqliteStore)

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="instar-model-"))
        self.path = self.folder / "state/handlers/name.lock"
        self.store = self.make_store(self.folder)
        self.judge = self.store.connect()
        self.judge.execute("CREATE TABLE work (id INTEGER PRIMARY KEY, owner TEXT, epoch BIGINT)")
        self.judge.commit()
        self.all: list[Holder] = []
        self.file = 0
        self.boot = "boot-0"
        #: The largest epoch that was ever given out while the file has had its memory.
        self.given = 0
        #: Commits in their order.
        self.commits: list[tuple[str, int]] = []

    def teardown(self) -> None:
        for holder in self.all:
            self._end(holder)
        self.judge.close()
        self.store.close()
        shutil.rmtree(self.folder)

    # --- processes --------------------------------------------------------------------------------

    @initialize(target=holders)
    def first(self):
        return self._start()

    @rule(target=holders)
    def start(self):
        """A standby looks whether it may have the name."""
        return self._start()

    def _start(self):
        lease = Lease(NAME, self.path, boot_id=self.boot, owner=uuid.uuid4().hex)
        free = not any(holder.alive and holder.file == self.file for holder in self.all)
        assert lease.take(blocking=False) is free
        if not free:
            return multiple()
        if self.given:
            assert lease.epoch > self.given, "an epoch came again"
        self.given = max(self.given, lease.epoch)
        self.all.append(Holder(lease, self.store.connect(), self.file))
        return self.all[-1]

    @rule(holder=consumes(holders))
    def kill(self, holder):
        self._end(holder)

    def _end(self, holder):
        if not holder.alive:
            return
        holder.alive = False
        holder.script = None
        holder.connection.close()
        holder.lease.close()

    # --- faults -----------------------------------------------------------------------------------

    @rule()
    def replace_lock_file(self):
        """As a careless clean-up would; its memory is gone with it."""
        self.path.unlink()
        self.path.touch()
        self._new_file()

    @rule()
    def replace_lock_file_by_a_copy(self):
        """As a restored backup would."""
        copy = self.path.with_suffix(".copy")
        shutil.copy(self.path, copy)
        copy.rename(self.path)
        self.file += 1

    @rule()
    def lose_state_directory(self):
        shutil.rmtree(self.path.parent.parent)
        self.path.parent.mkdir(parents=True)
        self.path.touch()
        self._new_file()

    def _new_file(self):
        self.file += 1
        self.given = 0

    @rule(lost=st.integers(0, 5), damaged=st.booleans())
    def power_loss(self, lost, damaged):
        """Nobody survives; the file, which was never synced, is some epochs behind, or nonsense."""
        for holder in self.all:
            self._end(holder)
        self.boot = f"boot-{uuid.uuid4().hex[:8]}"
        record = self.path.read_bytes()
        if damaged or not record.strip(b"\0"):
            self.path.write_bytes(b"\0" * len(record))
            self.given = 0
        else:
            number = int(record.split()[1])
            older = max(0, number - lost)
            self.path.write_bytes(record.replace(b"%020d" % number, b"%020d" % older))
            assert older + REBOOT_JUMP > self.given

    # --- writing ----------------------------------------------------------------------------------

    @rule(holder=holders)
    def begin(self, holder):
        """The first step of a protected write."""
        if holder.alive and not holder.busy:
            try:
                holder.lease.require()
            except Fenced:
                self._fenced(holder)
                return
            holder.script = self.store.script(holder.lease)
            holder.result = None

    @rule(holder=holders, steps=st.integers(1, 8))
    def go_on(self, holder, steps):
        """Some steps; in between, and after them, anything may happen."""
        for _ in range(steps):
            if holder.alive and holder.script is not None:
                self._step(holder)

    @rule(holder=holders)
    def commit(self, holder):
        if holder.alive and holder.wrote:
            self.store.commit(holder.connection)
            holder.wrote = False
            self.commits.append((holder.lease.owner, holder.lease.epoch))
            self.given = max(self.given, holder.lease.epoch) if holder.file == self.file else self.given

    @rule(holder=holders)
    def rollback(self, holder):
        if holder.alive and holder.busy:
            self._rollback(holder)

    @rule(holder=holders)
    def write(self, holder):
        """A whole protected write, when nobody is in the way: the model knows how it ends."""
        if not holder.alive or any(other.alive and other.busy for other in self.all):
            return
        entitled = holder.file == self.file and not holder.fenced
        self.begin(holder)
        while holder.script is not None:
            assert self._step(holder) != "busy"
        assert holder.wrote is entitled
        self.commit(holder)

    def _step(self, holder):
        try:
            statement = next(holder.script) if holder.result is None else holder.script.send(holder.result)
        except StopIteration:
            holder.script = None
            holder.connection.execute(
                "INSERT INTO work (id, owner, epoch) SELECT COALESCE(MAX(id), 0) + 1, ?, ? FROM work".replace(
                    "?", self.store.mark
                ),
                (holder.lease.owner, holder.lease.epoch),
            )
            holder.wrote = True
            return "done"
        except Fenced:
            self._fenced(holder)
            return "fenced"
        try:
            cursor = holder.connection.execute(statement.sql, statement.values)
            holder.result = Result(cursor.fetchone() if statement.fetch else None, cursor.rowcount)
        except self.store.busy:
            self._rollback(holder)
            return "busy"
        return "went on"

    def _fenced(self, holder):
        holder.fenced = True
        assert holder.file != self.file or not holder.lease.holds(), "whoever has the name may write"
        self._rollback(holder)

    def _rollback(self, holder):
        holder.script, holder.wrote = None, False
        self.store.rollback(holder.connection)

    # --- what must always hold --------------------------------------------------------------------

    @invariant()
    def one_holder(self):
        assert sum(holder.alive and holder.lease.holds() for holder in self.all) <= 1
        for holder in self.all:
            assert holder.lease.holds() is (holder.alive and holder.file == self.file and not holder.fenced)

    @invariant()
    def commits_are_those_of_one_holder_after_the_other(self):
        rows = self.judge.execute("SELECT owner, epoch FROM work ORDER BY id").fetchall()
        self.judge.commit()
        assert rows == self.commits
        for (owner, epoch), (next_owner, next_epoch) in itertools.pairwise(rows):
            assert next_epoch == epoch if owner == next_owner else next_epoch > epoch
        owners = [owner for (owner, _), (before, _) in zip(rows, [("", 0), *rows], strict=False) if owner != before]
        assert len(owners) == len(set(owners)), "a replaced holder wrote again"


@pytest.fixture
def check():
    def run(machine, examples, **options):
        run_state_machine_as_test(
            machine,
            settings=settings(
                max_examples=examples,
                stateful_step_count=40,
                deadline=None,
                suppress_health_check=list(HealthCheck),
                **options,
            ),
        )

    return run


def test_sqlite(check):
    check(Names, 150)


def test_postgres(check, postgres):
    class OnPostgres(Names):
        make_store = staticmethod(lambda folder: PostgresStore(postgres))

    check(OnPostgres, 20)


@pytest.mark.long
@pytest.mark.parametrize(
    ("what", "breakage"),
    [
        (
            "the inode is not compared",
            lambda patch: patch.setattr("instar.handlers.lock.os.path.samestat", lambda *_: True),
        ),
        ("a fence does not look at the lock", lambda patch: patch.setattr(Lease, "require", lambda _: None)),
        ("the epoch stands still", lambda patch: patch.setattr("instar.handlers.epoch.following", lambda *_: 1)),
        ("no jump after a reboot", lambda patch: patch.setattr("instar.handlers.epoch.REBOOT_JUMP", 1)),
    ],
)
def test_the_model_notices(check, monkeypatch, what, breakage):
    """A model that finds nothing proves nothing."""
    breakage(monkeypatch)
    with pytest.raises(AssertionError), contextlib.redirect_stdout(None):
        # The same examples each time: they have to contain the one that shows it.
        check(Names, 500, derandomize=True, database=None)
