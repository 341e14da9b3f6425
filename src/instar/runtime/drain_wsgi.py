"""Draining and accounting for WSGI applications (PEP 3333)."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, cast

from instar.runtime.drain import DrainState
from instar.runtime.probe import HEADER_WSGI, Probe
from instar.runtime.scoreboard import Column, Drain

Environ = dict[str, Any]
StartResponse = Callable[..., Any]
WsgiApp = Callable[[Environ, StartResponse], Iterable[bytes]]
Headers = list[tuple[str, str]]

_CLOSE = [("Connection", "close")]


class DrainWsgi:
    """Counts requests and, while draining, closes each HTTP/1 connection with its response.

    Create it in the worker, after the fork: it owns a lock. A `list` that the application returns stays the
    same list, since servers have a fast path for it.
    """

    def __init__(self, app: WsgiApp, state: DrainState, probe: Probe | None = None) -> None:
        self._app = app
        self._probe = probe
        self.state = state
        self._words = state.words
        self._header = state.header
        self._drain = state.drain_word
        self._running = state.running
        # `words[i] += 1` is three steps; threads of the server would lose counts between them.
        self._lock = threading.Lock()
        self._in_flight = state.index(Column.IN_FLIGHT)
        self._requests = state.index(Column.REQUESTS)
        self._errors = state.index(Column.ERRORS)
        self._http2 = state.index(Column.HTTP2)
        self._long_lived = state.index(Column.LONG_LIVED)
        self._serial = 0

    def single(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """One request of a protocol whose connections end with it, whatever the proxy's client speaks."""
        return self(environ, start_response, single=True)

    def __call__(self, environ: Environ, start_response: StartResponse, *, single: bool = False) -> Iterable[bytes]:
        """One request. `single`: its connection closes in any case."""
        if HEADER_WSGI in environ:
            nonce = environ.pop(HEADER_WSGI)
            if self._probe is not None and self._probe.accepts(nonce):
                return self._app(environ, _with_headers(start_response, self._probe.headers()))
        words = self._words
        http1 = single or not environ.get("SERVER_PROTOCOL", "HTTP/1.1").startswith("HTTP/2")
        with self._lock:
            self._serial = serial = self._serial + 1
            self._running[serial] = time.monotonic_ns()
            words[self._in_flight] += 1
            words[self._requests] += 1
            if not http1:
                words[self._http2] += 1
        body: _Body | None = None
        failed = stream = False

        def start(status: str, headers: Headers, exc_info: Any = None) -> Any:
            nonlocal failed, stream
            if status[0] == "5":
                failed = True
            stream = _is_event_stream(headers)
            if body is not None:
                body.started(failed, stream)
            if http1 and not single and (self._header[0] or words[self._drain]):
                return _start_closing(start_response, status, headers, exc_info)
            return start_response(status, headers, exc_info) if exc_info else start_response(status, headers)

        try:
            result: Any = self._app(environ, start)
        except BaseException:
            self._finish(serial, True)
            raise
        if single and type(result) is bytes:
            # The real uWSGI takes it as it is.
            result = [result]
        if type(result) is list or type(result) is tuple:
            self._finish(serial, failed)
            return cast(Iterable[bytes], result)
        body = _Body(self, serial, result)
        body.started(failed, stream)
        wrapper = environ.get("wsgi.file_wrapper")
        if isinstance(wrapper, type) and isinstance(result, wrapper) and body.adopt(result):
            return cast(Iterable[bytes], result)
        return body

    def _finish(self, serial: int, failed: bool, stream: bool = False) -> None:
        words = self._words
        with self._lock:
            self._running.pop(serial, None)
            words[self._in_flight] -= 1
            if failed:
                words[self._errors] += 1
            if stream:
                words[self._long_lived] -= 1

    def _becomes_stream(self, serial: int) -> None:
        with self._lock:
            # A stream may run for days: it must not look like a stuck request.
            self._running.pop(serial, None)
            self._words[self._long_lived] += 1

    @property
    def _ending(self) -> bool:
        return self._header[0] >= Drain.END_STREAMS or self._words[self._drain] >= Drain.END_STREAMS


class _Body:
    """The application's iterable, watched until the server closes it. One server thread at a time uses it."""

    __slots__ = ("_done", "_failed", "_inner", "_next", "_owner", "_serial", "_stream")

    def __init__(self, owner: DrainWsgi, serial: int, inner: Iterable[bytes]) -> None:
        self._owner = owner
        self._serial = serial
        self._inner = inner
        self._next: Callable[[], bytes] | None = None
        self._failed = self._stream = self._done = False

    def started(self, failed: bool, stream: bool) -> None:
        """The application called `start_response`, perhaps only now, while it is iterated."""
        self._failed = failed
        if stream and not self._stream:
            self._stream = True
            self._owner._becomes_stream(self._serial)

    def adopt(self, result: Any) -> bool:
        """Let the server's own file wrapper through untouched, but hear of its end. False if that can't be."""
        close = getattr(result, "close", None)

        def closed() -> None:
            try:
                if close is not None:
                    close()
            finally:
                self._end()

        try:
            result.close = closed
        except AttributeError:
            return False
        return True

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        try:
            if self._next is None:
                self._next = iter(self._inner).__next__
            # The server turns the end of the iteration into a proper last chunk.
            if self._stream and self._owner._ending:
                raise StopIteration
            return self._next()
        except StopIteration:
            raise
        except BaseException:
            self._failed = True
            self._end()
            raise

    def close(self) -> None:
        """Called by the server in any case (PEP 3333), also when the client has gone."""
        try:
            close = getattr(self._inner, "close", None)
            if close is not None:
                close()
        except BaseException:
            self._failed = True
            raise
        finally:
            self._end()

    def __del__(self) -> None:
        # A server that forgets `close` must not leave a request in flight for ever.
        self._end()

    def _end(self) -> None:
        if not self._done:
            self._done = True
            self._owner._finish(self._serial, self._failed, self._stream)


def _start_closing(start_response: StartResponse, status: str, headers: Headers, exc_info: Any) -> Any:
    closing = [item for item in headers if item[0].lower() != "connection"] + _CLOSE
    try:
        return start_response(status, closing, exc_info) if exc_info else start_response(status, closing)
    except AssertionError:
        # PEP 3333 forbids hop-by-hop headers; wsgiref and waitress insist. Their connections end by themselves.
        return start_response(status, headers, exc_info or sys.exc_info())


def _is_event_stream(headers: Headers) -> bool:
    for name, value in headers:
        if len(name) == 12 and name.lower() == "content-type":
            return value.startswith("text/event-stream")
    return False


def _with_headers(start_response: StartResponse, extra: Headers) -> StartResponse:
    def start(status: str, headers: Headers, *exc_info: Any) -> Any:
        return start_response(status, headers + extra, *exc_info)

    return start
