"""Runs an engine in a forked child, as a worker would, without zygote and supervisor."""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import os
import select
import signal
import socket
import ssl
import time
import traceback
from pathlib import Path
from typing import Any

from instar import engines
from instar.engines.base import EngineOptions, ListenSocket, ServeJob
from instar.runtime import current
from instar.runtime.drain import DrainState
from instar.runtime.linger import Linger
from instar.runtime.middleware import wrap
from instar.runtime.quiesce import quiesce
from instar.runtime.scoreboard import Column, Drain, Scoreboard, State
from instar.runtime.spec import GenerationSpec, ListenerSpec

NONCE = "7f3a-secret"


class OpenGate:
    def wait(self):
        pass

    async def wait_async(self):
        pass


def listen_tcp(host: str = "127.0.0.1") -> socket.socket:
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.bind((host, 0))
    sock.listen(512)
    return sock


def listen_unix(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(str(path))
    sock.listen(512)
    return sock


@dataclasses.dataclass
class Running:
    """One worker process."""

    pid: int
    board: Scoreboard
    row: int
    sockets: tuple[socket.socket, ...]
    output: Path
    tls: ssl.SSLContext | None = None
    status: int | None = None

    def get_state(self, column: Column) -> int:
        return self.board.get(self.row, column)

    def drain(self, level: Drain) -> None:
        self.board.drain = level

    def signal(self, signum: int) -> None:
        os.kill(self.pid, signum)

    def poll(self) -> int | None:
        if self.status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.status = os.waitstatus_to_exitcode(status)
        return self.status

    def wait(self, timeout: float = 10) -> int:
        until(lambda: self.poll() is not None, timeout, "the worker did not leave")
        assert self.status is not None
        return self.status

    def stop(self, timeout: float = 10) -> int:
        self.signal(signal.SIGTERM)
        return self.wait(timeout)

    def connect(self, index: int = 0, alpn: str = "http/1.1") -> socket.socket:
        listener = self.sockets[index]
        sock = socket.socket(listener.family)
        sock.settimeout(10)
        sock.connect(listener.getsockname())
        if self.tls is not None:
            self.tls.set_alpn_protocols([alpn])
            sock = self.tls.wrap_socket(sock, server_hostname="localhost")
        return sock

    def http(self, index: int = 0) -> http.client.HTTPConnection:
        connection = http.client.HTTPConnection("localhost", timeout=10)
        connection.sock = self.connect(index)
        return connection

    def get(self, path: str, headers: dict[str, str] | None = None, index: int = 0) -> tuple[int, dict, bytes]:
        connection = self.http(index)
        try:
            return request(connection, "GET", path, headers=headers or {})
        finally:
            connection.close()

    def cpu(self) -> float:
        fields = Path(f"/proc/{self.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def request(connection: http.client.HTTPConnection, method: str, path: str, **kwargs: Any) -> tuple[int, dict, bytes]:
    connection.request(method, path, **kwargs)
    response = connection.getresponse()
    body = response.read()
    return response.status, {k.lower(): v for k, v in response.getheaders()}, body


def until(condition, timeout: float = 5, what: str = "condition did not become true") -> None:
    end = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(what)
        time.sleep(0.01)


def start(
    engine: str,
    interface: str,
    app: Any,
    sockets: tuple[socket.socket, ...],
    output: Path,
    *,
    board: Scoreboard | None = None,
    row: int = 0,
    options: EngineOptions | None = None,
    tls: ssl.SSLContext | None = None,
    gate: Any = None,
    wait_ready: bool = True,
    **spec_fields: Any,
) -> Running:
    options = options or EngineOptions(threads=4)
    board = board or Scoreboard.create(4)
    listening = tuple(
        ListenSocket(s.fileno(), "unix" if s.family == socket.AF_UNIX else "tcp", str(s.getsockname())) for s in sockets
    )
    spec = _spec(engine, interface, options, listening, board, spec_fields)
    board.clear(row)
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            fd = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(fd, 1)
            os.dup2(fd, 2)
            code = _child(engine, interface, app, listening, spec, board, row, gate or OpenGate())
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else 0
        except BaseException:
            traceback.print_exc()
        finally:
            with contextlib.suppress(BaseException):
                import sys

                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)
    running = Running(pid, board, row, sockets, output, tls)
    if wait_ready:
        until(lambda: running.get_state(Column.STATE) == State.READY or running.poll() is not None, 15)
        assert running.poll() is None, output.read_text()
    return running


def _spec(engine, interface, options, listening, board, fields) -> GenerationSpec:
    base = {
        "generation": 3,
        "app_name": "main",
        "target": "x:y",
        "factory": False,
        "interface": interface,
        "chdir": "/",
        "pythonpath": (),
        "slot": "a",
        "workers": 2,
        "engine": engine,
        "options": options,
        "listeners": tuple(ListenerSpec(s.address, s.family, (s.fd,)) for s in listening),
        "control_fd": -1,
        "scoreboard_fd": board.fd,
        "output_dir": "/",
        "nonce": NONCE,
    }
    return GenerationSpec(**{**base, **fields})


def _child(engine, interface, app, listening, spec, board, row, gate) -> int:
    state = DrainState(board, row)
    linger = Linger(listening)
    signal.signal(signal.SIGUSR1, lambda *_: linger.hold())
    signal.signal(signal.SIGUSR2, lambda *_: quiesce(listening))
    current.set_worker("main.a.1", 1, spec.generation, state)
    wrapped = wrap(app, interface, spec, board, row, state)
    job = ServeJob(
        app=wrapped,
        interface=interface,
        sockets=listening,
        options=spec.options,
        worker_id=1,
        ready=lambda: board.set(row, Column.STATE, State.READY),
        gate=gate,
        must_close=lambda: state.closing,
    )
    code = engines.get(engine).serve(job)
    linger.release()
    return code


def readable(sock: socket.socket, timeout: float) -> bool:
    return bool(select.select([sock], [], [], timeout)[0])
