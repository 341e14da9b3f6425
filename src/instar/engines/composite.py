"""One worker with HTTP and uwsgi sockets: an engine in the main thread, the uwsgi protocol's threads beside it."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any, cast

from instar.engines import uwsgi_protocol
from instar.engines.base import Engine, EngineOptions, Gate, ServeJob


@dataclasses.dataclass(frozen=True)
class Composite:
    """An engine for both, made of an engine for HTTP."""

    http: Engine

    def preload(self, options: EngineOptions) -> None:
        """Import the HTTP server."""
        self.http.preload(options)

    def serve(self, job: ServeJob) -> int:
        """Serve until SIGTERM, which the HTTP engine takes: the other side stops when it has stopped."""
        uwsgi_protocol.require_wsgi(job)
        turns = Turns(max(1, job.options.threads))
        limited = dataclasses.replace(job, app=turns.limit(job.app), uwsgi_app=turns.limit(job.uwsgi_app or job.app))
        server = uwsgi_protocol.Server(limited, _speaking("uwsgi", job))
        gate = _Opener(job.gate, server.start)
        try:
            return self.http.serve(dataclasses.replace(limited, sockets=_speaking("http", job), gate=gate))
        finally:
            server.stop()
            server.join()


def _speaking(protocol: str, job: ServeJob) -> tuple[Any, ...]:
    return tuple(item for item in job.sockets if item.protocol == protocol)


class _Opener:
    """The engine's gate; what waits beside the engine starts when it has passed."""

    def __init__(self, gate: Gate, passed: Callable[[], None]) -> None:
        self._gate = gate
        self._passed = passed

    def wait(self) -> None:
        """Block the thread until it opens."""
        self._gate.wait()
        self._passed()

    async def wait_async(self) -> None:
        """The same for an event loop."""
        await self._gate.wait_async()
        self._passed()


class Turns:
    """Lets only so many requests into the application at once, whichever server they come from.

    With one thread an application may rely on being alone.
    """

    def __init__(self, count: int) -> None:
        self._free = threading.Semaphore(count)

    def limit(self, app: Any) -> Any:
        """The application, with the limit around it."""

        def limited(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
            self._free.acquire()
            try:
                result = app(environ, start_response)
            except BaseException:
                self._free.release()
                raise
            # Servers have fast paths for a list, which is complete, …
            if type(result) is list or type(result) is tuple:
                self._free.release()
                return result
            # … and for their own file wrapper, which runs none of the application's code but `close`.
            wrapper = environ.get("wsgi.file_wrapper")
            if isinstance(wrapper, type) and isinstance(result, wrapper):
                self._free.release()
                return cast(Iterable[bytes], result)
            return _Held(result, self._free.release)

        return limited


class _Held:
    """A response that keeps its turn until it is closed."""

    def __init__(self, inner: Iterable[bytes], release: Callable[[], None]) -> None:
        self._inner = inner
        self._release: Callable[[], None] | None = release

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._inner)

    def close(self) -> None:
        """Called by the server in any case (PEP 3333)."""
        try:
            close = getattr(self._inner, "close", None)
            if close is not None:
                close()
        finally:
            self._end()

    def __del__(self) -> None:
        # A server that forgets `close` must not keep a turn for ever.
        self._end()

    def _end(self) -> None:
        release, self._release = self._release, None
        if release is not None:
            release()
