"""The ASGI side of draining, with a server that is only two functions."""

from __future__ import annotations

import asyncio

import pytest

from instar.runtime.drain import DrainState
from instar.runtime.drain_asgi import DrainAsgi
from instar.runtime.drain_websocket import ConnectionEndedError
from instar.runtime.probe import Probe
from instar.runtime.scoreboard import Column, Drain, Scoreboard


@pytest.fixture
def state():
    return DrainState(Scoreboard.create(1), 0)


class Server:
    def __init__(self):
        self.sent = []
        self.incoming = asyncio.Queue()

    async def receive(self):
        return await self.incoming.get()

    async def send(self, message):
        self.sent.append(message)

    def headers(self):
        return self.sent[0]["headers"]


def http(version="1.1", headers=()):
    return {"type": "http", "http_version": version, "method": "GET", "path": "/", "headers": list(headers)}


def start(status=200, kind=b"text/plain"):
    return {"type": "http.response.start", "status": status, "headers": [(b"content-type", kind)]}


BODY = {"type": "http.response.body", "body": b"ok"}


async def simple(scope, receive, send):
    await send(start())
    await send(BODY)


async def events(scope, receive, send):
    await send(start(kind=b"text/event-stream"))
    while True:
        await send({**BODY, "more_body": True})
        await asyncio.sleep(10)


async def run_until(app, scope, server, condition):
    task = asyncio.create_task(app(scope, server.receive, server.send))
    while not condition():
        await asyncio.sleep(0.01)
    return task


async def test_counts(state):
    app = DrainAsgi(simple, state)
    await app(http(), None, Server().send)
    await app(http("2"), None, Server().send)
    assert [state.board.get(0, c) for c in (Column.REQUESTS, Column.IN_FLIGHT, Column.HTTP2)] == [2, 0, 1]
    assert state.board.get(0, Column.LOOP_BEAT) > 0
    assert state.oldest() == 0


async def test_errors_count_once_and_not_for_clients_that_leave(state):
    async def broken(scope, receive, send):
        await send(start(500))
        raise RuntimeError

    with pytest.raises(RuntimeError):
        await DrainAsgi(broken, state)(http(), None, Server().send)
    assert state.board.get(0, Column.ERRORS) == 1

    async def gone(message):
        raise OSError

    with pytest.raises(OSError):
        await DrainAsgi(simple, state)(http(), None, gone)
    assert state.board.get(0, Column.ERRORS) == 1
    assert state.board.get(0, Column.IN_FLIGHT) == 0


@pytest.mark.parametrize(("version", "closes"), [("1.0", True), ("1.1", True), ("2", False), ("3", False)])
async def test_close_header(state, version, closes):
    server = Server()
    state.board.drain = Drain.CLOSE
    await DrainAsgi(simple, state)(http(version), None, server.send)
    assert ((b"connection", b"close") in server.headers()) is closes


async def test_event_stream_gets_its_end(state):
    server = Server()
    task = await run_until(DrainAsgi(events, state), http(), server, lambda: len(server.sent) == 2)
    assert state.board.get(0, Column.LONG_LIVED) == state.board.get(0, Column.IN_FLIGHT) == 1
    assert state.oldest() == 0
    state.board.drain = Drain.CLOSE
    await asyncio.sleep(0.25)
    assert not task.done()
    state.board.drain = Drain.END_STREAMS
    await asyncio.wait_for(task, 2)
    assert server.sent[-1] == {"type": "http.response.body", "body": b"", "more_body": False}
    assert task.cancelling() == 0
    assert state.board.get(0, Column.LONG_LIVED) == state.board.get(0, Column.IN_FLIGHT) == 0
    assert state.board.get(0, Column.ERRORS) == 0


async def test_event_stream_that_swallows_the_cancellation(state):
    async def stubborn(scope, receive, send):
        try:
            await events(scope, receive, send)
        except asyncio.CancelledError:
            await send({**BODY, "body": b"bye", "more_body": True})

    server = Server()
    task = await run_until(DrainAsgi(stubborn, state), http(), server, lambda: len(server.sent) == 2)
    state.board.drain = Drain.END_STREAMS
    await asyncio.wait_for(task, 2)
    assert [message.get("body") for message in server.sent[-2:]] == [b"bye", b""]
    assert task.cancelling() == 0


async def test_a_cancellation_by_somebody_else_wins(state):
    server = Server()
    task = await run_until(DrainAsgi(events, state), http(), server, lambda: len(server.sent) == 2)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(server.sent) == 2
    assert state.board.get(0, Column.IN_FLIGHT) == 0


