"""Who is measured, with which settings, and what each of them promises."""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from bench.common.paths import BENCH_VENV, INSTAR_VENV
from bench.jobs import services

#: Jobs at a time, of every contender.
CONCURRENCY = 10
_SQLITE = "WAL, synchronous=FULL: each commit is synced"
_POSTGRES = "fsync and synchronous_commit on"
_ALWAYS = "appendonly, appendfsync always"
_DEFAULT = "no log, snapshots now and then: the last minutes can be lost"


@dataclasses.dataclass(frozen=True)
class Store:
    """A kind of place for jobs. `open` gives a function that makes a fresh one of a name."""

    name: str
    open: Callable[[], contextlib.AbstractContextManager[Callable[[str], str]]]


@contextlib.contextmanager
def _files() -> Iterator[Callable[[str], str]]:
    with tempfile.TemporaryDirectory(prefix="bench-jobs-") as folder:
        yield lambda name: str(Path(folder) / f"{name}.db")


def _redis(*settings: str) -> Callable[[], contextlib.AbstractContextManager[Callable[[str], str]]]:
    @contextlib.contextmanager
    def open_store() -> Iterator[Callable[[str], str]]:
        with contextlib.ExitStack() as stack:
            # Each has a server of its own, as one can't be emptied of what another has left behind.
            yield lambda _: stack.enter_context(services.redis(*settings))

    return open_store


SQLITE = Store("SQLite", _files)
POSTGRES = Store("PostgreSQL", services.postgresql)
REDIS_ALWAYS = Store("Redis, fsync always", _redis("--appendonly", "yes", "--appendfsync", "always"))
REDIS_DEFAULT = Store("Redis, defaults", _redis())


@dataclasses.dataclass(frozen=True)
class Contender:
    """One library on one store."""

    library: str
    store: Store
    driver: str
    #: Jobs that it is given to run through at once: some seconds of work.
    jobs: int
    #: How its commits are done.
    commits: str
    #: What is on record of a job that has ended, and what happens to one whose worker is killed.
    record: str
    killed: str
    #: The record is there after a power cut: it counts for the aim.
    durable: bool = True
    workers: str = f"{CONCURRENCY} threads"
    venv: Path = BENCH_VENV

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.library}, {self.store.name}"

    @property
    def key(self) -> str:
        """For names of files and databases."""
        return "".join(letter if letter.isalnum() else "_" for letter in self.name.lower())


RAW = "raw loop"
INSTAR = "instar"
_ROW = "the job's row"
_IN_TURN = f"batches of {CONCURRENCY}, in turn"
_FENCED = "its successor decides (`on_lost`); late writes are refused"

CONTENDERS = [
    Contender(
        RAW, SQLITE, "raw_loop", 40_000, _SQLITE, _ROW, "nothing looks after it", workers=_IN_TURN, venv=INSTAR_VENV
    ),
    Contender(INSTAR, SQLITE, "with_instar", 15_000, _SQLITE, _ROW, _FENCED, venv=INSTAR_VENV),
    Contender(
        "huey", SQLITE, "with_huey", 5_000, _SQLITE,
        "a result until it is read; the job is deleted when it is taken", "it is forgotten",
    ),
    Contender(
        RAW, POSTGRES, "raw_loop", 15_000, _POSTGRES, _ROW, "nothing looks after it", workers=_IN_TURN, venv=INSTAR_VENV
    ),
    Contender(INSTAR, POSTGRES, "with_instar", 10_000, _POSTGRES, _ROW, _FENCED, venv=INSTAR_VENV),
    Contender(
        "pgqueuer", POSTGRES, "with_pgqueuer", 8_000, _POSTGRES, "a row in the log (durable tables, its default)",
        "picked again after 30 s", workers=f"event loop, batches of {CONCURRENCY}",
    ),
    Contender(
        "procrastinate", POSTGRES, "with_procrastinate", 1_500, _POSTGRES, _ROW,
        "a task of one's own has to look for it", workers=f"event loop, concurrency {CONCURRENCY}",
    ),
    Contender(
        "huey", REDIS_ALWAYS, "with_huey", 5_000, _ALWAYS,
        "a result until it is read; the job is deleted when it is taken", "it is forgotten",
    ),
    Contender(
        "huey", REDIS_DEFAULT, "with_huey", 8_000, _DEFAULT, "as above, not durable", "it is forgotten", durable=False
    ),
    Contender(
        "celery", REDIS_ALWAYS, "with_celery", 3_000, _ALWAYS, "a result for a day",
        "delivered again (late acknowledgement)", workers=f"{CONCURRENCY} processes, prefetch 64",
    ),
    Contender(
        "celery", REDIS_DEFAULT, "with_celery", 3_000, _DEFAULT, "as above, not durable",
        "delivered again (late acknowledgement)", durable=False, workers=f"{CONCURRENCY} processes, prefetch 64",
    ),
]  # fmt: skip
