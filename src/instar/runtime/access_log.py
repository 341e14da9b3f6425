"""One line on standard output for each request (`web.access_log`): who, what, answer, size, seconds."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal
from urllib.parse import quote

from instar.runtime.drain_asgi import AsgiApp, Message, Receive, Scope, Send
from instar.runtime.drain_wsgi import Environ, Headers, StartResponse, WsgiApp

Style = Literal["text", "json"]


class AccessLog:
    """Writes the lines. Each is one `write`, so that lines of threads don't mix."""

    def __init__(self, style: str, write: Callable[[str], object] | None = None) -> None:
        self._json = style == "json"
        self._write = write or _to_stdout

    def line(self, client: str, method: str, target: str, protocol: str, status: int, size: int, since: float) -> None:
        """One finished request. `target` is quoted: a client must not be able to forge lines."""
        seconds = round(time.perf_counter() - since, 6)
        target = quote(target, safe="/?&=%:;,+@!$'()*~[]#-._", encoding="latin-1", errors="replace")
        if self._json:
            fields = {"client": client, "method": method, "target": target, "protocol": protocol, "status": status}
            self._write(json.dumps({"event": "access", **fields, "bytes": size, "seconds": seconds}) + "\n")
        else:
            self._write(f'{client or "unix"} "{method} {target} {protocol}" {status or "-"} {size} {seconds:.4f}\n')


def _to_stdout(line: str) -> None:
    sys.stdout.write(line)
    sys.stdout.flush()


class AccessLogWsgi:
    """Logs when the body is closed, or at once when it is a list."""

    def __init__(self, app: WsgiApp, log: AccessLog) -> None:
        self._app = app
        self._log = log

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """One request."""
        since, status = time.perf_counter(), 0

        def start(line: str, headers: Headers, *exc_info: Any) -> Any:
            nonlocal status
            status = int(line[:3])
            return start_response(line, headers, *exc_info)

        # The application may change its environ.
        query = environ.get("QUERY_STRING", "")
        target = environ.get("SCRIPT_NAME", "") + environ.get("PATH_INFO", "") + (f"?{query}" if query else "")
        client, method = environ.get("REMOTE_ADDR", ""), environ.get("REQUEST_METHOD", "")
        protocol = environ.get("SERVER_PROTOCOL", "")

        def finish(size: int) -> None:
            self._log.line(client, method, target, protocol, status, size, since)

        try:
            body = self._app(environ, start)
        except BaseException:
            status = 500
            finish(0)
            raise
        if type(body) is list:
            finish(sum(map(len, body)))
            return body
        wrapper = environ.get("wsgi.file_wrapper")
        if isinstance(wrapper, type) and isinstance(body, wrapper):
            # The server's own way of sending files needs the very object.
            finish(0)
            return body
        return _Counted(body, finish)


class _Counted:
    """Counts what the server takes."""

    def __init__(self, body: Iterable[bytes], finish: Callable[[int], None]) -> None:
        self._body = body
        self._finish: Callable[[int], None] | None = finish
        self._size = 0

    def __iter__(self) -> Iterator[bytes]:
        for piece in self._body:
            self._size += len(piece)
            yield piece

    def close(self) -> None:
        """Called by the server in any case (PEP 3333)."""
        try:
            close = getattr(self._body, "close", None)
            if close is not None:
                close()
        finally:
            finish, self._finish = self._finish, None
            if finish is not None:
                finish(self._size)


class AccessLogAsgi:
    """Logs when the application returns. A WebSocket counts as 101."""

    def __init__(self, app: AsgiApp, log: AccessLog) -> None:
        self._app = app
        self._log = log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One connection scope."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        since, status, size = time.perf_counter(), 0, 0

        async def counting_send(message: Message) -> None:
            nonlocal status, size
            kind = message["type"]
            if kind == "http.response.start":
                status = message["status"]
            elif kind == "http.response.body":
                size += len(message.get("body", b""))
            elif kind == "websocket.accept":
                status = 101
            await send(message)

        try:
            await self._app(scope, receive, counting_send)
        except Exception:
            status = status or 500
            raise
        finally:
            query = scope.get("query_string", b"").decode("latin-1")
            target = scope["path"].encode().decode("latin-1") + (f"?{query}" if query else "")
            client = scope["client"][0] if scope.get("client") else ""
            protocol = f"HTTP/{scope.get('http_version', '1.1')}"
            self._log.line(client, scope.get("method", "GET"), target, protocol, status, size, since)
