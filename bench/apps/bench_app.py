"""The application that every server of the benchmarks runs: WSGI and ASGI, standard library only.

`BENCH_BOOT` is the time to load in seconds, `BENCH_BALLAST` the size of its Python objects in MB.
Every answer is `ok BOOT PID`: BOOT is unique for each load of this module, PID is the process that answered.

/               answers at once
/block?pid=N&seconds=S
                blocks the calling thread (WSGI) or the event loop (ASGI) of process N; other processes answer at once
/collect        runs the garbage collector first
"""

from __future__ import annotations

import gc
import os
import time
import urllib.parse
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

time.sleep(float(os.environ.get("BENCH_BOOT", "0")))
BOOT = time.time_ns()


def make_ballast(megabytes: int) -> list[dict[str, Any]]:
    """Objects as an application has them (dicts, strings, lists), about `megabytes` MB in all."""
    return [{"id": i, "name": f"item {i}", "tags": [str(i), "x" * 40]} for i in range(megabytes * 1_900)]


BALLAST = make_ballast(int(os.environ.get("BENCH_BALLAST", "0")))


def answer(path: str, query: str) -> bytes:
    """The response body; may block, on purpose."""
    if path == "/block":
        wanted = dict(urllib.parse.parse_qsl(query))
        if int(wanted["pid"]) == os.getpid():
            time.sleep(float(wanted["seconds"]))
    elif path == "/collect":
        gc.collect()
    return f"ok {BOOT} {os.getpid()}\n".encode()


def wsgi(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    body = answer(environ["PATH_INFO"], environ.get("QUERY_STRING", ""))
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]


Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


async def asgi(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    if scope["type"] == "lifespan":
        await lifespan(receive, send)
        return
    body = answer(scope["path"], scope["query_string"].decode())
    headers = [(b"content-type", b"text/plain"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def lifespan(receive: Receive, send: Send) -> None:
    while True:
        event = (await receive())["type"]
        await send({"type": f"{event}.complete"})
        if event == "lifespan.shutdown":
            return
