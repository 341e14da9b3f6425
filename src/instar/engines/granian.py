"""granian: its per-worker objects, driven by our own loop in a process that we forked.

granian's own server class is built around its own processes: it counts their crashes and leaves. The pieces
below it are private, hence the narrow version range and a contract test (tests/integration/engines).
One process may serve several listeners: one worker object and one stop signal for each.
"""

from __future__ import annotations

import asyncio
import functools
import importlib.util
import logging
import os
import signal
import ssl
import threading
from collections.abc import Awaitable, Callable
from typing import Any

from instar.engines.base import EngineOptions, ListenSocket, ServeJob
from instar.engines.main_thread import MainThreadEvent
from instar.engines.versions import require
from instar.errors import ConfigError

AT_LEAST = (2, 8, 7)
BELOW = (2, 9)
#: Exit code when the application's lifespan startup fails.
STARTUP_FAILED = 3

_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
logger = logging.getLogger("instar.engines.granian")


def preload(options: EngineOptions) -> None:
    """Import granian (its Rust part starts no thread)."""
    require("granian", AT_LEAST, BELOW)
    _check_tls(options)
    import granian._futures
    import granian._loops
    import granian.server.mp  # noqa: F401


def serve(job: ServeJob) -> int:
    """Serve until SIGTERM."""
    preload(job.options)
    return _serve_wsgi(job) if job.interface == "wsgi" else _serve_asgi(job)


class _Stop:
    """One stop signal for each listener's worker; `done` is called when all of them have finished."""

    def __init__(self, count: int, done: Callable[[], None]) -> None:
        from granian._granian import WorkerSignal

        self.signals = [WorkerSignal() for _ in range(count)]
        self._left = count
        self._done = done
        self._lock = threading.Lock()
        for item in self.signals:
            item.add_cb(self._finished)

    def set(self) -> None:
        """Ask all to stop."""
        for item in self.signals:
            item.set()

    def _finished(self) -> None:
        # Called by Rust threads.
        with self._lock:
            self._left -= 1
            last = self._left == 0
        if last:
            self._done()


def _serve_wsgi(job: ServeJob) -> int:
    from granian import _loops, wsgi

    finished = MainThreadEvent()
    loop = _loops.loops.get("asyncio")
    callback = wsgi._callback_wrapper(job.app, {"url_path_prefix": None}, None)
    stop: _Stop | None = None

    def on_signal(*_: object) -> None:
        if stop is None:
            raise SystemExit(0)
        stop.set()

    for signum in _STOP_SIGNALS:
        signal.signal(signum, on_signal)
    job.ready()
    job.gate.wait()
    stop = _Stop(len(job.sockets), finished.set)
    for sock, item in zip(job.sockets, stop.signals, strict=True):
        _start(job, sock, loop, callback, item)
    finished.wait()
    return 0


def _serve_asgi(job: ServeJob) -> int:
    from granian import _loops, asgi
    from granian._futures import _future_watcher_wrapper

    loop = _loops.loops.get("auto")
    app = _coroutine_receive(job.app)
    lifespan = asgi.LifespanProtocol(app)
    callback = _future_watcher_wrapper(asgi._callback_wrapper(app, {"url_path_prefix": None}, lifespan.state, None))
    finished, stopping = asyncio.Event(), asyncio.Event()
    stop: _Stop | None = None

    def on_signal() -> None:
        stopping.set()
        if stop is not None:
            stop.set()

    for signum in _STOP_SIGNALS:
        loop.add_signal_handler(signum, on_signal)
    loop.run_until_complete(lifespan.startup())
    if lifespan.interrupt:
        logger.error("cannot start: the application's lifespan startup failed", exc_info=lifespan.exc)
        return STARTUP_FAILED
    job.ready()
    loop.run_until_complete(_first(job.gate.wait_async(), stopping.wait()))
    if not stopping.is_set():
        stop = _Stop(len(job.sockets), lambda: loop.call_soon_threadsafe(finished.set))
        for sock, item in zip(job.sockets, stop.signals, strict=True):
            _start(job, sock, loop, callback, item)
        loop.run_until_complete(finished.wait())
    loop.run_until_complete(lifespan.shutdown())
    return 0


