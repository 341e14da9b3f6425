"""gunicorn: its worker classes without its arbiter, which the zygote replaces."""

from __future__ import annotations

import importlib
import math
import os
import signal
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
    application = _application(job, name)
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
    return 0


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

        def _leave(self) -> None:
            """Also close idle connections, which the worker would otherwise wait for."""
            self.alive = False
            for connection in connections:
                if getattr(connection, "_awaiting_request", connection._keepalive_handle is not None):
                    connection._keepalive_timeout()

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


def _application(job: ServeJob, worker_class: str) -> Any:
    from gunicorn.app.base import BaseApplication

    app = _gated_lifespan(job) if job.interface == "asgi" else job.app

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


def _gated_lifespan(job: ServeJob) -> Any:
    """The application; ready when its startup is complete, which the server hears when the gate is open."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "lifespan":
            await job.app(scope, receive, send)
            return
        passed = False

        async def gated_send(message: Any) -> None:
            nonlocal passed
            if message["type"] == "lifespan.startup.failed":
                passed = True
            if not passed:
                passed = True
                job.ready()
                await job.gate.wait_async()
            await send(message)

        try:
            await job.app(scope, receive, gated_send)
        finally:
            # An application without lifespan raises or returns at once: the server goes on without it.
            if not passed:
                job.ready()
                await job.gate.wait_async()

    return app