async def test_stream_opened_while_ending_ends_too(state):
    state.board.drain = Drain.END_STREAMS
    server = Server()
    await asyncio.wait_for(DrainAsgi(events, state)(http(), server.receive, server.send), 2)
    assert server.sent[-1]["more_body"] is False


async def test_probe(state):
    seen = []

    async def app(scope, receive, send):
        seen.append(scope["headers"])
        await simple(scope, receive, send)

    wrapped = DrainAsgi(app, state, Probe("secret", 7, 2))
    server = Server()
    await wrapped(http(headers=[(b"x-instar-probe", b"secret"), (b"a", b"b")]), None, server.send)
    assert server.headers()[-2:] == [(b"x-instar-generation", b"7"), (b"x-instar-worker", b"2")]
    assert state.board.get(0, Column.REQUESTS) == 0
    server = Server()
    await wrapped(http(headers=[(b"x-instar-probe", b"wrong\xff"), (b"a", b"b")]), None, server.send)
    assert len(server.headers()) == 1
    assert seen == [[(b"a", b"b")]] * 2
    assert state.board.get(0, Column.REQUESTS) == 1


async def echo(scope, receive, send):
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] != "websocket.disconnect":
        await send({"type": "websocket.send", "text": message["text"]})
    return


def websocket():
    return {"type": "websocket", "http_version": "1.1", "path": "/", "headers": [(b"x-instar-probe", b"x")]}


def opened():
    server = Server()
    server.incoming.put_nowait({"type": "websocket.connect"})
    return server


CLOSE = {"type": "websocket.close", "code": 1012, "reason": "service restart"}


async def test_websocket_waiting_for_a_message(state):
    server = opened()
    server.incoming.put_nowait({"type": "websocket.receive", "text": "a"})
    task = await run_until(DrainAsgi(echo, state), websocket(), server, lambda: len(server.sent) == 2)
    assert state.board.get(0, Column.LONG_LIVED) == 1
    state.board.drain = Drain.END_STREAMS
    await asyncio.wait_for(task, 2)
    assert server.sent[-1] == CLOSE
    assert task.cancelling() == 0
    assert state.board.get(0, Column.LONG_LIVED) == 0


async def test_websocket_send_and_receive_after_the_close(state):
    seen = []

    async def app(scope, receive, send):
        await receive()
        await send({"type": "websocket.accept"})
        seen.append(await receive())
        seen.append(await receive())
        await send({"type": "websocket.close"})
        try:
            await send({"type": "websocket.send", "text": "x"})
        except OSError as error:
            seen.append(error)
            raise

    server = opened()
    task = await run_until(DrainAsgi(app, state), websocket(), server, lambda: len(server.sent) == 1)
    state.board.drain = Drain.END_STREAMS
    await asyncio.wait_for(task, 2)
    assert [item["code"] for item in seen[:2]] == [1012, 1012]
    assert isinstance(seen[2], ConnectionEndedError)
    assert server.sent == [{"type": "websocket.accept"}, CLOSE]
    assert state.board.get(0, Column.ERRORS) == 0


async def test_websocket_is_closed_after_its_accept_not_before(state):
    state.board.drain = Drain.END_STREAMS
    server = opened()
    await asyncio.wait_for(DrainAsgi(echo, state)(websocket(), server.receive, server.send), 2)
    assert server.sent == [{"type": "websocket.accept"}, CLOSE]


async def test_websocket_rejected_by_the_application(state):
    async def reject(scope, receive, send):
        await receive()
        await send({"type": "websocket.close", "code": 4000})

    state.board.drain = Drain.END_STREAMS
    server = opened()
    await DrainAsgi(reject, state)(websocket(), server.receive, server.send)
    await asyncio.sleep(0.15)
    assert server.sent == [{"type": "websocket.close", "code": 4000}]


async def test_websocket_cancelled_by_somebody_else(state):
    server = opened()
    task = await run_until(DrainAsgi(echo, state), websocket(), server, lambda: len(server.sent) == 1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert state.board.get(0, Column.LONG_LIVED) == 0


async def test_websocket_error_counts(state):
    async def broken(scope, receive, send):
        raise RuntimeError

    with pytest.raises(RuntimeError):
        await DrainAsgi(broken, state)(websocket(), None, None)
    assert state.board.get(0, Column.ERRORS) == 1


async def test_lifespan_passes_through_and_starts_the_beat(state):
    seen = []

    async def app(scope, receive, send):
        seen.append(scope["type"])

    await DrainAsgi(app, state)({"type": "lifespan"}, None, None)
    assert seen == ["lifespan"]
    first = state.board.get(0, Column.LOOP_BEAT)
    await asyncio.sleep(0.25)
    assert state.board.get(0, Column.LOOP_BEAT) > first > 0
