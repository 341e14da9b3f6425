"""The Emperor's control socket: the same HTTP over a UNIX socket as a supervisor's, about vassals."""

from __future__ import annotations

import socket
from typing import Any

from aiohttp import web

from instar.control.answers import body_of, each, errors, number, peers, stream
from instar.supervisor.statedir import listen_unix
from instar.uwsgi.emperor.emperor import Emperor
from instar.uwsgi.emperor.status import emperor_status, vassal_status


class EmperorControl:
    """Answers on `control/control.sock` of the Emperor's state directory. Owns the socket."""

    def __init__(self, emperor: Emperor) -> None:
        self._emperor = emperor
        app = web.Application(middlewares=[errors, peers])
        app.router.add_get("/v1/status", self._status)
        app.router.add_get("/v1/logs", self._logs)
        app.router.add_post("/v1/rescan", self._rescan)
        app.router.add_post("/v1/stop", self._stop)
        app.router.add_get("/v1/vassals/{name}", self._vassal)
        app.router.add_post("/v1/vassals/{name}/restart", self._restart)
        app.router.add_post("/v1/vassals/{name}/stop", self._stop_vassal)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0, handler_cancellation=True)

    async def start(self) -> None:
        """Listen. Raises OSError."""
        await self._runner.setup()
        sock = listen_unix(self._emperor.state.socket, socket.SOCK_STREAM, 64)
        await web.SockSite(self._runner, sock).start()

    async def stop(self) -> None:
        """Stop answering and remove the socket."""
        await self._runner.cleanup()
        self._emperor.state.socket.unlink(missing_ok=True)

    async def _status(self, request: web.Request) -> web.Response:
        return web.json_response(emperor_status(self._emperor))

    async def _vassal(self, request: web.Request) -> web.Response:
        vassal = self._emperor.find(request.match_info["name"])
        return web.json_response(await vassal_status(vassal, self._emperor.now, deep=True))

    async def _logs(self, request: web.Request) -> web.StreamResponse:
        log, lines, role = self._emperor.log, number(request, "lines", 50) or 0, request.query.get("role")
        if request.query.get("follow") == "1":
            records = log.follow(lines=lines, role=role)
            return await stream(request, (record.to_dict() async for record in records))
        return await stream(request, each([record.to_dict() for record in log.tail(lines, role=role)]))

    async def _rescan(self, request: web.Request) -> web.Response:
        self._emperor.rescan()
        return web.json_response({"ok": True})

    async def _restart(self, request: web.Request) -> web.StreamResponse:
        report = self._emperor.restart(request.match_info["name"], await body_of(request))
        return await stream(request, report.watch())

    async def _stop_vassal(self, request: web.Request) -> web.Response:
        body: dict[str, Any] = await body_of(request)
        vassal = await self._emperor.stop_vassal(request.match_info["name"], now=bool(body.get("now")))
        return web.json_response({"stopped": True, "vassal": vassal.name})

    async def _stop(self, request: web.Request) -> web.Response:
        body = await body_of(request)
        self._emperor.stop(now=bool(body.get("now")))
        return web.json_response({"ok": True})
