"""Under a service manager: what it is told, and what it keeps for the next start (sd_notify(3), sd_listen_fds(3))."""

from __future__ import annotations

import os
import signal
import socket
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness.instance import Instance
from harness.manager import Manager
from harness.project import Project, free_port
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
    manager.start(instance)
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
    manager.start(instance)
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


def test_sockets_come_back_when_everything_died(instance: Instance, project: Project, manager: Manager) -> None:
    """Who connects while nobody lives waits for the next start, wherever the dead generation was served."""
    manager.start(instance)
    rows = _stored(manager)
    project.deploy("second")
    assert instance.command("restart").code == 0
    # The second generation has the other slot.
    instance.settled(2)
    instance.kill_supervisor()
    instance.end_orphans()
    clients = [_ask(project.port) for _ in range(8)]
    manager.start(instance)
    for client in clients:
        with client:
            assert client.recv(12) == b"HTTP/1.1 200"
    [bind] = instance.status()["web"]["binds"]
    assert bind["mode"] == "steered"
    assert _stored(manager) == rows

    # An address that the configuration drops is given up there too, a new one is kept.
    project.config["web"]["bind"] = [f"127.0.0.1:{free_port()}"]
    project.write()
    project.deploy("third")
    assert instance.command("restart").code == 0
    wait_for("the new sockets are kept, the old ones closed", lambda: not set(manager.store) & set(rows))
    wait_for("all of them", lambda: len(manager.store) == len(rows))
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", project.port), 5)


@pytest.mark.long
@pytest.mark.parametrize(("reuse", "mode"), [(False, "shared"), (True, "steered")])
def test_a_socket_unit_beside_the_store(
    instance: Instance, project: Project, manager: Manager, reuse: bool, mode: str
) -> None:
    """The unit's socket is one of the kept ones, or is not kept a second time; a living generation comes first."""
    with socket.socket() as unit:
        unit.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, reuse)
        unit.bind(("127.0.0.1", project.port))
        unit.listen(64)
        activated = [("shop.socket", unit.fileno())]
        manager.start(instance, activated)
        manager.wait_for("READY")
        if reuse:
            rows = _stored(manager)
        workers = instance.workers()
        instance.kill_supervisor()
        manager.start(instance, activated)
        assert instance.workers() == workers
        instance.kill_supervisor()
        instance.end_orphans()
        client = _ask(project.port)
        manager.start(instance, activated)
        with client:
            assert client.recv(12) == b"HTTP/1.1 200"
        [bind] = instance.status()["web"]["binds"]
        assert bind["mode"] == mode
        assert set(manager.store) == (set(rows) if reuse else set())


def _stored(manager: Manager) -> list[str]:
    """The names of the kept sockets, when they are complete: each name once, as many in one slot as in the other."""
    manager.wait_for("READY")
    wait_for("sockets are kept", lambda: manager.store)
    seen = 0
    while seen != len(manager.store):
        seen = len(manager.store)
        wait_for("both slots", lambda: _slots(manager)["a"] == _slots(manager)["b"] > 0)
    assert all(len(fds) == 1 for fds in manager.store.values())
    return sorted(manager.store)


def _slots(manager: Manager) -> Counter[str]:
    return Counter(name.rpartition("-")[2][0] for name in list(manager.store))


def _ask(port: int) -> socket.socket:
    client = socket.create_connection(("127.0.0.1", port), 30)
    client.sendall(b"GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")
    return client


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
