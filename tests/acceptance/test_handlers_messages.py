"""Pool messages end to end: each is received once, or its sender was told that it was not taken."""

from __future__ import annotations

import collections
import concurrent.futures
import http.client
import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from harness.handlers import act, all_active, light_web, pool, restart, row
from harness.instance import Instance
from harness.project import Project
from harness.waiting import wait_for
from ledger import Ledger, breaches

MESSAGES = 10_000
RESTARTS = 5
NAMES = ("test.mail.1", "test.mail.2", "test.talk.1")
#: Where messages go to: the pool and each of its names.
TARGETS = ("mail", "test.mail.1", "test.mail.2")
#: Messages in one request of a web client.
BATCH = 10


@pytest.fixture
def ledger(project: Project) -> Iterator[Ledger]:
    """Two web workers that send, a handler that sends, two that receive."""
    found = Ledger(project.root)
    light_web(project)
    project.config["web"]["workers"] = 2
    quiet = project.root / "quiet"
    project.config["app"]["env"].update(found.environment, TEST_TARGETS=" ".join(TARGETS), TEST_QUIET=str(quiet))
    project.config["restart"].update(grace=0.1, drain_timeout=10.0)
    pool(project, "mail", target="apps.named:receiving", count=2)
    pool(project, "talk", target="apps.named:sending")
    yield found
    found.close()


class Client:
    """Sends numbered messages through the web workers, on connections that it keeps while the server does."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._connection: http.client.HTTPConnection | None = None
        self.taken: list[str] = []
        self.refused: list[str] = []

    def send(self, to: str, first: int, count: int) -> None:
        """One request; what became of each of its messages."""
        if self._connection is None:
            self._connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=30)
        self._connection.request("POST", f"/send?to={to}&first={first}&count={count}")
        with self._connection.getresponse() as response:
            found: dict[str, Any] = json.loads(response.read())
            if response.headers.get("connection", "").lower() == "close":
                self.close()
        self.taken += found.get("taken", [])
        self.refused += found.get("refused", [])

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _words(ledger: Ledger, kind: str) -> list[str]:
    """What handlers have written after a word."""
    return [line.what.partition(":")[2] for line in ledger.lines() if line.what.startswith(f"{kind}:")]


def _send_all(clients: list[Client], stop: threading.Event) -> None:
    """`MESSAGES` from all clients together, spread over the time until `stop`; the last of them after it."""

    def run(number: int) -> None:
        for batch in range(number, MESSAGES // BATCH, len(clients)):
            clients[number].send(TARGETS[batch % len(TARGETS)], batch * BATCH, BATCH)
            stop.wait(0.02)

    with concurrent.futures.ThreadPoolExecutor(len(clients)) as threads:
        for done in [threads.submit(run, number) for number in range(len(clients))]:
            done.result()


def _kill_with_a_message_in_its_hands(instance: Instance, ledger: Ledger) -> None:
    """The one message that may be lost, chosen by us: it is the receiver's alone when that is killed."""
    client = http.client.HTTPConnection("127.0.0.1", instance.project.port, timeout=10)
    client.request("POST", "/hold?to=test.mail.2")
    with client.getresponse() as response:
        assert json.loads(response.read())["taken"] == ["hold-1"]
    client.close()
    wait_for("a receiver holds it", lambda: _words(ledger, "holding"))
    holding = next(line for line in ledger.lines() if line.what.startswith("holding:"))
    os.kill(holding.pid, signal.SIGKILL)
    wait_for("it is replaced", lambda: (row(instance, holding.name)["epoch"] or 0) > holding.epoch)


@pytest.mark.timeout(180)
def test_each_message_is_received_once_or_reported(instance: Instance, ledger: Ledger) -> None:
    instance.start()
    all_active(instance, NAMES)
    clients = [Client(instance.project.port) for _ in range(4)]
    stop = threading.Event()
    sending = threading.Thread(target=_send_all, args=(clients, stop))
    sending.start()
    try:
        for number in range(RESTARTS):
            assert restart(instance, *(("handlers",) if number % 2 else ())).get("outcome") == "done"
            if number == 2:
                _kill_with_a_message_in_its_hands(instance, ledger)
    finally:
        stop.set()
        sending.join()
    (instance.project.root / "quiet").touch()
    _check(ledger, clients, lost={"hold-1"})
    assert breaches(ledger.lines(), 5.0) == []


def test_a_full_queue_is_reported_and_nothing_else_is_lost(instance: Instance, ledger: Ledger) -> None:
    (instance.project.root / "quiet").touch()
    instance.start()
    all_active(instance, NAMES)
    for name in NAMES[:2]:
        assert act(instance, name, "pause").get("outcome") == "done"
    client = Client(instance.project.port)
    number = 0
    while not client.refused:
        client.send("mail", number, 100)
        number += 100
        assert number < 100_000, "the queue has no limit"
    depth = next(item for item in instance.status()["queues"] if item["name"] == "mail")
    assert depth["bytes"] >= depth["limit"] * 0.9
    client.close()
    # What is queued outlives a restart while nobody receives.
    assert restart(instance).get("outcome") == "done"
    for name in NAMES[:2]:
        assert act(instance, name, "resume").get("outcome") == "done"
    _check(ledger, [client], lost=set())
    # Messages of one sender to one queue are taken in order by each receiver.
    for name in NAMES[:2]:
        got = [line for line in ledger.lines() if line.name == name and line.what.startswith("got:")]
        numbers = [int(line.what.rpartition("-")[2]) for line in got]
        assert numbers == sorted(numbers)


def _check(ledger: Ledger, clients: list[Client], lost: set[str]) -> None:
    """Exactly what was taken has been received, once; `lost` was in the hands of a killed receiver."""
    taken = [item for client in clients for item in client.taken] + _words(ledger, "taken")
    wait_for("the queues are empty", lambda: len(_words(ledger, "got")) >= len(set(taken) - lost), 30.0, 0.2)
    time.sleep(0.2)  # a message received twice would come now
    taken = [item for client in clients for item in client.taken] + _words(ledger, "taken")
    refused = {item for client in clients for item in client.refused} | set(_words(ledger, "refused"))
    received = collections.Counter(_words(ledger, "got"))
    assert max(received.values()) == 1, [item for item, count in received.items() if count > 1]
    assert set(received) == set(taken) - lost
    assert not refused & set(received)
    assert set(_words(ledger, "holding")) == lost
