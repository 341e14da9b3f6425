"""A world of pools and zerglings for each test."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from zerg_world import ZergWorld, real_uwsgi


@pytest.fixture
def zerg(folder: Path) -> Iterator[ZergWorld]:
    world = ZergWorld(folder)
    try:
        yield world
    finally:
        print(world.clean_up())


@pytest.fixture
def needs_uwsgi() -> None:
    if real_uwsgi() is None:
        pytest.skip("needs the real uWSGI: pip install 'instar[uwsgi]', with a compiler")
