from __future__ import annotations

import contextlib
import itertools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "handlers"))

from job_tools import TestHolder, moves, watch_moves
from postgres_server import NoPostgresError, server

from instar.jobs.states import MOVES
from instar.jobs.store import JobStore

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """Connection string of a server."""
    pytest.importorskip("psycopg", reason="psycopg is not installed (pip install instar[postgres])")
    with contextlib.ExitStack() as stack:
        try:
            address = stack.enter_context(server())
        except NoPostgresError as error:
            pytest.skip(str(error))
        yield address


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request, tmp_path: Path) -> str:
    """Address of an empty store, of each kind."""
    if request.param == "sqlite":
        return str(tmp_path / "jobs.db")
    import psycopg

    address = request.getfixturevalue("postgres")
    schema = f"jobs_{next(_numbers)}"
    with psycopg.connect(address, autocommit=True) as connection:
        connection.execute(f"CREATE SCHEMA {schema}")
    words = dict(word.split("=", 1) for word in address.split())
    return f"postgresql:///postgres?host={quote(words['host'])}&user=postgres&options=-csearch_path%3D{schema}"


@pytest.fixture
def store(url: str) -> Iterator[JobStore]:
    """A store that has seen no move which isn't in the table, when the test is over."""
    with JobStore.open(url) as store:
        watch_moves(url)
        yield store
        assert {(before, after) for _, before, after in moves(url)} <= set(MOVES)


@pytest.fixture
def hold(tmp_path: Path) -> Iterator[Callable[..., TestHolder]]:
    """Take a name. `elsewhere` is another state directory: then the earlier holder lives on, and is fenced."""
    with contextlib.ExitStack() as stack:

        def take(name: str = "main.jobs.1", elsewhere: str = "") -> TestHolder:
            holder = TestHolder(name, tmp_path / f"handlers{elsewhere}" / f"{name}.lock")
            stack.callback(holder.close)
            return holder

        yield take
