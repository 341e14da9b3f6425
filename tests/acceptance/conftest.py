"""Fixtures of the acceptance tests: real processes, real sockets, nothing mocked."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

for _folder in (Path(__file__).parents[1], Path(__file__).parent):
    if str(_folder) not in sys.path:
        sys.path.insert(0, str(_folder))

from harness.instance import Instance  # noqa: E402
from harness.project import Project  # noqa: E402

_FAILED = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    """Remember a failure, so that fixtures can say what the processes said."""
    report = yield
    if report.failed:
        item.stash[_FAILED] = True
    return report


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a short path: UNIX sockets live in it."""
    path = Path(tempfile.mkdtemp(prefix="instar-"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def project(folder: Path) -> Project:
    """A project with the test application, not yet running."""
    return Project(folder)


@pytest.fixture
def instance(project: Project, request: pytest.FixtureRequest) -> Iterator[Instance]:
    """The project's supervisor, to be started by the test. Afterwards nothing of it is left."""
    running = Instance(project)
    try:
        yield running
    finally:
        left = running.clean_up()
        if request.node.stash.get(_FAILED, False):
            print(running.evidence())
    assert not left or request.node.stash.get(_FAILED, False), f"processes left behind: {left}"
