"""The control API: HTTP over a UNIX socket that only the supervisor's user (and root) can use."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import AsyncIterator
from typing import Any

from aiohttp import web

from instar.config.units import parse_duration
from instar.control.answers import GROUP, body_of, each, errors, number, peers, privileged, stream
from instar.control.door import close_door, group_of, open_door
from instar.control.status import handlers, status
from instar.errors import ConfigError
from instar.listeners.base import Canary
from instar.supervisor.handover import Options
from instar.supervisor.plan import Parts
from instar.supervisor.report import Report
from instar.supervisor.statedir import listen_unix
from instar.supervisor.supervisor import Supervisor

_MOST_HISTORY = 1000


class ControlServer:
    """Answers on `control/control.sock`. Owns the socket; asks the supervisor for everything."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        #: Of the listening socket.
        self.fd = -1
        app = web.Application(middlewares=[errors, peers])
        app.router.add_get("/v1/status", self._status)
        app.router.add_get("/v1/history", self._history)
        app.router.add_get("/v1/logs", self._logs)
        app.router.add_post("/v1/restart", self._restart)
        app.router.add_post("/v1/rollback", self._rollback)
        app.router.add_post("/v1/stop", self._stop)
        app.router.add_post("/v1/upgrade", self._upgrade)
        app.router.add_post("/v1/workers/{action:recycle|pause|resume}", self._workers)
        app.router.add_post("/v1/logs/{action:reopen|rotate}", self._reopen)
        app.router.add_post("/v1/handlers/{name}/{action:restart|move|pause|resume}", self._handler)
        app[GROUP] = self._gid = group_of(supervisor.config.app.deploy_group)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0, handler_cancellation=True)

    async def start(self, inherited: int = -1) -> None:
        """Listen. `inherited`: where the version that we were has listened. Raises OSError."""
        await self._runner.setup()
        path, sock = self._supervisor.state.socket, None
        if inherited >= 0:
            sock = socket.socket(fileno=inherited)
            # Whoever failed before us may have removed its name.
            if not path.is_socket():
                sock.close()
                sock = None
        sock = sock or listen_unix(path, socket.SOCK_STREAM, 64)
        self.fd = sock.fileno()
        await web.SockSite(self._runner, sock).start()
        close_door(self._supervisor.state)
        if self._gid is not None:
            await web.SockSite(self._runner, open_door(self._supervisor.state, self._gid)).start()

    async def stop(self) -> None:
        """Stop answering and remove the socket."""
        await self._runner.cleanup()
        self._supervisor.state.socket.unlink(missing_ok=True)
        close_door(self._supervisor.state)

    async def _status(self, request: web.Request) -> web.Response:
        return web.json_response(status(self._supervisor))

    async def _history(self, request: web.Request) -> web.Response:
        limit = min(number(request, "limit", 50) or 0, _MOST_HISTORY)
        entries = self._supervisor.journal.history(limit)
        for entry in entries:
            del entry["op"]
        return web.json_response({"entries": entries})

    async def _logs(self, request: web.Request) -> web.StreamResponse:
        log, lines = self._supervisor.log, number(request, "lines", 50) or 0
        generation, role = number(request, "generation", None), request.query.get("role")
        if request.query.get("follow") == "1":
            records = log.follow(lines=lines, generation=generation, role=role)
            return await stream(request, (record.to_dict() async for record in records))
        found = log.tail(lines, generation=generation, role=role)
        return await stream(request, each([record.to_dict() for record in found]))

    async def _restart(self, request: web.Request) -> web.StreamResponse:
        report = self._supervisor.operations.restart(_options(await body_of(request)))
        return await stream(request, report.watch())

    async def _rollback(self, request: web.Request) -> web.StreamResponse:
        report = self._supervisor.operations.rollback()
        return await stream(request, report.watch())

    async def _upgrade(self, request: web.Request) -> web.StreamResponse:
        supervisor, body = self._supervisor, await body_of(request)
        if supervisor.upgrade is None:
            raise ConfigError(
                "cannot upgrade: only what `instar run` started can become another version; stop and start this one"
            )
        program, limit = body.get("program"), body.get("limit")
        if program is not None and not privileged(request):
            raise ConfigError("cannot upgrade to a program of your choice: only the supervisor's user and root may")
        try:
            report = supervisor.upgrade.begin(
                None if program is None else str(program), None if limit is None else parse_duration(limit)
            )
        except ValueError as error:
            raise ConfigError(f"cannot upgrade: {error}") from error
        return await stream(request, report.watch())

    async def _handler(self, request: web.Request) -> web.StreamResponse:
        supervisor, name = self._supervisor, request.match_info["name"]
        if name not in supervisor.registry.names.owner:
            raise ConfigError(f"cannot find handler {name}: there is none of that name; see `instar handlers list`")
        match request.match_info["action"]:
            case "pause":
                report = supervisor.operations.pause_handler(name)
            case "resume":
                report = supervisor.operations.resume_handler(name)
            case action:
                report = supervisor.operations.renew_handler(name, to_live=action == "move")
        return await stream(request, self._with_handler(report, name))

    async def _with_handler(self, report: Report, name: str) -> AsyncIterator[dict[str, Any]]:
        """The events, and in the result how the handler is afterwards."""
        async for event in report.watch():
            if event["event"] == "result":
                row = next((row for row in handlers(self._supervisor) if row["name"] == name), {})
                event = {**event, "handler": name, "state": row.get("state"), "epoch": row.get("epoch")}
            yield event

    async def _workers(self, request: web.Request) -> web.StreamResponse:
        operations, action = self._supervisor.operations, request.match_info["action"]
        if action == "recycle":
            return await stream(request, operations.recycle_workers().watch())
        changed = operations.pause_accepting(action == "pause")
        return web.json_response({"paused": action == "pause", "changed": changed})

    async def _reopen(self, request: web.Request) -> web.Response:
        self._supervisor.log.reopen(rotate=request.match_info["action"] == "rotate")
        return web.json_response({"ok": True})

    async def _stop(self, request: web.Request) -> web.Response:
        body = await body_of(request)
        self._supervisor.stop(now=bool(body.get("now")))
        return web.json_response({"ok": True})


def _options(body: dict[str, Any]) -> Options:
    try:
        keep, raw = body.get("keep_old"), body.get("canary")
        canary, seconds = None, None
        if raw:
            networks = tuple(ipaddress.ip_network(item) for item in raw.get("networks") or ())
            canary = Canary(float(raw.get("share") or 0.0), networks)
            seconds = None if raw.get("duration") is None else parse_duration(raw["duration"])
        return Options(
            bool(body.get("now")), None if keep is None else parse_duration(keep), canary, seconds, _parts(body)
        )
    except (TypeError, ValueError, AttributeError) as error:
        raise ConfigError(f"cannot restart: {error}") from error


def _parts(body: dict[str, Any]) -> Parts:
    pools = frozenset(map(str, body.get("pools") or ()))
    parts = set(body.get("parts") or (("handlers",) if pools else ("web", "handlers")))
    if not parts <= {"web", "handlers"}:
        raise ValueError(f"parts are web and handlers, not {', '.join(sorted(map(str, parts)))}")
    return Parts("web" in parts, "handlers" in parts, pools)
