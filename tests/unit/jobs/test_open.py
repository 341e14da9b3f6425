"""Opening a store: addresses, versions, forks, trouble."""

from __future__ import annotations

import os
import select
import sqlite3
import traceback
from pathlib import Path

import pytest
from job_tools import FAILED, claim, command, finish, ids

from instar.jobs.errors import StoreError
from instar.jobs.model import JobState
from instar.jobs.store import JobStore
from instar.jobs.store import open as opening
from instar.jobs.store.schema import STEPS, VERSION, Step


def test_addresses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.db"
    site = JobStore.open(f"sqlite:///{path}").site
    monkeypatch.setenv("MY_STORE", str(path))
    for url in (f"sqlite://{path}", f"sqlite:{path}", str(path), "env:MY_STORE"):
        assert JobStore.open(url).site == site
    assert JobStore.open(str(tmp_path / "b.db")).site != site


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("mysql://x/y", "cannot keep jobs in 'mysql://x/y'"),
        ("", "cannot keep jobs in ''"),
        ("env:NOT_SET_ANYWHERE", "NOT_SET_ANYWHERE, which has its URL, is not set"),
        ("/nowhere/at/all/jobs.db", "cannot open the job store /nowhere/at/all/jobs.db"),
        ("/usr", "cannot open the job store /usr"),
        ("postgresql:///nobody?host=/nowhere&connect_timeout=1", "cannot reach the job store"),
    ],
)
def test_what_cannot_be_opened(url: str, text: str) -> None:
    with pytest.raises(StoreError) as caught:
        JobStore.open(url)
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    path = tmp_path / "jobs.db"
    path.write_bytes(b"something else" * 100)
    with pytest.raises(StoreError, match="file is not a database"):
        JobStore.open(str(path))


def test_a_later_schema_is_used_as_long_as_it_says_so(url: str, hold) -> None:
    """The next release adds a column and a table; this one runs on, and keeps away once it can't."""
    JobStore.open(url).close()
    later = Step(
        VERSION + 1,
        (
            "ALTER TABLE instar_job ADD COLUMN colour {text} NOT NULL DEFAULT 'red'",
            "CREATE TABLE instar_new (a {text})",
        ),
    )
    migrate(url, (*STEPS, later))
    with JobStore.open(url) as store:
        job = store.submit(command(max_attempts=2, backoff=0.0))
        holder = hold()
        for _ in range(2):
            (claimed,) = claim(store, holder)
            finish(store, holder, claimed, FAILED)
        assert store.get(job).state is JobState.ERROR
        assert len(store.attempts(job)) == 2
        assert len(store.purge(older=-1)) == 2
    migrate(url, (*STEPS, later, Step(VERSION + 2, (), oldest=VERSION + 1)))
    with pytest.raises(StoreError, match="update instar"):
        JobStore.open(url)


def migrate(url: str, steps: tuple[Step, ...]) -> None:
    with JobStore(url)._connections.transaction() as do:
        opening.prepare(do, steps)


def test_many_open_a_new_store_at_once(url: str) -> None:
    children = []
    for _ in range(6):
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                JobStore.open(url).submit(command())
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        children.append(pid)
    assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children] == [0] * 6
    assert len(JobStore.open(url).find()) == 6


def test_a_store_may_be_used_on_both_sides_of_a_fork(store: JobStore) -> None:
    first = store.submit(command())
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            for _ in range(5):
                store.submit(command())
            code = 0 if store.get(first).state is JobState.NEW else 2
        finally:
            os._exit(code)
    for _ in range(5):
        store.submit(command())
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert len(store.find()) == 11


def rings(bell: object, seconds: float) -> bool:
    heard = bool(select.select([bell], [], [], seconds)[0])
    bell.hush()
    return heard


def test_bells(store: JobStore, hold) -> None:
    one, two = store.bell("main.jobs.1"), store.bell("main.jobs.2")
    job = store.submit(command())
    assert rings(one, 10)
    assert rings(two, 10)
    (claimed,) = claim(store, hold())
    store.cancel(job)
    assert rings(one, 10)
    assert claimed.job.id == job
    # A successor hangs its own bell in the place.
    three = store.bell("main.jobs.1")
    one.close()
    store.ring("main.jobs.1")
    assert rings(three, 10)
    two.close()
    store.ring(None)
    assert rings(three, 10)
    three.close()
    store.ring(None, "main.nobody.1")


def test_sqlite_is_durable_and_shared(tmp_path: Path, hold) -> None:
    path = tmp_path / "jobs.db"
    store = JobStore.open(str(path))
    with store._reading() as do:
        assert do.one("PRAGMA journal_mode") == ("wal",)
        assert do.one("PRAGMA synchronous") == (2,)
    job = store.submit(command())
    # Whoever knows SQL can look.
    with sqlite3.connect(path) as other:
        assert other.execute("SELECT id, state, handler FROM instar_job").fetchall() == [(job, "new", None)]
        with pytest.raises(sqlite3.IntegrityError):
            other.execute("UPDATE instar_job SET handler = ''")
    assert ids(claim(store, hold())) == [job]


def test_a_server_that_was_away(url: str) -> None:
    """Connections that were cut are replaced."""
    if not url.startswith("postgresql"):
        pytest.skip("SQLite has no server")
    import psycopg

    store = JobStore.open(url)
    store.submit(command())
    with psycopg.connect(url, autocommit=True) as other:
        other.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'instar jobs'")
    with pytest.raises(StoreError, match="cannot use the job store"):
        store.submit(command())
    assert store.submit(command())
