"""uvicorn: its server on our sockets, ready after the lifespan, listening when the gate opens."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
import signal
import socket
from collections.abc import Iterator, Sequence
from typing import Any

from instar.engines.base import EngineOptions, ServeJob
from instar.engines.versions import require
from instar.errors import ConfigError

AT_LEAST = (0, 51)
BELOW = (0, 60)

_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def preload(options: EngineOptions) -> None:
    """Import uvicorn and what it picks at start."""
    require("uvicorn", AT_LEAST, BELOW)
    if options.http == "2":
        raise ConfigError("cannot serve only HTTP/2 with uvicorn: it speaks HTTP/1; set web.http = 'auto'")
    import uvicorn.lifespan.off
    import uvicorn.lifespan.on
    import uvicorn.protocols.http.auto
    import uvicorn.protocols.websockets.auto  # noqa: F401

    for optional in ("uvloop", "httptools", "a2wsgi"):
        if importlib.util.find_spec(optional):
            importlib.import_module(optional)


def serve(job: ServeJob) -> int:
    """Serve until SIGTERM."""
    preload(job.options)
    server = _server_class()(_config(job), job)
    # `fileno=` lets Python find out the protocol, so that asyncio sets TCP_NODELAY; `fromfd` would not.
    server.run(sockets=[socket.socket(fileno=os.dup(item.fd)) for item in job.sockets])
    return 0 if server.started else 3


def _config(job: ServeJob) -> Any:
    import uvicorn

    options = job.options
    wsgi = job.interface == "wsgi"
    return uvicorn.Config(
        _as_asgi(job.app, options.threads) if wsgi else job.app,
        interface="asgi3",
        lifespan="off" if wsgi else "auto",
        log_config=None,
        log_level=options.log_level,
        access_log=False,
        backlog=options.backlog,
        timeout_keep_alive=max(1, round(options.keep_alive)),
        # Our middleware has dealt with proxies.
        proxy_headers=False,
        ws="auto" if options.websockets and not wsgi else "none",
        ssl_certfile=options.tls_cert,
        ssl_keyfile=options.tls_key,
        ssl_keyfile_password=options.tls_key_password,
    )


def _as_asgi(app: Any, threads: int) -> Any:
    # Adapters turn `X_Forwarded_For` into the same variable as the header that a proxy set: drop such names.
    module = "a2wsgi" if importlib.util.find_spec("a2wsgi") else "uvicorn.middleware.wsgi"
    adapted = importlib.import_module(module).WSGIMiddleware(app, workers=max(1, threads))

    async def without_underscores(scope: Any, receive: Any, send: Any) -> None:
        if any(b"_" in name for name, _ in scope["headers"]):
            scope = {**scope, "headers": [item for item in scope["headers"] if b"_" not in item[0]]}
        await adapted(scope, receive, send)

    return without_underscores


def _server_class() -> Any:
    import uvicorn

    class GatedServer(uvicorn.Server):
        """Tells when it is ready, and waits for the gate before it listens."""

        def __init__(self, config: uvicorn.Config, job: ServeJob) -> None:
            super().__init__(config)
            self._job = job

        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:
            """Without uvicorn's end: it would raise SIGTERM once more, and kill the worker."""
            for signum in _STOP_SIGNALS:
                signal.signal(signum, self.handle_exit)
            yield

        async def startup(self, sockets: Sequence[socket.socket] | None = None) -> None:
            """Lifespan, ready, gate, listen."""
            lifespan_startup = self.lifespan.startup

            async def startup() -> None:
                await lifespan_startup()
                if not self.lifespan.should_exit:
                    self._job.ready()
                    await self._pass_gate()

            self.lifespan.startup = startup
            await super().startup(sockets=list(sockets or ()))

        async def _pass_gate(self) -> None:
            gate = asyncio.ensure_future(self._job.gate.wait_async())
            while not gate.done():
                await asyncio.wait((gate,), timeout=0.1)
                if self.should_exit:
                    gate.cancel()
                    await self.lifespan.shutdown()
                    raise SystemExit(0)
            await gate

    return GatedServer
