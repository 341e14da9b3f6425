"""The control API: HTTP over a UNIX socket that only the supervisor's user (and root) can use."""

from __future__ import annotations

import array
import contextlib
import ipaddress
import json
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from aiohttp import web

from instar.config.units import parse_duration
from instar.control.status import handlers, status
from instar.errors import ConfigError, ExitCode, InstarError
from instar.listeners.base import Canary
from instar.supervisor.handover import Options
from instar.supervisor.plan import Parts
from instar.supervisor.report import Report
from instar.supervisor.statedir import listen_unix
from instar.supervisor.supervisor import Supervisor

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
_HTTP_STATUS = {ExitCode.USAGE: 400, ExitCode.BUSY: 409}
_MOST_HISTORY = 1000


class ControlServer:
    """Answers on `control/control.sock`. Owns the socket; asks the supervisor for everything."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        app = web.Application(middlewares=[_errors, _peers])
        app.router.add_get("/v1/status", self._status)
        app.router.add_get("/v1/history", self._history)
        app.router.add_get("/v1/logs", self._logs)
        app.router.add_post("/v1/restart", self._restart)
        app.router.add_post("/v1/rollback", self._rollback)
        app.router.add_post("/v1/stop", self._stop)
        app.router.add_post("/v1/handlers/{name}/{action:restart|move|pause|resume}", self._handler)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0, handler_cancellation=True)

    async def start(self) -> None:
        """Listen. Raises OSError."""
        await self._runner.setup()
        sock = listen_unix(self._supervisor.state.socket, socket.SOCK_STREAM, 64)
        await web.SockSite(self._runner, sock).start()

    async def stop(self) -> None:
        """Stop answering and remove the socket."""
        await self._runner.cleanup()
        self._supervisor.state.socket.unlink(missing_ok=True)

    async def _status(self, request: web.Request) -> web.Response:
        return web.json_response(status(self._supervisor))

    async def _history(self, request: web.Request) -> web.Response:
        limit = min(_number(request, "limit", 50) or 0, _MOST_HISTORY)
        entries = self._supervisor.journal.history(limit)
        for entry in entries:
            del entry["op"]
        return web.json_response({"entries": entries})

    async def _logs(self, request: web.Request) -> web.StreamResponse:
        log, lines = self._supervisor.log, _number(request, "lines", 50) or 0
        generation, role = _number(request, "generation", None), request.query.get("role")
        if request.query.get("follow") == "1":
            records = log.follow(lines=lines, generation=generation, role=role)
            return await _stream(request, (record.to_dict() async for record in records))
        found = log.tail(lines, generation=generation, role=role)
        return await _stream(request, _each([record.to_dict() for record in found]))

    async def _restart(self, request: web.Request) -> web.StreamResponse:
        report = self._supervisor.operations.restart(_options(await _body(request)))
        return await _stream(request, report.watch())

    async def _rollback(self, request: web.Request) -> web.StreamResponse:
        report = self._supervisor.operations.rollback()
        return await _stream(request, report.watch())

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
        return await _stream(request, self._with_handler(report, name))

    async def _with_handler(self, report: Report, name: str) -> AsyncIterator[dict[str, Any]]:
        """The events, and in the result how the handler is afterwards."""
        async for event in report.watch():
            if event["event"] == "result":
                row = next((row for row in handlers(self._supervisor) if row["name"] == name), {})
                event = {**event, "handler": name, "state": row.get("state"), "epoch": row.get("epoch")}
            yield event

    async def _stop(self, request: web.Request) -> web.Response:
        body = await _body(request)
        self._supervisor.stop(now=bool(body.get("now")))
        return web.json_response({"ok": True})


@web.middleware
async def _errors(request: web.Request, handler: _Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except InstarError as error:
        code = _HTTP_STATUS.get(error.exit_code, 422)
        return web.json_response({"error": str(error), "exit_code": int(error.exit_code)}, status=code)


@web.middleware
async def _peers(request: web.Request, handler: _Handler) -> web.StreamResponse:
    """The socket's mode keeps others out; this does too, wherever the folder was moved."""
    sock = request.transport.get_extra_info("socket") if request.transport else None
    raw = array.array("i")
    raw.frombytes(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12) if sock else b"\xff" * 12)
    if raw[1] not in (0, os.geteuid()):
        return web.json_response({"error": f"cannot obey uid {raw[1]}: it is not the supervisor's user"}, status=403)
    return await handler(request)


async def _stream(request: web.Request, items: AsyncIterator[dict[str, Any]]) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
    await response.prepare(request)
    # A watcher that hangs up ends the stream, never what it watched.
    with contextlib.suppress(ConnectionResetError):
        async for item in items:
            await response.write(json.dumps(item).encode() + b"\n")
        await response.write_eof()
    return response


async def _each(items: list[dict[str, Any]]) -> AsyncIterator[dict[str, Any]]:
    for item in items:
        yield item


async def _body(request: web.Request) -> dict[str, Any]:
    if not request.can_read_body:
        return {}
    try:
        body = await request.json()
    except ValueError as error:
        raise ConfigError(f"cannot read the request: {error}") from error
    if not isinstance(body, dict):
        raise ConfigError("cannot read the request: it is not an object")
    return body


def _number(request: web.Request, name: str, default: int | None) -> int | None:
    text = request.query.get(name)
    if text is None:
        return default
    if not text.isdecimal():
        raise ConfigError(f"cannot use {name}={text!r}: it must be a number")
    return int(text)


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
