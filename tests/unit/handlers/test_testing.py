"""The fake handler for users' tests."""

from __future__ import annotations

import os
import sqlite3
import threading

import pytest
from handler_tools import wait_for

import instar
from instar.testing import fake_handler


def test_a_target_is_run_through_its_life():
    received, left = [], threading.Event()

    def target():
        handler = instar.current_handler()
        assert handler.wait_active()
        handler.on_release(left.set)
        while (message := handler.receive()) is not None:
            received.append(message)

    with fake_handler(pool="reports", tags=("big",)) as fake:
        worker = threading.Thread(target=target)
        worker.start()
        assert fake.activate() == 1
        assert (fake.handler.name, fake.handler.tags) == ("main.reports.1", ("big",))
        instar.send("reports", b"one")
        instar.send("main.reports.1", b"")
        wait_for(lambda: len(received) == 2)
        fake.release()
        worker.join()
        assert left.is_set()
    assert sorted(received) == [b"", b"one"]
    assert fake.events == [{"event": "standby"}, {"event": "active", "epoch": 1}]


def test_epochs_go_on_in_a_state_directory(tmp_path):
    database = sqlite3.connect(":memory:")
    for number in (1, 2, 3):
        with fake_handler("site.old-name", state_dir=tmp_path) as fake:
            assert not fake.handler.active
            assert fake.activate() == number
            with database:
                assert fake.handler.fence(database) == number


def test_the_name_is_lost():
    database = sqlite3.connect(":memory:")
    with fake_handler() as fake:
        fake.activate()
        fake.lose()
        with pytest.raises(instar.Fenced):
            fake.handler.fence(database)
        assert fake.handler.releasing and not fake.handler.holds()


def test_nothing_is_left_behind():
    def descriptors():
        return sorted(os.listdir("/proc/self/fd"))

    with fake_handler():
        pass
    before, threads = descriptors(), threading.active_count()
    with fake_handler() as fake:
        fake.handler.wait_active(0)
        waiter = threading.Thread(target=fake.handler.wait_active)
        waiter.start()
    waiter.join()
    with fake_handler() as fake:
        fake.activate()
    assert descriptors() == before and threading.active_count() == threads
    with pytest.raises(instar.NotAHandlerError):
        instar.current_handler()
    with pytest.raises(instar.UnknownQueueError, match="not run by instar"):
        instar.send("test", b"")


def test_an_error_in_the_test_comes_through():
    with pytest.raises(ZeroDivisionError), fake_handler():
        raise ZeroDivisionError


def test_everything_exported_is_there():
    for name in instar.__all__:
        assert getattr(instar, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        instar.nothing  # noqa: B018
