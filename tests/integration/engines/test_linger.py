"""Holding connections through the stop must not keep clients waiting."""

from __future__ import annotations

import signal
import time

import pytest
from engine_harness import request
from test_engines import KEEPING, app_of, ids, options

from instar.runtime.scoreboard import Drain


@pytest.mark.parametrize("kind", ["tcp", "unix"])
@pytest.mark.parametrize("item", KEEPING, ids=ids)
def test_idle_client_hears_of_the_close_at_once(start, item, kind):
    name, interface, cls = item
    worker = start(name, interface, app_of(interface), kind=kind, options=options(cls))
    idle = worker.http()
    request(idle, "GET", "/")
    busy = worker.http()
    busy.request("GET", "/slow?s=4")
    time.sleep(0.2)
    worker.drain(Drain.CLOSE)
    worker.signal(signal.SIGUSR1)
    time.sleep(0.1)
    worker.signal(signal.SIGTERM)
    started = time.monotonic()
    assert idle.sock.recv(1) == b""
    # gunicorn's thread worker answers kept connections for two more seconds.
    assert time.monotonic() - started < 3.5
    idle.sock.close()
    assert busy.getresponse().read() == b"slow"
    busy.close()
    assert worker.wait() == 0
