from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from handler_tools import Child
from postgres_server import NoPostgresError, server

from instar.handlers import current


@pytest.fixture
def spawn() -> Iterator[Callable[[Callable[[Child], int | None]], Child]]:
    children: list[Child] = []

    def start(body: Callable[[Child], int | None]) -> Child:
        children.append(Child(body))
        return children[-1]

    yield start
    for child in children:
        child.close()


@pytest.fixture
def lock_path(tmp_path: Path) -> Path:
    return tmp_path / "state/handlers/main.work.1.lock"


@pytest.fixture(autouse=True)
def _no_handler_left() -> Iterator[None]:
    yield
    current.replace(None)


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
