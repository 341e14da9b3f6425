"""Any server as a command, draining through `instar.middleware`."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import engine_harness as harness
import pytest
from engine_harness import NONCE, until

from instar import engines, middleware
from instar.engines import command
from instar.engines.base import EngineOptions
from instar.errors import ConfigError
from instar.runtime import attach
from instar.runtime.scoreboard import Column, Drain, Scoreboard

SERVER = (sys.executable, str(Path(__file__).parent / "served.py"))


@pytest.fixture(params=[("{fd}", "{fds}", "{else}"), ()], ids=["placeholders", "LISTEN_FDS"])
def running(request, start, monkeypatch):
    board = Scoreboard.create(4)
    options = EngineOptions(command=SERVER + request.param)
    monkeypatch.setenv("LISTEN_FDS", "9")
    socks = (harness.listen_tcp(), harness.listen_tcp())
    listening = ()
    spec = harness._spec("command", "wsgi", options, listening, board, {})
    for name, value in attach.environment(spec, board, 1).items():
        monkeypatch.setenv(name, value)
    os.set_inheritable(board.fd, False)
    return start("command", "wsgi", None, socks=socks, options=options, board=board, row=1)


def test_runs_drains_and_answers_probes(running):
    status, headers, body = running.get("/")
    found = json.loads(body)
    assert status == 200
    if found["argv"]:
        assert found["argv"] == ["3", "3,4", "{else}"]
        assert found["listen"] == [None, None]
    else:
        assert found["listen"] == [str(running.pid), "2"]
    assert (found["pid"], found["worker"], found["secret"]) == (running.pid, ["main.a.2", 2, 3], [])
    assert running.get_state(Column.REQUESTS) == 1
    # Standard streams, two listeners, one scoreboard, and what the server opened itself; nothing of the worker's.
    assert len(found["open"]) <= 10
    assert headers.get("connection") != "close"
    _, headers, _ = running.get("/", {"X-Instar-Probe": NONCE})
    assert (headers["x-instar-generation"], headers["x-instar-worker"]) == ("3", "1")
    running.drain(Drain.CLOSE)
    # This server refuses the application's Connection header, and closes by itself.
    assert running.get("/")[0] == 200
    # The worker's own signals do not kill it.
    running.signal(signal.SIGUSR1)
    running.signal(signal.SIGUSR2)
    assert running.get("/")[0] == 200
    until(lambda: running.get_state(Column.IN_FLIGHT) == 0)
    running.signal(signal.SIGTERM)
    assert running.wait() == -signal.SIGTERM


def test_bad_commands_are_told():
    with pytest.raises(ConfigError, match=r"web\.command is empty"):
        command.preload(EngineOptions())
    with pytest.raises(ConfigError, match="no such program"):
        command.preload(EngineOptions(command=("surely-no-such-server",)))


def test_outside_instar_the_middleware_does_nothing(monkeypatch):
    monkeypatch.delenv("INSTAR_SCOREBOARD_FD", raising=False)
    middleware._attachment.cache_clear()
    app = object()
    assert middleware.wsgi(app) is app
    assert middleware.asgi(app) is app
    middleware._attachment.cache_clear()


def test_unknown_engine():
    with pytest.raises(ConfigError, match="choose one of granian, uvicorn, gunicorn, uwsgi, command"):
        engines.get("apache")
