"""Draining for servers that run as a plain command (`web.engine = "command"`).

Wrap the application where it is created:

    from instar import middleware
    app = middleware.asgi(app)      # or middleware.wsgi(app)

Outside instar both return the application unchanged. One process per worker: the counters of a command that
forks several serving processes are only approximately right.
"""

from __future__ import annotations

import functools
from typing import TypeVar

from instar.runtime.attach import Attachment, attach
from instar.runtime.drain_asgi import AsgiApp, DrainAsgi, Receive, Scope, Send
from instar.runtime.drain_wsgi import DrainWsgi

App = TypeVar("App")


@functools.lru_cache(maxsize=1)
def _attachment() -> Attachment | None:
    return attach()


def wsgi(app: App) -> App | DrainWsgi:
    """The WSGI application with draining; unchanged outside instar."""
    found = _attachment()
    return app if found is None else DrainWsgi(app, found.state, found.probe)  # type: ignore[arg-type]


def asgi(app: App) -> App | AsgiApp:
    """The ASGI application with draining; unchanged outside instar."""
    found = _attachment()
    if found is None:
        return app
    drained = DrainAsgi(app, found.state, found.probe)  # type: ignore[arg-type]

    # Servers tell ASGI 3 from ASGI 2 by whether this is a coroutine function.
    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        await drained(scope, receive, send)

    return application
