"""Frameworks on top: what they make of our ends of streams and sockets."""

from __future__ import annotations

import asyncio
import threading

import engine_harness as harness
import pytest
from engine_harness import until
from starlette.applications import Starlette
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.responses import StreamingResponse
from starlette.routing import Route, WebSocketRoute
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from instar.engines.base import EngineOptions
from instar.runtime.scoreboard import Column, Drain

ENGINES = [("granian", None), ("uvicorn", None), ("gunicorn", "asgi")]


async def ticks(request):
    async def generate():
        while True:
            yield "data: tick\n\n"
            await asyncio.sleep(0.05)

    return StreamingResponse(generate(), media_type="text/event-stream")


async def talk(websocket):
    await websocket.accept()
    async for text in websocket.iter_text():
        await websocket.send_text(text)


class Passing(BaseHTTPMiddleware):
    async def dispatch(self, request, call_next):
        return await call_next(request)


def make(with_middleware):
    app = Starlette(routes=[Route("/sse", ticks), WebSocketRoute("/ws", talk)])
    if with_middleware:
        app.add_middleware(Passing)
    return app


@pytest.mark.parametrize("with_middleware", [False, True])
@pytest.mark.parametrize(("engine", "cls"), ENGINES)
def test_starlette(start, engine, cls, with_middleware):
    worker = start(engine, "asgi", make(with_middleware), options=EngineOptions(worker_class=cls))
    sock = worker.connect()
    sock.sendall(b"GET /sse HTTP/1.1\r\nHost: x\r\n\r\n")
    data = b""
    while data.count(b"tick") < 2:
        data += sock.recv(65536)
    port = worker.sockets[0].getsockname()[1]
    with connect(f"ws://127.0.0.1:{port}/ws") as client:
        client.send("a")
        assert client.recv(timeout=5) == "a"
        threading.Timer(0.1, worker.drain, (Drain.END_STREAMS,)).start()
        with pytest.raises(ConnectionClosed) as closed:
            client.recv(timeout=5)
    assert closed.value.rcvd is not None and closed.value.rcvd.code == 1012
    sock.settimeout(3)
    while not data.endswith(b"0\r\n\r\n"):
        chunk = sock.recv(65536)
        assert chunk, data
        data += chunk
    until(lambda: worker.get_state(Column.IN_FLIGHT) == worker.get_state(Column.LONG_LIVED) == 0)
    assert worker.get_state(Column.ERRORS) == 0
    sock.close()
    assert worker.stop() == 0
    assert "Traceback" not in worker.output.read_text()


@pytest.mark.parametrize(("engine", "cls"), ENGINES)
def test_create_task_of_receive_and_send(start, engine, cls):
    """Libraries insist on coroutines; granian's own awaitables are none."""

    async def app(scope, receive, send):
        if scope["type"] == "lifespan":
            return
        await asyncio.create_task(receive())
        await asyncio.create_task(send({"type": "http.response.start", "status": 200, "headers": []}))
        await asyncio.create_task(send({"type": "http.response.body", "body": b"ok"}))

    worker = start(engine, "asgi", app, options=EngineOptions(worker_class=cls))
    assert worker.get("/")[2] == b"ok"
    assert worker.stop() == 0
    assert harness.NONCE not in worker.output.read_text()


@pytest.mark.parametrize(("engine", "interface", "cls"), [("granian", "asgi", None), ("uvicorn", "asgi", None)])
def test_root_path_and_proxies(start, engine, interface, cls):
    import json

    import engine_apps

    options = EngineOptions(root_path="/app", worker_class=cls)
    worker = start(engine, interface, engine_apps.asgi, options=options, trusted_proxies=("127.0.0.1",))
    headers = {"X-Forwarded-For": "6.6.6.6, 203.0.113.9", "X-Forwarded-Proto": "https"}
    for path in ("/app/env", "/env"):
        found = json.loads(worker.get(path, headers)[2])
        assert (found["root_path"], found["path"]) == ("/app", "/app/env")
        assert (found["client"], found["scheme"]) == ("203.0.113.9", "https")


@pytest.mark.parametrize(
    ("engine", "cls"), [("granian", None), ("uvicorn", None), ("gunicorn", "gthread"), ("gunicorn", "sync")]
)
@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_root_path_and_proxies_wsgi(start, engine, cls, kind):
    import json

    import engine_apps

    options = EngineOptions(root_path="/app", worker_class=cls, threads=2)
    trusted = ("127.0.0.1",) if kind == "tcp" else ("unix",)
    worker = start(engine, "wsgi", engine_apps.wsgi, kind=kind, options=options, trusted_proxies=trusted)
    headers = {"X-Forwarded-For": "6.6.6.6, 203.0.113.9", "X-Forwarded-Proto": "https", "X-Forwarded-Host": "a.example"}
    for path in ("/app/env", "/env"):
        found = json.loads(worker.get(path, headers)[2])
        assert (found["SCRIPT_NAME"], found["PATH_INFO"]) == ("/app", "/env")
        assert (found["REMOTE_ADDR"], found["wsgi.url_scheme"]) == ("203.0.113.9", "https")
        assert found["HTTP_HOST"] == "a.example"
    distrusting = start(engine, "wsgi", engine_apps.wsgi, options=EngineOptions(worker_class=cls, threads=2))
    found = json.loads(distrusting.get("/env", headers)[2])
    assert (found["REMOTE_ADDR"], found["wsgi.url_scheme"]) == ("127.0.0.1", "http")


@pytest.mark.parametrize(("engine", "cls"), [("uvicorn", None), ("gunicorn", "gthread"), ("gunicorn", "sync")])
def test_underscores_do_not_forge_a_proxys_header(start, engine, cls):
    import json

    import engine_apps

    options = EngineOptions(worker_class=cls, threads=2)
    worker = start(engine, "wsgi", engine_apps.wsgi, options=options, trusted_proxies=("127.0.0.1",))
    headers = {"X-Forwarded-For": "203.0.113.9", "X_Forwarded_For": "6.6.6.6"}
    assert json.loads(worker.get("/env", headers)[2])["REMOTE_ADDR"] == "203.0.113.9"
