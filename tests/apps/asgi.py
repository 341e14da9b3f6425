"""The ASGI application."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

from apps.behaviour import MARK
from apps.common import (
    BEHAVIOUR,
    EVENT_INTERVAL,
    GATE_INTERVAL,
    GATE_LIMIT,
    GATES,
    Digest,
    Query,
    chunks,
    event,
    headers,
    line,
    page,
    worker_index,
)

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Dispatch by scope and path."""
    if scope["type"] == "lifespan":
        await _lifespan(receive, send)
    elif scope["type"] == "websocket":
        await _websocket(receive, send)
    else:
        await _http(scope, receive, send)


async def _lifespan(receive: Receive, send: Send) -> None:
    await receive()
    if BEHAVIOUR.hangs_at_start:
        await asyncio.sleep(3600)
    if BEHAVIOUR.kind in ("lifespan-error", "worker-error"):
        try:
            BEHAVIOUR.at_start(worker_index())
        except Exception as error:
            await send({"type": "lifespan.startup.failed", "message": f"{type(error).__name__}: {error}"})
            return
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await send({"type": "lifespan.shutdown.complete"})


async def _websocket(receive: Receive, send: Send) -> None:
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "text": line(message.get("text") or "-").strip()})


async def _http(scope: Scope, receive: Receive, send: Send) -> None:
    query = Query(scope["query_string"].decode())
    path = scope["path"]
    if path == "/healthz":
        await _health(send)
    elif BEHAVIOUR.errors:
        await _answer(send, f"{MARK} in an answer".encode(), 500)
    elif path == "/":
        await _answer(send, page(query))
    elif path == "/upload":
        await _upload(query, receive, send)
    elif path == "/gate":
        await _gate(query, send)
    elif path == "/stream":
        await _stream(query, send)
    elif path == "/events":
        await _events(receive, send)
    else:
        await _answer(send, b"not found\n", 404)


async def _answer(send: Send, body: bytes, status: int = 200) -> None:
    await _start(send, status, headers(len(body)))
    await send({"type": "http.response.body", "body": body})


async def _start(send: Send, status: int, fields: list[tuple[str, str]]) -> None:
    encoded = [(name.encode(), value.encode()) for name, value in fields]
    await send({"type": "http.response.start", "status": status, "headers": encoded})


async def _health(send: Send) -> None:
    state = BEHAVIOUR.health(worker_index() if BEHAVIOUR.kind == "health-500-worker" else 0)
    if state == "hang":
        await asyncio.sleep(3600)
    if state == "error":
        await _answer(send, f"{MARK} of the health check".encode(), 500)
    else:
        await _answer(send, line("healthy").encode())


async def _upload(query: Query, receive: Receive, send: Send) -> None:
    digest = Digest()
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        digest.feed(message.get("body", b""))
        more = message.get("more_body", False)
    await _answer(send, digest.answer(query.token))


async def _gate(query: Query, send: Send) -> None:
    end = time.monotonic() + GATE_LIMIT
    while not (GATES / query.token).exists():
        if time.monotonic() > end:
            await _answer(send, b"the gate stays closed\n", 504)
            return
        await asyncio.sleep(GATE_INTERVAL)
    await _answer(send, line(query.token).encode())


async def _stream(query: Query, send: Send) -> None:
    parts, pause = chunks(query)
    await _start(send, 200, headers())
    for part in parts:
        await send({"type": "http.response.body", "body": part, "more_body": True})
        await asyncio.sleep(pause)
    await send({"type": "http.response.body", "body": b""})


async def _events(receive: Receive, send: Send) -> None:
    await _start(send, 200, [*headers(kind="text/event-stream"), ("cache-control", "no-cache")])
    gone = asyncio.ensure_future(_disconnect(receive))
    number = 0
    while not gone.done():
        await send({"type": "http.response.body", "body": event(number), "more_body": True})
        number += 1
        await asyncio.wait([gone], timeout=EVENT_INTERVAL)


async def _disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


if BEHAVIOUR.kind == "missing-target":
    del app
