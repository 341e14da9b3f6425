"""Under a service manager: what it is told, and what it keeps for the next start (sd_notify(3), sd_listen_fds(3))."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness.instance import Instance
from harness.manager import Manager
from harness.project import Project
from harness.waiting import wait_for


@pytest.fixture
def manager(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Manager]:
    found = Manager(folder)
    monkeypatch.setenv("NOTIFY_SOCKET", str(found.path))
    yield found
    found.close()


def test_a_service_manager_is_told(
    instance: Instance, project: Project, manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "400000")
    instance.start(program=manager.program())
    manager.wait_for("READY")
    said = manager.catch_up()
    assert all(notice.pid == instance.pid for _, notice in manager.told)
    ready = said.index({"READY": "1", "MAINPID": str(instance.pid), "STATUS": "generation 1 serves"})
    # More time is asked for before anything else is done.
    assert any("EXTEND_TIMEOUT_USEC" in fields for fields in said[:ready])
    assert any(fields.get("STATUS", "").startswith("boot: boot") for fields in said[:ready])
    # No process of the application speaks for us, or is watched in our place.
    environ = Path(f"/proc/{instance.workers()[0]}/environ").read_bytes()
    assert b"NOTIFY_SOCKET" not in environ
    assert b"WATCHDOG" not in environ

    project.deploy("second")
    assert instance.command("restart").code == 0
    manager.wait_for("READY", count=2)
    said = manager.catch_up()
    [reloading] = [fields for fields in said if "RELOADING" in fields]
    assert reloading["MONOTONIC_USEC"].isdigit()
    again = [fields for fields in said[said.index(reloading) :] if "READY" in fields]
    assert again[0]["STATUS"].startswith("restart: drain")
    manager.wait_for("STATUS", "generation 2 serves")

    project.deploy("broken", "import-error")
    assert instance.command("restart").code == 3
    manager.wait_for("READY", count=3)
    assert (
        manager.catch_up()[-1]
        .get("STATUS", "generation 2 serves; restart: rolled-back")
        .startswith("generation 2 serves; restart: rolled-back")
    )

    # A quarter of a second between two of them; the loop of a loaded machine may be late, not that late.
    manager.wait_for("WATCHDOG", count=len([1 for fields in manager.catch_up() if "WATCHDOG" in fields]) + 3, limit=5)

    assert instance.command("stop").code == 0
    manager.wait_for("STOPPING")


def test_a_hanging_supervisor_is_silent(instance: Instance, manager: Manager, monkeypatch: pytest.MonkeyPatch) -> None:
    """The watchdog is fed by the event loop itself: no thread says that all is well when it is not."""
    monkeypatch.setenv("WATCHDOG_USEC", "200000")
    instance.start(program=manager.program())
    manager.wait_for("WATCHDOG", count=3)
    os.kill(instance.pid, signal.SIGSTOP)
    try:
        wait_for("it is stopped", lambda: _state(instance.pid) == "T")
        count = len(manager.catch_up())
        with pytest.raises(AssertionError):
            manager.wait_for("WATCHDOG", count=count + 1, limit=1.0)
    finally:
        os.kill(instance.pid, signal.SIGCONT)
    manager.wait_for("WATCHDOG", count=4)


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
