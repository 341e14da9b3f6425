"""Small applications that show what a server and the middleware make of requests."""

from __future__ import annotations

import asyncio
import json
import os
import time
from pathlib import Path
from urllib.parse import parse_qs

import instar

lifespan_log: list[str] = []


def wsgi(environ, start_response):
    path = environ["PATH_INFO"]
    query = parse_qs(environ["QUERY_STRING"])
    plain = [("Content-Type", "text/plain")]
    if path == "/pid":
        body = str(os.getpid()).encode()
    elif path == "/slow":
        time.sleep(float(query["s"][0]))
        body = b"slow"
    elif path == "/fail":
        start_response("503 Service Unavailable", [("Content-Length", "4")])
        return [b"fail"]
    elif path == "/raise":
        raise RuntimeError("asked to")
    elif path == "/stream":
        start_response("200 OK", plain)
        return (b"x" * 1000 for _ in range(int(query.get("n", ["10"])[0])))
    elif path == "/breaks":
        start_response("200 OK", plain)
        return _breaks()
    elif path == "/sse":
        start_response("200 OK", [("Content-Type", "text/event-stream")])
        return _events()
    elif path == "/file":
        name = query["name"][0]
        start_response("200 OK", [("Content-Length", str(Path(name).stat().st_size))])
        wrapper = environ.get("wsgi.file_wrapper")
        handle = open(name, "rb")  # noqa: SIM115
        return wrapper(handle) if wrapper else iter(lambda: handle.read(65536), b"")
    elif path == "/worker":
        worker = instar.current_worker()
        body = json.dumps([worker.name, worker.index, worker.generation, worker.draining.is_set()]).encode()
    elif path == "/echo":
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    elif path == "/env":
        keys = ("SCRIPT_NAME", "PATH_INFO", "REMOTE_ADDR", "wsgi.url_scheme", "HTTP_HOST", "SERVER_PROTOCOL")
        found = {key: environ.get(key) for key in keys}
        found["probe"] = environ.get("HTTP_X_INSTAR_PROBE")
        body = json.dumps(found).encode()
    else:
        body = b"ok"
    start_response("200 OK", [*plain, ("Content-Length", str(len(body)))])
    return [body]


def _breaks():
    yield b"first"
    raise RuntimeError("asked to")


def _events():
    number = 0
    while True:
        number += 1
        yield f"data: {number}\n\n".encode()
        time.sleep(0.05)


async def asgi(scope, receive, send):
    kind = scope["type"]
    if kind == "lifespan":
        await _lifespan(receive, send)
    elif kind == "websocket":
        await _websocket(scope, receive, send)
    else:
        await _http(scope, receive, send)


async def _lifespan(receive, send):
    while True:
        message = await receive()
        lifespan_log.append(message["type"])
        if message["type"] == "lifespan.shutdown" and "ENGINE_TEST_SHUTDOWN" in os.environ:
            with open(os.environ["ENGINE_TEST_SHUTDOWN"], "w") as mark:
                mark.write("done")
        await send({"type": message["type"] + ".complete"})
        if message["type"] == "lifespan.shutdown":
            return


async def _websocket(scope, receive, send):
    await receive()
    if scope["path"] == "/ws-slow-accept":
        await asyncio.sleep(1.0)
    await send({"type": "websocket.accept"})
    while True:
        message = await receive()
        if message["type"] == "websocket.disconnect":
            return
        await send({"type": "websocket.send", "text": "echo " + (message.get("text") or "")})


async def _http(scope, receive, send):
    path = scope["path"]
    query = parse_qs(scope["query_string"].decode())
    route = path[len(scope.get("root_path", "")) :] if path.startswith(scope.get("root_path", "")) else path

    async def answer(body, status=200, kind=b"text/plain", length=True):
        headers = [(b"content-type", kind)]
        if length:
            headers.append((b"content-length", str(len(body)).encode()))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    if route == "/pid":
        await answer(str(os.getpid()).encode())
    elif route == "/slow":
        await asyncio.sleep(float(query["s"][0]))
        await answer(b"slow")
    elif route == "/fail":
        await answer(b"fail", 503)
    elif route == "/raise":
        raise RuntimeError("asked to")
    elif route == "/stream":
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
        for _ in range(int(query.get("n", ["10"])[0])):
            await send({"type": "http.response.body", "body": b"x" * 1000, "more_body": True})
            await asyncio.sleep(float(query.get("s", ["0"])[0]))
        await send({"type": "http.response.body", "body": b""})
    elif route == "/sse":
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
        number = 0
        while True:
            number += 1
            await send({"type": "http.response.body", "body": f"data: {number}\n\n".encode(), "more_body": True})
            await asyncio.sleep(30 if number == 3 else 0.05)
    elif route == "/worker":
        worker = instar.current_worker()
        await answer(json.dumps([worker.name, worker.index, worker.generation, worker.draining.is_set()]).encode())
    elif route == "/echo":
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        await answer(body)
    elif route == "/env":
        found = {
            "root_path": scope["root_path"],
            "path": path,
            "client": scope["client"] and scope["client"][0],
            "scheme": scope["scheme"],
            "headers": [[k.decode(), v.decode()] for k, v in scope["headers"]],
            "http_version": scope["http_version"],
        }
        await answer(json.dumps(found).encode())
    else:
        await answer(b"ok")


async def asgi_plain(scope, receive, send):
    """Knows nothing of lifespan."""
    assert scope["type"] == "http"
    await asgi(scope, receive, send)


async def asgi_broken_start(scope, receive, send):
    await receive()
    await send({"type": "lifespan.startup.failed", "message": "asked to"})
