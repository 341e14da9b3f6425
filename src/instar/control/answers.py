"""What every control socket does with a request, whoever answers: errors, peers, bodies, streams."""

from __future__ import annotations

import array
import contextlib
import json
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from aiohttp import web

from instar.errors import ConfigError, ExitCode, InstarError

#: Number of the group whose members may ask, besides the supervisor's user and root.
GROUP: web.AppKey[int | None] = web.AppKey("group")

#: include/uapi/asm-generic/socket.h: supplementary groups, at the time of connect(2).
_SO_PEERGROUPS = 59

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
_HTTP_STATUS = {ExitCode.USAGE: 400, ExitCode.BUSY: 409}


@web.middleware
async def errors(request: web.Request, handler: _Handler) -> web.StreamResponse:
    """Turns an InstarError into a status and an object with its sentence."""
    try:
        return await handler(request)
    except InstarError as error:
        code = _HTTP_STATUS.get(error.exit_code, 422)
        return web.json_response({"error": str(error), "exit_code": int(error.exit_code)}, status=code)


@web.middleware
async def peers(request: web.Request, handler: _Handler) -> web.StreamResponse:
    """The socket's mode keeps others out; this does too, wherever the folder was moved."""
    if not privileged(request) and not member(request):
        text = f"cannot obey uid {uid_of(request)}: it is not the supervisor's user"
        return web.json_response({"error": text}, status=403)
    return await handler(request)


def uid_of(request: web.Request) -> int:
    """Of the process that connected (SO_PEERCRED, unix(7)); -1: unknown."""
    return _credentials(request)[1]


def _credentials(request: web.Request) -> tuple[int, int, int]:
    sock = request.transport.get_extra_info("socket") if request.transport else None
    raw = array.array("i")
    raw.frombytes(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12) if sock else b"\xff" * 12)
    return raw[0], raw[1], raw[2]


def member(request: web.Request) -> bool:
    """Whether the process that connected was in the group that the socket is open to, if there is one."""
    gid, sock = request.app.get(GROUP), request.transport.get_extra_info("socket") if request.transport else None
    if gid is None or sock is None:
        return False
    groups = array.array("I")
    # Somebody in more groups than fit is asked for the primary one only.
    with contextlib.suppress(OSError):
        groups.frombytes(sock.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, 1024))
    return gid == _credentials(request)[2] or gid in groups


def privileged(request: web.Request) -> bool:
    """Whether the supervisor's user asks, or root."""
    return uid_of(request) in (0, os.geteuid())


async def stream(request: web.Request, items: AsyncIterator[dict[str, Any]]) -> web.StreamResponse:
    """Answer line by line (application/x-ndjson)."""
    response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
    await response.prepare(request)
    # A watcher that hangs up ends the stream, never what it watched.
    with contextlib.suppress(ConnectionResetError):
        async for item in items:
            await response.write(json.dumps(item).encode() + b"\n")
        await response.write_eof()
    return response


async def each(items: list[dict[str, Any]]) -> AsyncIterator[dict[str, Any]]:
    """A list for `stream`."""
    for item in items:
        yield item


async def body_of(request: web.Request) -> dict[str, Any]:
    """The object in the request; {} without a body. Raises ConfigError."""
    if not request.can_read_body:
        return {}
    try:
        body = await request.json()
    except ValueError as error:
        raise ConfigError(f"cannot read the request: {error}") from error
    if not isinstance(body, dict):
        raise ConfigError("cannot read the request: it is not an object")
    return body


def number(request: web.Request, name: str, default: int | None) -> int | None:
    """A number of the query. Raises ConfigError."""
    text = request.query.get(name)
    if text is None:
        return default
    if not text.isdecimal():
        raise ConfigError(f"cannot use {name}={text!r}: it must be a number")
    return int(text)
