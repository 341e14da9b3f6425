"""The load client must see every fault of a server: each test runs it against a server with one fault."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from hyperframe.frame import Frame, GoAwayFrame, HeadersFrame, SettingsFrame

from load.__main__ import build
from load.base import World
from load.ledger import Ledger, Outcome
from load.target import Target

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
TOKEN = re.compile(rb"[?&]n=([0-9a-f]+)")
SIZE = re.compile(rb"[?&]size=([0-9]+)")


async def run_against(serve: Serve, clients: dict[str, dict[str, Any]], *, records: int = 3, **options: Any) -> Ledger:
    """Run clients against a raw server until there are enough records."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            await serve(reader, writer)
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    ledger, stop = Ledger(), asyncio.Event()
    world = World(Target(port=server.sockets[0].getsockname()[1]), ledger, stop, Path("/nonexistent"), **options)
    tasks = [asyncio.create_task(client.run()) for client in build({"clients": clients}, world)]
    async with asyncio.timeout(20):
        while len(ledger.records) < records:
            await asyncio.sleep(0.01)
        stop.set()
        await asyncio.gather(*tasks)
    server.close()
    return ledger


async def read_request(reader: asyncio.StreamReader) -> bytes:
    return await reader.readuntil(b"\r\n\r\n")


def good(request: bytes, *headers: bytes) -> bytes:
    token, size = TOKEN.search(request), SIZE.search(request)
    assert token is not None
    body = (token[1] + b" 3 99 none\n").ljust(int(size[1]) if size else 0, b".")
    head = [b"HTTP/1.1 200 OK", b"X-Generation: 3", b"X-Pid: 99", b"Content-Length: %d" % len(body), *headers]
    return b"\r\n".join([*head, b"", b""]) + body


def outcomes(ledger: Ledger) -> set[Outcome]:
    return {record.outcome for record in ledger.records}


async def test_good_server() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            writer.write(good(await read_request(reader)))

    kinds: dict[str, dict[str, Any]] = {"new": {}, "busy": {}, "pipelined": {}, "slowhead": {"trickle": 0.02}}
    ledger = await run_against(serve, kinds, records=50)
    assert outcomes(ledger) == {Outcome.OK}
    assert {record.generation for record in ledger.records} == {3}
    assert {record.process for record in ledger.records} == {99}


FAULTS: dict[str, Callable[[bytes], bytes]] = {
    "nothing": lambda request: b"",
    "half a head": lambda request: b"HTTP/1.1 200 OK\r\nContent-",
    "short body": lambda request: good(request)[:-1],
    "no length and no announced close": lambda request: b"HTTP/1.1 200 OK\r\n\r\n" + good(request)[-20:],
    "malformed head": lambda request: good(request, b"Bad Header: x"),
    "two lengths": lambda request: good(request, b"Content-Length: 20"),
    "chunks without end": lambda request: b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
    "status 503": lambda request: b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n",
    "answer to another request": lambda request: good(b"?n=0123"),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("kind", ["new", "busy"])
async def test_fault_is_a_failure(kind: str, fault: str) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(FAULTS[fault](await read_request(reader)))

    ledger = await run_against(serve, {kind: {}}, records=2)
    assert outcomes(ledger) == {Outcome.FAILED}, [record.detail for record in ledger.records]


async def test_reset_is_a_failure() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(5)
        writer.transport.abort()

    ledger = await run_against(serve, {"busy": {}}, records=2)
    assert outcomes(ledger) == {Outcome.FAILED}


async def test_refused_connection_is_a_failure() -> None:
    ledger, stop = Ledger(), asyncio.Event()
    with_nobody = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
    port = with_nobody.sockets[0].getsockname()[1]
    with_nobody.close()
    await with_nobody.wait_closed()
    (client,) = build({"clients": {"new": {}}}, World(Target(port=port), ledger, stop, Path("/nonexistent")))
    task = asyncio.create_task(client.run())
    while not ledger.records:
        await asyncio.sleep(0.01)
    stop.set()
    await task
    assert outcomes(ledger) == {Outcome.FAILED}
    assert "ConnectionRefused" in ledger.records[0].detail


async def test_announced_close_is_no_failure() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(good(await read_request(reader), b"Connection: close"))

    ledger = await run_against(serve, {"busy": {}, "idle": {"pause": 0.05}}, records=20)
    assert outcomes(ledger) == {Outcome.OK}
    assert ledger.notes["busy: told to close"]


async def test_unannounced_close_of_an_idle_connection_shows() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(good(await read_request(reader)))
        await asyncio.sleep(0.02)

    ledger = await run_against(serve, {"idle": {"pause": 0.5}}, records=12)
    assert Outcome.CLOSED_IDLE in outcomes(ledger)
    closed = next(record for record in ledger.records if record.outcome is Outcome.CLOSED_IDLE)
    assert "eof after 0.0" in closed.detail


async def test_close_after_the_keep_alive_time_is_the_servers_right() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(good(await read_request(reader)))
        await asyncio.sleep(0.6)

    ledger = await run_against(serve, {"idle": {"pause": 2.0, "count": 4}}, records=16, keep_alive=1.0)
    assert Outcome.EXPIRED in outcomes(ledger)
    assert Outcome.CLOSED_IDLE not in outcomes(ledger)


async def test_pipelined_behind_a_close_is_sent_again() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(good(await read_request(reader)))
        writer.write(good(await read_request(reader), b"Connection: close"))
        await writer.drain()

    ledger = await run_against(serve, {"pipelined": {"batch": 5}}, records=10)
    assert outcomes(ledger) == {Outcome.OK, Outcome.RESENT}
    found = [record.outcome for record in ledger.records[:5]]
    assert found == [Outcome.OK] * 2 + [Outcome.RESENT] * 3


async def test_cut_event_stream_is_a_failure_and_an_ended_one_is_not() -> None:
    connections = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        writer.write(b"9\r\ndata: x\n\n\r\n")
        if connections % 2:
            writer.write(b"0\r\n\r\n")
        await writer.drain()

    ledger = await run_against(serve, {"sse": {}}, records=6)
    assert outcomes(ledger) == {Outcome.OK, Outcome.FAILED}
    assert ledger.notes["sse: ended by the server"]


async def test_http2_streams_above_goaway_are_sent_again_those_below_are_lost() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(SettingsFrame(0).serialize())
        await reader.readexactly(len(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"))
        requests = 0
        while requests < 4:
            frame, length = Frame.parse_frame_header(memoryview(await reader.readexactly(9)))
            await reader.readexactly(length)
            requests += isinstance(frame, HeadersFrame)
        writer.write(GoAwayFrame(0, last_stream_id=3).serialize())
        await writer.drain()

    ledger = await run_against(serve, {"h2": {"width": 4, "pause": 0.0}}, records=8)
    assert outcomes(ledger) == {Outcome.RESENT, Outcome.FAILED}
    lost = [record for record in ledger.records if record.outcome is Outcome.FAILED]
    assert len(lost) % 2 == 0, "streams 1 and 3 of each connection"
