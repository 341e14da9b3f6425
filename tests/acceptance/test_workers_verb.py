"""`instar workers`: fresh processes without new code, and connections that wait."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from harness.instance import Instance
from harness.probe import ask
from harness.project import Project
from harness.waiting import wait_for

from load.ledger import Outcome
from load.process import LoadProcess


@pytest.mark.parametrize("steering", ["steered", "shared"])
def test_recycled_workers_lose_nothing(project: Project, instance: Instance, folder: Path, steering: str) -> None:
    project.config["web"]["steering"] = steering
    instance.start()
    before = instance.workers()
    clients = {"busy": {"count": 2, "pause": 0.01}, "new": {"count": 2, "pause": 0.01}}
    load = LoadProcess(folder / "load", instance.load_target(), clients).start()
    said = instance.command("workers", "recycle", "--json")
    assert said.code == 0 and said.json["outcome"] == "done" and said.json["generation"] == 1, said
    wait_for("the old ones are gone", lambda: not set(before) & {item.pid for item in instance.processes()}, 30)
    report = load.stop()
    assert not report.failures and not report.select(Outcome.CLOSED_IDLE), report.table()
    assert report.generations() == {1}
    assert len(instance.workers()) == 2


def test_paused_connections_wait_and_are_answered(project: Project, instance: Instance) -> None:
    instance.start()
    assert instance.command("workers", "pause").out == "new connections wait\n"
    assert instance.command("workers", "pause").out == "new connections wait already\n"
    status = instance.status()
    assert status["web"]["paused"] and any("connections wait" in note for note in status["notes"])
    # A worker may have been about to accept when it was told.
    wait_for("nobody accepts", lambda: not _answered(project), 10)
    waiting = socket.create_connection(("127.0.0.1", project.port), timeout=30)
    waiting.sendall(b"GET /?n=waits HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert instance.command("workers", "resume").out == "new connections are taken\n"
    assert waiting.recv(100).startswith(b"HTTP/1.1 200")
    waiting.close()
    assert ask(project.port) == 1


def test_a_restart_takes_waiting_connections(project: Project, instance: Instance) -> None:
    instance.start()
    assert instance.command("workers", "pause", "--json").json == {"paused": True, "changed": True}
    assert instance.command("restart", "--json").json["outcome"] == "done"
    assert ask(project.port) == 2
    said = instance.command("workers", "list", "--json")
    assert not said.json["paused"] and {item["generation"] for item in said.json["workers"]} == {2}


def _answered(project: Project) -> bool:
    with socket.create_connection(("127.0.0.1", project.port), timeout=0.3) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        try:
            return bool(sock.recv(1))
        except TimeoutError:
            return False
