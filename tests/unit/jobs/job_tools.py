"""Holders of names and short ways to say what a handler does."""

from __future__ import annotations

import contextlib
import dataclasses
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from instar.handlers import fence
from instar.handlers.lease import Lease
from instar.jobs.model import Claim, Ending, JobState, Outcome, Submission
from instar.jobs.store import JobStore
from instar.jobs.store.wanted import Place, Wanted

DONE = Outcome(Ending.EXITED, exit_code=0)
FAILED = Outcome(Ending.EXITED, exit_code=7)


def want(free: int = 10, **more: Any) -> Wanted:
    """Room for some local jobs, where jobs without a destination are run as well."""
    return Wanted(
        **{
            "places": {"local": Place("local")},
            "rooms": {"local": free},
            "route": lambda given: dataclasses.replace(given, destination="local"),
            **more,
        }
    )


WANTED = want()


class TestHolder:
    """A name that is really held: lock, epoch and fence are those of a handler."""

    __test__ = False

    def __init__(self, name: str, path: Path) -> None:
        self.name = name
        self.lease = Lease(name, path, any_filesystem=True)
        assert self.lease.take(blocking=False)

    @property
    def epoch(self) -> int:
        return self.lease.epoch

    def fence(self, connection: Any) -> int:
        return fence.fence(self.lease, connection)

    def close(self) -> None:
        self.lease.close()


def command(*words: str, **more: Any) -> Submission:
    return Submission(command=words or ("true",), **more)


def claim(store: JobStore, holder: Any, wanted: Wanted = WANTED) -> list[Claim]:
    with store.turn(holder) as turn:
        return turn.claim(wanted)


def ids(claims: list[Claim]) -> list[int]:
    return [each.job.id for each in claims]


def finish(store: JobStore, holder: Any, claimed: Claim, outcome: Outcome = DONE) -> JobState | None:
    with store.turn(holder) as turn:
        return turn.finish([(claimed, outcome)]).get(claimed.job.id)


_WATCH = {
    "sqlite": """
        CREATE TABLE moves (at integer PRIMARY KEY, job, a, b);
        CREATE TRIGGER watch AFTER UPDATE OF state ON instar_job WHEN old.state <> new.state
            BEGIN INSERT INTO moves (job, a, b) VALUES (old.id, old.state, new.state); END;
    """,
    "postgresql": """
        CREATE TABLE moves (at serial, job bigint, a text, b text);
        CREATE FUNCTION moved() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN INSERT INTO moves (job, a, b) VALUES (old.id, old.state, new.state); RETURN NULL; END $$;
        CREATE TRIGGER watch AFTER UPDATE ON instar_job FOR EACH ROW WHEN (old.state <> new.state)
            EXECUTE FUNCTION moved();
    """,
}


@contextlib.contextmanager
def _database(url: str) -> Iterator[Any]:
    if url.startswith("postgresql"):
        import psycopg

        with psycopg.connect(url) as connection:
            yield connection
        return
    with contextlib.closing(sqlite3.connect(url, timeout=30.0)) as connection, connection:
        yield connection


def watch_moves(url: str) -> None:
    """Have the database itself write down each change of a job's state."""
    with _database(url) as connection:
        if isinstance(connection, sqlite3.Connection):
            connection.executescript(_WATCH["sqlite"])
        else:
            connection.execute(_WATCH["postgresql"])


def moves(url: str) -> list[tuple[int, str, str]]:
    """(job, state, next state) of each change, in order."""
    with _database(url) as connection:
        return list(connection.execute("SELECT job, a, b FROM moves ORDER BY at").fetchall())
