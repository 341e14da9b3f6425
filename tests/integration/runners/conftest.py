from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from runner_tools import Desk, manager

from instar.jobs.launcher import Launcher, listen
from instar.jobs.runners.base import Setup
from instar.jobs.runners.local import LocalRunner


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "jobs"


@pytest.fixture(params=["cgroup"])
def launcher(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path | None]:
    """The socket of a launcher that makes no cgroups; None: the runner has its own, which makes them where it can."""
    if request.param == "cgroup":
        yield None
        return
    listener = listen(tmp_path / "launcher.sock")
    read, write = os.pipe()

    def serve() -> None:
        os.close(write)
        bare = Launcher(tmp_path / "launcher.sock", listener, read, linger=False)
        bare._groups._parent = None
        bare.run()

    pid = manager(serve)
    listener.close()
    os.close(read)
    yield tmp_path / "launcher.sock"
    os.close(write)
    assert os.waitpid(pid, 0)[1] == 0


@pytest.fixture
def new_desk(home: Path, launcher: Path | None) -> Iterator[Callable[[], Desk]]:
    """Makes managers one after the other: each has a runner on the same folder."""
    desks: list[Desk] = []

    def make() -> Desk:
        desks.append(Desk(LocalRunner(Setup("local", folder=home, launcher=launcher))))
        return desks[-1]

    yield make
    for desk in desks:
        desk.clear()
    left = {pid: text for desk in desks for pid, text in desk.left().items()}
    for desk in desks:
        desk.close()
    assert not left


@pytest.fixture
def desk(new_desk: Callable[[], Desk]) -> Desk:
    return new_desk()
