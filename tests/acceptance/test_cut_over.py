"""What happens to connections at the moment of the switch, step by step instead of under load."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator

import pytest
from harness.engines import ENGINES, Engine
from harness.instance import Instance
from harness.probe import Connection, ask
from harness.project import Project
from harness.waiting import wait_for


@pytest.mark.parametrize("engine", ENGINES, ids=str)
def test_held_request_is_answered_by_the_generation_that_took_it(
    project: Project, instance: Instance, engine: Engine
) -> None:
    engine.configure(project)
    instance.start()
    slow, idle = Connection(project.port), Connection(project.port)
    assert idle.ask() == 1
    slow.send("/gate?n=held1")
    handover = instance.handover()
    handover.wait_stage("cut-over")
    assert {ask(project.port) for _ in range(20)} == {2}
    # The old generation still owes two answers: it may not go.
    assert instance.generation(1)["state"] == "draining"
    assert idle.ask() == 1
    assert idle.told_to_close
    (project.gates / "held1").touch()
    assert slow.read() == 1
    if not slow.told_to_close:
        # gunicorn decides at the head of a request; this one came before the switch.
        assert engine.engine == "gunicorn"
        assert slow.ask() == 1
    assert slow.told_to_close
    slow.close()
    idle.close()
    assert handover.result()["outcome"] == "done", handover.story()
    instance.settled(2)


def test_drain_timeout_ends_a_drain(project: Project, instance: Instance) -> None:
    project.config["restart"]["drain_timeout"] = 2.0
    instance.start()
    idle = Connection(project.port)
    assert idle.ask() == 1
    handover = instance.handover()
    assert handover.result(20)["outcome"] == "done", handover.story()
    idle.close()
    instance.settled(2)


def test_restart_now_ends_a_drain(project: Project, instance: Instance) -> None:
    instance.start()
    idle = Connection(project.port)
    assert idle.ask() == 1
    first = instance.handover()
    first.wait_stage("cut-over")
    first.wait_stage("drain", "started")
    said = instance.command("restart", "--now", "--json", limit=30)
    assert said.code == 0, said
    assert said.json["generation"] == 3
    idle.close()
    instance.settled(3)


@pytest.fixture
def stopped_workers(project: Project, instance: Instance) -> Iterator[list[int]]:
    """Generation 1 with its workers stopped by SIGSTOP: nobody accepts."""
    project.config["web"]["backlog"] = 16
    instance.start()
    pids = instance.workers()
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    yield pids
    for pid in pids:
        try:
            os.kill(pid, signal.SIGCONT)
        except ProcessLookupError:
            continue


def test_full_backlog_at_the_switch_is_answered(
    project: Project, instance: Instance, stopped_workers: list[int]
) -> None:
    """Connections queued in the old sockets are neither reset nor lost: the old generation answers them all."""
    request = b"GET /?n=a1 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    queued = []
    for _ in range(30):
        sock = socket.create_connection(("127.0.0.1", project.port), timeout=60)
        sock.sendall(request)
        queued.append(sock)
    # More than the queues hold: their handshakes are retried by the kernel until there is room.
    waiting = []
    for _ in range(30):
        sock = socket.socket()
        sock.setblocking(False)
        sock.connect_ex(("127.0.0.1", project.port))
        waiting.append(sock)
    handover = instance.handover()
    handover.wait_stage("cut-over")
    assert {ask(project.port) for _ in range(10)} == {2}
    for pid in stopped_workers:
        os.kill(pid, signal.SIGCONT)
    assert [read_generation(sock) for sock in queued] == [1] * 30
    for sock in waiting:
        sock.settimeout(60)
        wait_for("connected", lambda sock=sock: connected(sock), 40)
        sock.sendall(request)
        assert read_generation(sock) in (1, 2)
    assert handover.result()["outcome"] == "done", handover.story()
    instance.settled(2)


def connected(sock: socket.socket) -> bool:
    error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    assert error == 0, os.strerror(error)
    try:
        sock.getpeername()
    except OSError:
        return False
    return True


def read_generation(sock: socket.socket) -> int:
    """The generation in a response that ends with the connection; a reset raises."""
    data = b""
    while part := sock.recv(65536):
        data += part
    sock.close()
    head, _, body = data.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200"), data[:200]
    return int(body.split(b" ")[1])
