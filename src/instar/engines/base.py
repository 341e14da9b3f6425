"""What a worker asks of an engine: serve one application on inherited sockets until told to stop.

An engine is a module with `preload(options)` (called in the zygote, before the fork: import the server,
start no thread) and `serve(job) -> int` (called in the worker's main thread; returns the exit code after a
graceful SIGTERM). Engines know nothing of generations: the application that they get is already wrapped.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable, Callable
from typing import Any, Literal, Protocol

Interface = Literal["wsgi", "asgi"]


@dataclasses.dataclass(frozen=True)
class ListenSocket:
    """A listening socket that the worker inherited. The engine may listen again only with `backlog`."""

    fd: int
    family: Literal["tcp", "unix"]
    #: As in the configuration, for messages.
    address: str
    #: What its clients speak. Engines get only HTTP sockets, unless they say otherwise.
    protocol: Literal["http", "uwsgi"] = "http"


@dataclasses.dataclass(frozen=True)
class EngineOptions:
    """Settings that every engine maps onto its own; times in seconds."""

    threads: int = 1
    keep_alive: float = 30.0
    backlog: int = 2048
    tls_cert: str | None = None
    tls_key: str | None = None
    tls_key_password: str | None = None
    http: Literal["auto", "1", "2"] = "auto"
    websockets: bool = True
    root_path: str = ""
    #: gunicorn: worker class (`gthread`, `sync`, `asgi`).
    worker_class: str | None = None
    #: `command`: argv of a server; `{fd}` is replaced, LISTEN_FDS is set.
    command: tuple[str, ...] = ()
    log_level: str = "warning"
    #: `[web.uwsgi]`, for sockets of that protocol: largest head in bytes, seconds, peers let in.
    uwsgi_buffer_size: int = 65535
    uwsgi_timeout: float = 4.0
    uwsgi_allow: tuple[str, ...] = ()


class Gate(Protocol):
    """Opens when the worker may accept. With steered sockets it is open from the start."""

    def wait(self) -> None:
        """Block the thread until it opens."""

    def wait_async(self) -> Awaitable[None]:
        """The same for an event loop."""


@dataclasses.dataclass(frozen=True)
class ServeJob:
    """One call of `serve`."""

    app: Any
    interface: Interface
    sockets: tuple[ListenSocket, ...]
    options: EngineOptions
    #: From 1, unique within the generation.
    worker_id: int
    #: Call once when the application has started (ASGI lifespan complete) and requests can be answered.
    ready: Callable[[], None]
    gate: Gate
    #: True when the next response must close its connection (for engines that drop the application's header).
    must_close: Callable[[], bool]
    #: `app` for sockets of the uwsgi protocol, whose connections end with their response; None: the same.
    uwsgi_app: Any = None
    #: Whether other processes serve the same application.
    multiprocess: bool = True


class Engine(Protocol):
    """The functions of an engine's module."""

    def preload(self, options: EngineOptions) -> None:
        """Import the server before the fork. Raises InstarError when it is missing or unsupported."""

    def serve(self, job: ServeJob) -> int:
        """Serve until SIGTERM; the exit code. Call it in the main thread of the worker process."""
