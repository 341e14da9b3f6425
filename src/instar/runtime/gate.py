"""Holds workers on *shared* sockets back until cut-over, after a probe inside the process."""

from __future__ import annotations

import asyncio
import io
import os
from collections.abc import Callable
from typing import Any

from instar.engines.base import Interface


class WorkerGate:
    """Opens when the write end of a pipe is closed; with no pipe it is open.

    A closed gate first probes the application (a server on a shared socket can't be reached from outside before
    clients reach it) and then reports the worker ready.
    """

    def __init__(self, fd: int | None, app: Any, interface: Interface, path: str, ready: Callable[[], None]) -> None:
        self._fd = fd
        self._app = app
        self._interface = interface
        self._path = path
        self._ready = ready

    def wait(self) -> None:
        """Block the thread until it opens. Raises RuntimeError when the probe fails."""
        if self._fd is None:
            return
        if self._path and self._interface == "wsgi":
            check_status(probe_wsgi(self._app, self._path), self._path)
        self._ready()
        os.read(self._fd, 1)

    async def wait_async(self) -> None:
        """The same for an event loop."""
        if self._fd is None:
            return
        if self._path and self._interface == "asgi":
            check_status(await probe_asgi(self._app, self._path), self._path)
        elif self._path:
            check_status(probe_wsgi(self._app, self._path), self._path)
        self._ready()
        await asyncio.get_running_loop().run_in_executor(None, os.read, self._fd, 1)


def check_status(status: int, path: str) -> None:
    """Raise RuntimeError unless the application answered with success."""
    if not 200 <= status < 400:
        raise RuntimeError(f"the probe of {path} was answered with status {status}")


def probe_wsgi(app: Any, path: str) -> int:
    """Status of a GET of `path` (PEP 3333)."""
    statuses: list[int] = []
    environ = {
        "REQUEST_METHOD": "GET",
        "SCRIPT_NAME": "",
        "PATH_INFO": path,
        "QUERY_STRING": "",
        "SERVER_NAME": "localhost",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "HTTP_HOST": "localhost",
        "REMOTE_ADDR": "127.0.0.1",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(),
        "wsgi.errors": io.StringIO(),
        "wsgi.multithread": True,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
    }

    def start(status: str, headers: Any, exc_info: Any = None) -> Callable[[bytes], None]:
        statuses.append(int(status.split(" ", 1)[0]))
        return lambda _: None

    body = app(environ, start)
    try:
        for _ in body:
            pass
    finally:
        if hasattr(body, "close"):
            body.close()
    return statuses[-1]


async def probe_asgi(app: Any, path: str) -> int:
    """Status of a GET of `path` (ASGI HTTP specification)."""
    statuses: list[int] = []
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(b"host", b"localhost")],
        "client": ("127.0.0.1", 0),
        "server": ("localhost", 80),
        "state": {},
    }

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    await app(scope, receive, send)
    return statuses[-1]
