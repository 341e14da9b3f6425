"""The WSGI application."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
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

Environ = dict[str, Any]
StartResponse = Callable[[str, list[tuple[str, str]]], Any]


def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """Dispatch by path."""
    query = Query(environ.get("QUERY_STRING", ""))
    path = environ["PATH_INFO"]
    if path == "/healthz":
        return _health(start_response)
    if BEHAVIOUR.errors:
        return _answer(start_response, f"{MARK} in an answer".encode(), "500 Internal Server Error")
    if path == "/":
        return _answer(start_response, page(query))
    if path == "/upload":
        return _upload(environ, query, start_response)
    if path == "/gate":
        return _gate(query, start_response)
    if path == "/stream":
        return _stream(query, start_response)
    if path == "/events":
        start_response("200 OK", [*headers(kind="text/event-stream"), ("cache-control", "no-cache")])
        return _events()
    return _answer(start_response, b"not found\n", "404 Not Found")


def _answer(start_response: StartResponse, body: bytes, status: str = "200 OK") -> list[bytes]:
    start_response(status, headers(len(body)))
    return [body]


def _health(start_response: StartResponse) -> list[bytes]:
    state = BEHAVIOUR.health(worker_index() if BEHAVIOUR.kind == "health-500-worker" else 0)
    if state == "hang":
        time.sleep(3600)
    if state == "error":
        return _answer(start_response, f"{MARK} of the health check".encode(), "500 Internal Server Error")
    return _answer(start_response, line("healthy").encode())


def _upload(environ: Environ, query: Query, start_response: StartResponse) -> list[bytes]:
    digest, left = Digest(), int(environ.get("CONTENT_LENGTH") or 0)
    while left and (part := environ["wsgi.input"].read(min(left, 65536))):
        digest.feed(part)
        left -= len(part)
    return _answer(start_response, digest.answer(query.token))


def _gate(query: Query, start_response: StartResponse) -> list[bytes]:
    end = time.monotonic() + GATE_LIMIT
    while not (GATES / query.token).exists():
        if time.monotonic() > end:
            return _answer(start_response, b"the gate stays closed\n", "504 Gateway Timeout")
        time.sleep(GATE_INTERVAL)
    return _answer(start_response, line(query.token).encode())


def _stream(query: Query, start_response: StartResponse) -> Iterator[bytes]:
    parts, pause = chunks(query)
    start_response("200 OK", headers())

    def body() -> Iterator[bytes]:
        for part in parts:
            yield part
            time.sleep(pause)

    return body()


def _events() -> Iterator[bytes]:
    for number in range(1_000_000):
        yield event(number)
        time.sleep(EVENT_INTERVAL)


if BEHAVIOUR.kind == "missing-target":
    del app
