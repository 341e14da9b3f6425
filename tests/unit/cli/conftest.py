from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingUnixStreamServer
from typing import Any

import pytest

from instar.cli import main

GENERATION = {
    "number": 3,
    "state": "serving",
    "slot": "b",
    "pid": 4711,
    "release": "/srv/app/releases/7",
    "since": 1_700_000_000.0,
    "workers": [
        {
            "index": 0,
            "name": "main.b.1",
            "pid": 4712,
            "state": "ready",
            "requests": 1234,
            "errors": 1,
            "in_flight": 2,
            "connections": 5,
            "memory": 52_400_000,
            "restarts": 0,
        }
    ],
}


class FakeSupervisor:
    """The control API over a real UNIX socket, with canned answers."""

    def __init__(self, state: Path) -> None:
        self.state = state
        #: Each request as (method, path, body).
        self.requests: list[tuple[str, str, Any]] = []
        self.errors: dict[str, tuple[int, str]] = {}
        self.streams: dict[str, list[dict[str, Any]]] = {}
        self.on_stop: Callable[[], None] = self.close
        self.status: dict[str, Any] = {
            "app": "main",
            "version": "0.1.0",
            "pid": 4710,
            "state": "serving",
            "uptime": 4000.0,
            "config": "/srv/app/instar.toml",
            "generations": [GENERATION],
            "handlers": [],
            "web": {
                "binds": [{"address": "[::]:8080", "mode": "steered"}],
                "engine": "granian",
                "workers": 1,
                "live_generation": 3,
            },
            "services": [],
            "handover": None,
            "notes": ["the folder of the release [can] change in place"],
        }
        self.history: list[dict[str, Any]] = []
        (state / "control").mkdir(parents=True)
        self._server = _Server(str(state / "control/control.sock"), _handler(self))
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def close(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            (self.state / "control/control.sock").unlink()
        self._server.shutdown()
        self._server.server_close()

    def answer(self, method: str, path: str, body: Any) -> dict[str, Any] | list[dict[str, Any]]:
        self.requests.append((method, path, body))
        name = path.partition("?")[0]
        if name in self.streams:
            return self.streams[name]
        if name == "/v1/history":
            return {"entries": self.history}
        if name == "/v1/stop":
            threading.Thread(target=self.on_stop).start()
            return {"ok": True}
        return self.status


class _Server(ThreadingUnixStreamServer):
    daemon_threads = True


def _handler(fake: FakeSupervisor) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            length = int(self.headers.get("content-length") or 0)
            body = json.loads(self.rfile.read(length)) if length else None
            code, error = fake.errors.get(self.path.partition("?")[0], (0, ""))
            answer = {"error": error} if code else fake.answer(self.command, self.path, body)
            if isinstance(answer, list):
                self._stream(answer)
            else:
                self._send(code or 200, json.dumps(answer).encode())

        do_GET = do_POST = handle_any

        def _send(self, code: int, data: bytes) -> None:
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def _stream(self, answers: list[dict[str, Any]]) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "application/x-ndjson")
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for answer in answers:
                line = json.dumps(answer).encode() + b"\n"
                self.wfile.write(b"%x\r\n%s\r\n" % (len(line), line))
            self.wfile.write(b"0\r\n\r\n")

        def address_string(self) -> str:
            return "unix"

        def log_message(self, format: str, *args: Any) -> None:
            pass

    return Handler


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The state directory that every verb finds without options."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "state"
    monkeypatch.setenv("INSTAR_STATE_DIR", str(path))
    monkeypatch.delenv("INSTAR_DEBUG", raising=False)
    return path


@pytest.fixture
def fake(state: Path) -> Iterator[FakeSupervisor]:
    supervisor = FakeSupervisor(state)
    yield supervisor
    supervisor.close()


@pytest.fixture
def process() -> Iterator[subprocess.Popen[bytes]]:
    """Stands for the supervisor's process."""
    with subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE) as child:
        yield child
        child.kill()


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Calls the command line in this process; returns exit code, stdout, stderr."""

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["instar", *arguments])
        with pytest.raises(SystemExit) as stopped:
            main()
        captured = capsys.readouterr()
        return int(stopped.value.code or 0), captured.out, captured.err

    return call
