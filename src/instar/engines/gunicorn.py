"""gunicorn: its worker classes without its arbiter, which the zygote replaces."""

from __future__ import annotations

import importlib
import logging
import math
import os
import signal
import time
import weakref
from typing import Any

from instar.engines.base import EngineOptions, ServeJob
from instar.engines.versions import require
from instar.errors import ConfigError

AT_LEAST = (26, 1)
BELOW = (28,)
WORKER_CLASSES = {
    "gthread": "gunicorn.workers.gthread:ThreadWorker",
    "sync": "gunicorn.workers.sync:SyncWorker",
    "asgi": "gunicorn.workers.gasgi:ASGIWorker",
}
#: Who stops the worker also decides how long it may take.
_FOR_EVER = 10**6
#: Seconds that idle connections stay open while the worker stops: their next request may be on its way.
_STOP_LINGER = 2.0
#: Exit code when the application's lifespan startup fails.
STARTUP_FAILED = 3

logger = logging.getLogger("instar.engines.gunicorn")


def preload(options: EngineOptions) -> None:
    """Import gunicorn and the worker class."""
    require("gunicorn", AT_LEAST, BELOW)
    import gunicorn.app.base
    import gunicorn.sock  # noqa: F401

    if options.worker_class:
        _worker_class(options.worker_class)


def serve(job: ServeJob) -> int:
    """Serve until SIGTERM."""
    preload(job.options)
    name = job.options.worker_class or ("asgi" if job.interface == "asgi" else "gthread")
    if (name == "asgi") != (job.interface == "asgi"):
        raise ConfigError(
            f"cannot run a {job.interface.upper()} application in gunicorn's worker class {name!r}: "
            "use 'asgi' for ASGI, 'gthread' or 'sync' for WSGI"
        )
    lifespan = _GatedLifespan(job)
    application = _application(job, name, lifespan if job.interface == "asgi" else job.app)
    config = application.cfg
    logger = config.logger_class(config)
    from gunicorn import sock

    worker = _adopted(_worker_class(name), job)(
        job.worker_id, _AnyParent(), sock.create_sockets(config, logger), application, config.timeout, config, logger
    )
    worker.pid = os.getpid()
    try:
        worker.init_process()
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else 0
    return STARTUP_FAILED if lifespan.failed else 0


class _AnyParent(int):
    """A parent pid that always matches: workers compare it to leave with their arbiter, but we outlive the zygote."""

    def __eq__(self, other: object) -> bool:
        return True

    def __ne__(self, other: object) -> bool:
        return False

    __hash__ = int.__hash__


def _worker_class(name: str) -> Any:
    try:
        module, attribute = WORKER_CLASSES[name].split(":")
    except KeyError:
        raise ConfigError(
            f"cannot use gunicorn's worker class {name!r}: choose one of {', '.join(WORKER_CLASSES)}"
        ) from None
    return getattr(importlib.import_module(module), attribute)


def _adopted(base: Any, job: ServeJob) -> Any:
    asgi = job.interface == "asgi"
    connections: Any = _track_connections() if asgi else ()

    class Worker(base):  # type: ignore[misc]
        """gunicorn's worker, minus what ties it to an arbiter."""

        def notify(self) -> None:
            """There is no arbiter that watches the heartbeat file."""

        def init_signals(self) -> None:
            """Only the two stop signals: the others belong to the worker's runtime."""
            if asgi:
                for signum in (signal.SIGTERM, signal.SIGINT):
                    self.loop.add_signal_handler(signum, self._leave)
                return
            for signum in (signal.SIGTERM, signal.SIGINT):
                signal.signal(signum, self.handle_exit)
                # Requests in progress must not see interrupted system calls.
                signal.siginterrupt(signum, False)
            if job.options.worker_class == "sync":
                # Wakes its `select`.
                signal.set_wakeup_fd(self.PIPE[1], warn_on_full_buffer=False)

        def murder_keepalived(self, *args: Any, **kwargs: Any) -> None:
            """While it stops, 26.1 waits for the keep-alive of idle connections; 27 allows them two seconds."""
            if not self.alive:
                end = time.monotonic() + _STOP_LINGER
                for connection in self.keepalived_conns:
                    connection.timeout = min(connection.timeout, end)
            super().murder_keepalived(*args, **kwargs)

        def wait_for_and_dispatch_events(self, timeout: float) -> None:
            """At most a second: 26.1 waits through its whole stop at once."""
            super().wait_for_and_dispatch_events(min(timeout, 1.0))

        def _leave(self) -> None:
            """Also close idle connections, which the worker would otherwise wait for."""
            self.alive = False
            for connection in connections:
                if getattr(connection, "_awaiting_request", connection._current_request is None):
                    connection._keepalive_timeout()
                    # 26.1 would notice three seconds later.
                    connection._request_ready.set()

    return Worker


