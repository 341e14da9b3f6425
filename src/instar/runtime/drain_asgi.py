"""Draining and accounting for ASGI applications (ASGI 3.0, HTTP and WebSocket)."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from instar.runtime.drain import POLL, DrainState
from instar.runtime.drain_websocket import WebSocketSession
from instar.runtime.probe import HEADER_BYTES, Probe
from instar.runtime.scoreboard import Column
from instar.runtime.survey import peer

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
AsgiApp = Callable[[Scope, Receive, Send], Awaitable[None]]

_CLOSE = [(b"connection", b"close")]


class LoopWatch:
    """Looks at the drain level from within the event loop, and ends long-lived streams when it is time.

    It is a chain of timers, not a task: servers complain about tasks that are left when the loop stops.
    """

    def __init__(self, state: DrainState) -> None:
        self._state = state
        self._loop: asyncio.AbstractEventLoop | None = None
        self._enders: dict[object, Callable[[], None]] = {}

    def start(self) -> None:
        """Start with the running loop; further calls do nothing."""
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            self._loop = loop
            self._tick()

    def add(self, key: object, end: Callable[[], None]) -> None:
        """Call `end()` once in the loop when streams have to end (soon, if they already have to)."""
        self.start()
        self._enders[key] = end

    def discard(self, key: object) -> None:
        """The stream is over."""
        self._enders.pop(key, None)

    def _tick(self) -> None:
        loop = self._loop
        if loop is None or loop.is_closed():
            return
        self._state.beat_loop()
        self._state.poll()
        if self._enders and self._state.ending:
            enders, self._enders = self._enders, {}
            for end in enders.values():
                end()
        loop.call_later(POLL, self._tick)


class DrainAsgi:
    """Counts requests; while draining, closes HTTP/1 connections with their response and ends long-lived streams."""

    def __init__(self, app: AsgiApp, state: DrainState, probe: Probe | None = None) -> None:
        self._app = app
        self._probe = probe
        self.state = state
        self._watch = LoopWatch(state)
        self._started = False
        self._words = state.words
        self._header = state.header
        self._drain = state.drain_word
        self._running = state.running
        self._in_flight = state.index(Column.IN_FLIGHT)
        self._requests = state.index(Column.REQUESTS)
        self._errors = state.index(Column.ERRORS)
        self._http2 = state.index(Column.HTTP2)
        self._long_lived = state.index(Column.LONG_LIVED)

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """One connection scope; the coroutine that serves it, without one more around it."""
        if not self._started:
            self._started = True
            self._watch.start()
        kind = scope["type"]
        if kind == "http":
            for name, value in scope["headers"]:
                if name == HEADER_BYTES:
                    return self._probed(scope, receive, send, value)
            return self._http(scope, receive, send)
        if kind == "websocket":
            return self._websocket(scope, receive, send)
        return self._app(scope, receive, send)

    async def _probed(self, scope: Scope, receive: Receive, send: Send, nonce: bytes) -> None:
        scope = {**scope, "headers": [item for item in scope["headers"] if item[0] != HEADER_BYTES]}
        if self._probe is None or not self._probe.accepts(nonce.decode("latin-1")):
            await self._http(scope, receive, send)
            return
        extra = self._probe.raw_headers()

        async def send_marked(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", ()), *extra]}
            await send(message)

        await self._app(scope, receive, send_marked)

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        words = self._words
        http1 = scope.get("http_version", "1.1")[0] == "1"
        words[self._in_flight] += 1
        words[self._requests] += 1
        if not http1:
            self._note_http2(scope)
        key = id(scope)
        self._running[key] = time.monotonic_ns()
        failed = gone = False
        stream: _EventStream | None = None

        # `async def`, although the server's awaitable would do: some libraries insist on a coroutine.
        async def watched_send(message: Message) -> None:
            nonlocal failed, gone, stream
            if message["type"] == "http.response.start":
                if message["status"] >= 500:
                    failed = True
                headers = message.get("headers", ())
                if _is_event_stream(headers):
                    self._running.pop(key, None)
                    words[self._long_lived] += 1
                    stream = _EventStream()
                    self._watch.add(key, stream.end)
                if http1 and (self._header[0] or words[self._drain]):
                    kept = [item for item in headers if item[0].lower() != b"connection"]
                    message = {**message, "headers": kept + _CLOSE}
            elif stream is not None and message["type"] == "http.response.body" and not message.get("more_body"):
                stream.complete = True
            try:
                await send(message)
            except Exception:
                gone = True
                raise

        try:
            await self._app(scope, receive, watched_send)
        except asyncio.CancelledError:
            if stream is None or not stream.take_back():
                raise
        except BaseException:
            # An error of the server's `send` means that the client has gone: not the application's fault.
            failed = failed or not gone
            raise
        finally:
            words[self._in_flight] -= 1
            self._running.pop(key, None)
            if failed:
                words[self._errors] += 1
            if stream is not None:
                words[self._long_lived] -= 1
                self._watch.discard(key)
                stream.take_back()
        if stream is not None and stream.ended and not stream.complete:
            # The client has to see a complete response, or EventSource reports an error.
            with contextlib.suppress(Exception):
                await send({"type": "http.response.body", "body": b"", "more_body": False})

    def _note_http2(self, scope: Scope) -> None:
        self._words[self._http2] += 1
        if client := scope.get("client"):
            self.state.http2_peers.add(peer(*client))

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        words = self._words
        words[self._requests] += 1
        words[self._long_lived] += 1
        if scope.get("http_version", "1.1")[0] != "1":
            self._note_http2(scope)
        if any(name == HEADER_BYTES for name, _ in scope["headers"]):
            scope = {**scope, "headers": [item for item in scope["headers"] if item[0] != HEADER_BYTES]}
        session = WebSocketSession(receive, send, lambda: self.state.ending)
        self._watch.add(session, session.end)
        try:
            await session.run(self._app, scope)
        except asyncio.CancelledError:
            raise
        except BaseException:
            if not session.gone:
                words[self._errors] += 1
            raise
        finally:
            words[self._long_lived] -= 1
            self._watch.discard(session)


class _EventStream:
    """Ends an event stream by cancelling the application's task, and tells our cancellation from anybody else's."""

    def __init__(self) -> None:
        self._task = asyncio.current_task()
        self._asked = False
        self.ended = False
        #: The application sent the last chunk itself.
        self.complete = False

    def end(self) -> None:
        """Cancel the application."""
        if self._task is not None and not self.complete:
            self._asked = self.ended = True
            self._task.cancel("instar: the worker is draining")

    def take_back(self) -> bool:
        """Undo our request; True when it was the only one, so that CancelledError may be swallowed."""
        if not self._asked or self._task is None:
            return False
        self._asked = False
        return self._task.uncancel() == 0


def _is_event_stream(headers: Any) -> bool:
    for name, value in headers:
        if len(name) == 12 and name.lower() == b"content-type":
            return bool(value.startswith(b"text/event-stream"))
    return False
