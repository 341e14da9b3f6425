"""WebSockets: 1012 when the worker drains, whatever the application is doing."""

from __future__ import annotations

import signal
import threading
import time

import engine_apps
import engine_harness as harness
import pytest
from engine_harness import until
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect, unix_connect

from instar.engines.base import EngineOptions
from instar.runtime.scoreboard import Column, Drain

ENGINES = [("granian", None), ("uvicorn", None), ("gunicorn", "asgi")]


def options(cls, **kwargs):
    return EngineOptions(worker_class=cls, **kwargs)


def url(worker, path="/ws"):
    return f"ws://127.0.0.1:{worker.sockets[0].getsockname()[1]}{path}"


async def chatter(scope, receive, send):
    """Sends and receives in two tasks, as chat servers do."""
    import asyncio

    if scope["type"] == "lifespan":
        await engine_apps.asgi(scope, receive, send)
        return
    await receive()
    await send({"type": "websocket.accept"})

    async def talk():
        while True:
            await send({"type": "websocket.send", "text": "tick"})
            await asyncio.sleep(0.02)

    talker = asyncio.create_task(talk())
    try:
        while (await receive())["type"] != "websocket.disconnect":
            pass
    finally:
        talker.cancel()
        await asyncio.gather(talker, return_exceptions=True)


async def sender(scope, receive, send):
    """Only sends."""
    import asyncio

    if scope["type"] == "lifespan":
        await engine_apps.asgi(scope, receive, send)
        return
    await receive()
    await send({"type": "websocket.accept"})
    while True:
        await send({"type": "websocket.send", "text": "tick"})
        await asyncio.sleep(0.02)


@pytest.mark.parametrize(("engine", "cls"), ENGINES)
def test_closed_with_1012(start, engine, cls):
    worker = start(engine, "asgi", engine_apps.asgi, options=options(cls))
    with connect(url(worker)) as client:
        client.send("a")
        assert client.recv(timeout=5) == "echo a"
        worker.drain(Drain.CLOSE)
        client.send("b")
        assert client.recv(timeout=5) == "echo b"
        assert worker.get_state(Column.LONG_LIVED) == 1
        worker.drain(Drain.END_STREAMS)
        with pytest.raises(ConnectionClosed) as closed:
            client.recv(timeout=5)
    assert closed.value.rcvd is not None and closed.value.rcvd.code == 1012
    until(lambda: worker.get_state(Column.LONG_LIVED) == 0)
    assert worker.get_state(Column.ERRORS) == 0
    assert worker.stop() == 0
    assert "Traceback" not in worker.output.read_text()


@pytest.mark.parametrize("app", [chatter, sender])
@pytest.mark.parametrize(("engine", "cls"), ENGINES)
def test_busy_applications_survive_the_close(start, engine, cls, app):
    worker = start(engine, "asgi", app, options=options(cls))
    with connect(url(worker)) as client:
        assert client.recv(timeout=5) == "tick"
        worker.drain(Drain.END_STREAMS)
        with pytest.raises(ConnectionClosed) as closed:
            while True:
                client.recv(timeout=5)
    assert closed.value.rcvd is not None and closed.value.rcvd.code == 1012
    until(lambda: worker.get_state(Column.LONG_LIVED) == 0)
    assert worker.get_state(Column.ERRORS) == 0
    assert worker.stop() == 0
    assert "Traceback" not in worker.output.read_text()


@pytest.mark.parametrize(("engine", "cls"), ENGINES)
def test_not_yet_accepted(start, engine, cls):
    worker = start(engine, "asgi", engine_apps.asgi, options=options(cls))
    threading.Timer(0.3, worker.drain, (Drain.END_STREAMS,)).start()
    with connect(url(worker, "/ws-slow-accept")) as client, pytest.raises(ConnectionClosed) as closed:
        client.recv(timeout=5)
    assert closed.value.rcvd is not None and closed.value.rcvd.code == 1012


@pytest.mark.parametrize(("engine", "cls"), ENGINES)
def test_client_that_leaves(start, engine, cls):
    worker = start(engine, "asgi", engine_apps.asgi, options=options(cls))
    with connect(url(worker)) as client:
        client.send("a")
        client.recv(timeout=5)
    until(lambda: worker.get_state(Column.LONG_LIVED) == 0)
    assert worker.get_state(Column.ERRORS) == 0
    assert worker.stop() == 0


@pytest.mark.parametrize(("engine", "cls"), ENGINES)
def test_over_a_unix_socket(start, engine, cls):
    worker = start(engine, "asgi", engine_apps.asgi, kind="unix", options=options(cls))
    with unix_connect(worker.sockets[0].getsockname(), "ws://localhost/ws") as client:
        client.send("a")
        assert client.recv(timeout=5) == "echo a"
        worker.drain(Drain.END_STREAMS)
        with pytest.raises(ConnectionClosed) as closed:
            client.recv(timeout=5)
    assert closed.value.rcvd is not None and closed.value.rcvd.code == 1012


@pytest.mark.parametrize(("engine", "cls"), ENGINES)
def test_stop_ends_an_application_that_never_reads(start, engine, cls):
    async def deaf(scope, receive, send):
        import asyncio

        if scope["type"] == "lifespan":
            await engine_apps.asgi(scope, receive, send)
            return
        await receive()
        await send({"type": "websocket.accept"})
        await asyncio.sleep(3600)

    worker = start(engine, "asgi", deaf, options=options(cls))
    with connect(url(worker)) as client:
        until(lambda: worker.get_state(Column.LONG_LIVED) == 1)
        worker.drain(Drain.END_STREAMS)
        with pytest.raises(ConnectionClosed) as closed:
            client.recv(timeout=5)
    assert closed.value.rcvd is not None and closed.value.rcvd.code == 1012
    started = time.monotonic()
    worker.signal(signal.SIGTERM)
    assert worker.wait(12) == 0
    assert time.monotonic() - started < 9
    assert harness.Column.ERRORS == Column.ERRORS