async def _first(*awaitables: Awaitable[Any]) -> None:
    tasks = [asyncio.ensure_future(item) for item in awaitables]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()


def _coroutine_receive(app: Any) -> Any:
    """granian's `receive` returns an awaitable of its own; many libraries pass it to `create_task`."""

    # Not `async def`: it hands the application's own coroutine on, one frame less for each request.
    def adapted(scope: Any, receive: Any, send: Any) -> Any:
        async def receive_coroutine() -> Any:
            return await receive()

        return app(scope, receive_coroutine, send)

    return adapted


def _start(job: ServeJob, sock: ListenSocket, loop: Any, callback: Any, stop: Any) -> None:
    """Start one listener's worker; returns at once."""
    import granian._granian
    from granian._futures import _new_cbscheduler
    from granian.http import HTTP1Settings, HTTP2Settings
    from granian.server.common import WORKERS_METHODS, HTTPModes, RuntimeModes

    # Its type stubs are older than its code.
    rust: Any = granian._granian
    options, unix, asgi = job.options, sock.family == "unix", job.interface == "asgi"
    # granian closes what it is given; the worker keeps its own descriptor.
    holder = rust.SocketHolder(os.dup(sock.fd), unix, options.backlog)
    websockets = (options.websockets and options.http != "2",) if asgi else ()
    worker = (rust.ASGIWorker if asgi else rust.WSGIWorker)(
        job.worker_id,
        (None, holder),
        None,
        1,
        512,
        1 if asgi else max(1, options.threads),
        30,
        # A limit on open connections, idle ones included. What waits beyond it waits in the kernel's backlog.
        max(options.backlog, 64),
        HTTPModes(options.http),
        # Also closes connections that are kept alive and idle.
        HTTP1Settings(header_read_timeout=max(1, round(options.keep_alive * 1000))),
        HTTP2Settings(),
        *websockets,
        None,
        *_tls(options),
        (None, None),
    )
    scheduler = _new_cbscheduler(loop, callback, impl_asyncio=True)
    getattr(worker, WORKERS_METHODS[RuntimeModes.mt][unix])(scheduler, loop, stop)


def _tls(options: EngineOptions) -> tuple[Any, ...]:
    if not options.tls_cert:
        return (False, None, None, None, "tls1.2", None, [], False)
    key = options.tls_key or options.tls_cert
    if options.tls_key_password:
        key = _decrypted(key, options.tls_key_password)
    return (True, options.tls_cert, key, None, "tls1.2", None, [], False)


def _check_tls(options: EngineOptions) -> None:
    """Granian would only panic in one of its threads, and the worker would accept nothing."""
    if not options.tls_cert:
        return
    key = options.tls_key or options.tls_cert
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(options.tls_cert, key, options.tls_key_password or (lambda: ""))
    except OSError as error:
        raise ConfigError(f"cannot use certificate {options.tls_cert} with key {key}: {error}") from None
    if options.tls_key_password and importlib.util.find_spec("cryptography") is None:
        raise ConfigError(
            f"cannot use encrypted key {key}: granian can't decrypt it; pip install cryptography in the "
            "application's environment, or use a key without password"
        )


@functools.lru_cache(maxsize=1)
def _decrypted(key: str, password: str) -> str:
    """Path of the decrypted key, which exists only in this process's memory."""
    from cryptography.hazmat.primitives import serialization as pem

    with open(key, "rb") as file:
        private = pem.load_pem_private_key(file.read(), password.encode())
    fd = os.memfd_create("key", os.MFD_CLOEXEC)
    os.write(fd, private.private_bytes(pem.Encoding.PEM, pem.PrivateFormat.PKCS8, pem.NoEncryption()))
    return f"/proc/self/fd/{fd}"
