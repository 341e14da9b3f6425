"""The control socket of an instance without application."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import TYPE_CHECKING

from aiohttp import web

from instar.control.answers import body_of, each, errors, number, peers, stream
from instar.errors import ConfigError
from instar.supervisor.logstore import LogStore
from instar.supervisor.statedir import listen_unix

if TYPE_CHECKING:
    from instar.uwsgi.poolinstance import PoolInstance


class PoolControl:
    """Answers what makes sense for a pool, as `instar.control.server` does for an application. Owns the socket."""

    def __init__(self, instance: PoolInstance, log: LogStore, path: Path) -> None:
        self._instance = instance
        self._log = log
        self._path = path
        app = web.Application(middlewares=[errors, peers])
        app.router.add_get("/v1/status", self._status)
        app.router.add_get("/v1/logs", self._logs)
        app.router.add_get("/v1/history", self._history)
        app.router.add_post("/v1/restart", self._restart)
        app.router.add_post("/v1/stop", self._stop)
        app.router.add_post("/v1/logs/{action:reopen|rotate}", self._reopen)
        app.router.add_route("*", "/v1/{rest:.*}", self._refuse)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0, handler_cancellation=True)

    async def start(self) -> None:
        """Listen. Raises OSError."""
        await self._runner.setup()
        await web.SockSite(self._runner, listen_unix(self._path, socket.SOCK_STREAM, 64)).start()

    async def stop(self) -> None:
        """Stop answering and remove the socket."""
        await self._runner.cleanup()
        self._path.unlink(missing_ok=True)

    async def _status(self, request: web.Request) -> web.Response:
        return web.json_response(self._instance.report())

    async def _history(self, request: web.Request) -> web.Response:
        return web.json_response({"entries": []})

    async def _logs(self, request: web.Request) -> web.StreamResponse:
        lines = number(request, "lines", 50) or 0
        if request.query.get("follow") == "1":
            records = self._log.follow(lines=lines)
            return await stream(request, (record.to_dict() async for record in records))
        return await stream(request, each([record.to_dict() for record in self._log.tail(lines)]))

    async def _restart(self, request: web.Request) -> web.StreamResponse:
        return await stream(request, self._instance.begin_reload().watch())

    async def _stop(self, request: web.Request) -> web.Response:
        self._instance.stop(now=bool((await body_of(request)).get("now")))
        return web.json_response({"ok": True})

    async def _reopen(self, request: web.Request) -> web.Response:
        self._log.reopen(rotate=request.match_info["action"] == "rotate")
        return web.json_response({"ok": True})

    async def _refuse(self, request: web.Request) -> web.Response:
        raise ConfigError("cannot do that: this is a zerg pool or a router, without application")
