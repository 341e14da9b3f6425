"""The uwsgi protocol, for WSGI applications behind a proxy that speaks it (`uwsgi_pass` of nginx).

An engine like the others for workers that have only such sockets; `Server` runs beside another engine in workers
that have HTTP sockets as well (`instar.engines.composite`).
"""

from __future__ import annotations

import signal

from instar.engines.base import EngineOptions, ServeJob
from instar.engines.main_thread import MainThreadEvent
from instar.engines.uwsgi_protocol.server import Server
from instar.errors import ConfigError

__all__ = ["Server", "preload", "require_wsgi", "serve"]

_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def preload(options: EngineOptions) -> None:
    """Nothing more to import."""


def serve(job: ServeJob) -> int:
    """Serve until SIGTERM."""
    require_wsgi(job)
    server, stop, serving = Server(job, job.sockets), MainThreadEvent(), False

    def on_signal(*_: object) -> None:
        if not serving:
            # Also out of the gate.
            raise SystemExit(0)
        stop.set()

    for signum in _STOP_SIGNALS:
        signal.signal(signum, on_signal)
    job.ready()
    job.gate.wait()
    serving = True
    server.start()
    stop.wait()
    server.stop()
    server.join()
    return 0


def require_wsgi(job: ServeJob) -> None:
    """Raise ConfigError for an ASGI application."""
    if job.interface != "wsgi":
        first = next(item.address for item in job.sockets if item.protocol == "uwsgi")
        raise ConfigError(
            f"cannot serve an ASGI application on {first}: the uwsgi protocol can't carry ASGI; "
            "use an HTTP bind, and proxy_pass in nginx"
        )