def _track_connections() -> weakref.WeakSet[Any]:
    """Every open connection of the ASGI worker, which keeps no list itself."""
    from gunicorn.workers import gasgi

    connections: weakref.WeakSet[Any] = weakref.WeakSet()

    class Connection(gasgi.ASGIProtocol):  # type: ignore[misc]
        """gunicorn's connection, on the list while it lives."""

        def connection_made(self, transport: Any) -> None:
            """It starts."""
            connections.add(self)
            super().connection_made(transport)

    gasgi.ASGIProtocol = Connection
    return connections


def _application(job: ServeJob, worker_class: str, app: Any) -> Any:
    from gunicorn.app.base import BaseApplication

    class Application(BaseApplication):  # type: ignore[misc]
        """Our settings and our application, whatever the environment or a file says."""

        def load_config(self) -> None:
            """Set everything."""
            for key, value in _settings(job, worker_class).items():
                self.cfg.set(key, value)

        def load(self) -> Any:
            """The application."""
            return app

    return Application()


def _settings(job: ServeJob, worker_class: str) -> dict[str, Any]:
    options = job.options

    def close_politely(_worker: Any, request: Any) -> None:
        # gunicorn drops the application's Connection header.
        if job.must_close():
            request.must_close = True

    def started(_worker: Any) -> None:
        if job.interface == "wsgi":
            job.ready()
            job.gate.wait()

    settings: dict[str, Any] = {
        "worker_class": worker_class,
        # gunicorn closes the number that it is given.
        "bind": [f"fd://{os.dup(item.fd)}" for item in job.sockets],
        "backlog": options.backlog,
        "threads": 1 if worker_class != "gthread" else max(1, options.threads),
        "worker_connections": max(options.backlog, 1000),
        "keepalive": max(1, math.ceil(options.keep_alive)),
        "timeout": 0,
        "graceful_timeout": _FOR_EVER,
        "asgi_lifespan": "on",
        "loglevel": options.log_level,
        "pre_request": close_politely,
        "post_worker_init": started,
        # Our middleware has dealt with proxies.
        "forwarded_allow_ips": "",
        "secure_scheme_headers": {},
        "forwarder_headers": "",
        "certfile": options.tls_cert,
        "keyfile": options.tls_key or options.tls_cert,
    }
    if options.tls_cert and options.tls_key_password:
        settings["ssl_context"] = _ssl_context(options)
    if options.http == "2":
        settings["http_protocols"] = "h2"
    return settings


def _ssl_context(options: EngineOptions) -> Any:
    def make(_config: Any, _default: Any) -> Any:
        import ssl

        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(str(options.tls_cert), options.tls_key, options.tls_key_password)
        return context

    return make


class _GatedLifespan:
    """The application; ready when its startup is complete, which the server hears when the gate is open.

    For the server every application has a lifespan: with `asgi_lifespan = "on"` a failed startup ends the
    worker in all versions, and one that knows no lifespan must not.
    """

    def __init__(self, job: ServeJob) -> None:
        self._job = job
        self.failed = False

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """One connection scope."""
        if scope["type"] != "lifespan":
            await self._job.app(scope, receive, send)
            return
        started = False

        async def gated_send(message: Any) -> None:
            nonlocal started
            if message["type"] == "lifespan.startup.failed":
                self.failed = started = True
                logger.error("cannot start: the application's lifespan startup failed: %s", message.get("message"))
            elif not started:
                started = True
                await self._pass_gate()
            await send(message)

        try:
            await self._job.app(scope, receive, gated_send)
        except Exception:
            if started:
                raise
        if not started:
            await self._pass_gate()
            await send({"type": "lifespan.startup.complete"})
            while (await receive())["type"] != "lifespan.shutdown":
                pass
            await send({"type": "lifespan.shutdown.complete"})

    async def _pass_gate(self) -> None:
        self._job.ready()
        await self._job.gate.wait_async()
