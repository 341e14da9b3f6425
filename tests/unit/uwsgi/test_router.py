"""The router from HTTP to the uwsgi protocol: streams both ways, and is not to be confused."""

# ruff: noqa: E501 - one message a line
from __future__ import annotations

import asyncio
import contextlib
import json
import socket

import pytest
from router_world import Node, response, world

from instar.config.address import parse_address
from instar.uwsgi import model
from instar.uwsgi.nodes import Nodes


def variables(answer: bytes) -> dict[str, str]:
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n"), answer
    return json.loads(answer.partition(b"\r\n\r\n")[2])["vars"]


async def test_the_variables_of_a_request() -> None:
    async with world() as it:
        found = variables(
            await it.get(
                "/a%20b/%C3%BC?x=%20y",
                "Content-Type: text/x",
                "X-Two: 1",
                "X-Two: 2",
                "Cookie: a=1",
                "Cookie: b=2",
                "Proxy: http://evil",
                "X_Under: 1",
            )
        )
    port = found.pop("REMOTE_PORT")
    assert port.isdigit()
    assert found == {
        "REQUEST_METHOD": "GET",
        "REQUEST_URI": "/a%20b/%C3%BC?x=%20y",
        "PATH_INFO": "/a b/\xc3\xbc",
        "QUERY_STRING": "x=%20y",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "SCRIPT_NAME": "",
        "SERVER_NAME": socket.gethostname(),
        "SERVER_PORT": str(it.port),
        "UWSGI_ROUTER": "http",
        "REMOTE_ADDR": "127.0.0.1",
        "HTTP_HOST": "x",
        "HTTP_CONNECTION": "close",
        "CONTENT_TYPE": "text/x",
        "HTTP_X_TWO": "1, 2",
        "HTTP_COOKIE": "a=1; b=2",
    }


async def test_keep_alive_and_pipelining() -> None:
    async with world() as it:
        reader, writer = await it.open()
        writer.write(b"".join(b"GET /%d HTTP/1.1\r\nHost: x\r\n\r\n" % number for number in range(20)))
        for number in range(20):
            head, body = await response(reader)
            assert b"Connection" not in head
            assert json.loads(body)["vars"]["PATH_INFO"] == f"/{number}"
        writer.close()
        assert it.router.status()["requests"] == 20


async def test_http_1_0() -> None:
    async with world() as it:
        assert b"Connection: close" in await it.raw(b"GET / HTTP/1.0\r\n\r\n")
        reader, writer = await it.open()
        for _ in range(2):
            writer.write(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
            assert b"Connection: keep-alive" in (await response(reader))[0]
        writer.close()


async def test_a_body_with_a_length_streams() -> None:
    async with world() as it:
        reader, writer = await it.open()
        writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 6000000\r\n\r\n" + b"x" * 1000)
        # The node has the head, and the first bytes, before the rest is sent.
        await asyncio.wait_for(it.node.arrived.wait(), 20)
        writer.write(b"x" * 5_999_000)
        assert json.loads((await response(reader))[1])["body"] == 6_000_000
        writer.close()


@pytest.mark.parametrize("size", [0, 1, 300_000])
async def test_a_body_in_chunks_gets_a_length(size) -> None:
    async with world() as it:
        reader, writer = await it.open()
        writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(3 if size else 0):
            writer.write(b"%x\r\n%b\r\n" % (size, b"y" * size))
        writer.write(b"0\r\n\r\n")
        found = json.loads((await response(reader))[1])
        assert found["body"] == 3 * size
        assert found["vars"]["CONTENT_LENGTH"] == str(3 * size)
        assert "HTTP_TRANSFER_ENCODING" not in found["vars"]
        # The connection is in order: it takes another request.
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert json.loads((await response(reader))[1])["body"] == 0
        writer.close()


@pytest.mark.parametrize("framing", [b"Content-Length: 5", b"Transfer-Encoding: chunked"])
async def test_expect_continue(framing) -> None:
    async with world() as it:
        reader, writer = await it.open()
        writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n" + framing + b"\r\n\r\n")
        assert await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20) == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(b"hello" if b"Length" in framing else b"5\r\nhello\r\n0\r\n\r\n")
        assert json.loads((await response(reader))[1])["body"] == 5
        writer.close()
        assert (await it.get("/", "Expect: the worst")).startswith(b"HTTP/1.1 417 ")


RAW = [
    # what the node answers, what the client gets
    (b"HTTP/1.1 200 OK\\r\\n\\r\\nabc", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n3\r\nabc\r\n0\r\n\r\n"),
    (b"HTTP/1.0 200 OK\\r\\nContent-Length: 3\\r\\n\\r\\nabcdef", b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\nabc"),
    (b"HTTP/1.1 204 No\\r\\nContent-Length: 0\\r\\n\\r\\n", b"HTTP/1.1 204 No\r\nConnection: close\r\n\r\n"),
    (b"HTTP/1.1 304 Same\\r\\nContent-Length: 9\\r\\n\\r\\n", b"HTTP/1.1 304 Same\r\nContent-Length: 9\r\nConnection: close\r\n\r\n"),
    (b"HTTP/1.1 200 OK\\r\\nX: \\xe9\\r\\nSet-Cookie: a\\r\\nSet-Cookie: b\\r\\nContent-Length: 0\\r\\n\\r\\n",
     b"HTTP/1.1 200 OK\r\nX: \xe9\r\nSet-Cookie: a\r\nSet-Cookie: b\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"),
    (b"HTTP/1.1 200 OK\\r\\nTransfer-Encoding: chunked\\r\\n\\r\\n2;x=y\\r\\nab\\r\\n1\\r\\nc\\r\\n0\\r\\nTrailer: x\\r\\n\\r\\n",
     b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n"),
    (b"HTTP/1.1 103 Early\\r\\nLink: x\\r\\n\\r\\nHTTP/1.1 200 OK\\r\\nContent-Length: 1\\r\\n\\r\\nz",
     b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nConnection: close\r\n\r\nz"),
    (b"HTTP/1.1 599\\r\\nContent-Length: 0\\r\\n\\r\\n", b"HTTP/1.1 599 \r\nContent-Length: 0\r\nConnection: close\r\n\r\n"),
]  # fmt: skip


@pytest.mark.parametrize(("answer", "expected"), RAW)
async def test_responses(answer, expected) -> None:
    async with world() as it:
        raw = b"GET /raw?" + answer.replace(b" ", b"\\x20") + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        assert await it.raw(raw) == expected


async def test_head_has_no_body_and_the_connection_goes_on() -> None:
    async with world() as it:
        reader, writer = await it.open()
        for _ in range(2):
            writer.write(b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\n")
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)
            assert b"Content-Length: " in head
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert json.loads((await response(reader))[1])["vars"]["REQUEST_METHOD"] == "GET"
        writer.close()


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 200 OK\\r\\nContent-Length",
        b"<html>",
        b"HTTP/1.1 2000 OK\\r\\n\\r\\n",
        b"HTTP/1.1 200 OK\\r\\nContent-Length: 1\\r\\nContent-Length: 2\\r\\n\\r\\nab",
        b"HTTP/1.1 200 OK\\r\\nContent-Length: 1\\r\\nTransfer-Encoding: chunked\\r\\n\\r\\n0\\r\\n\\r\\n",
        b"HTTP/1.1 200 OK\\r\\nContent-Length: -1\\r\\n\\r\\n",
        b"HTTP/1.1 200 OK\\r\\nBad Name: 1\\r\\n\\r\\n",
        b"HTTP/1.1 200 OK\\r\\nX: 1\\n2\\r\\n\\r\\n",
        b"HTTP/1.1 200 OK\\r\\n folded\\r\\n\\r\\n",
    ],
)
async def test_a_node_that_does_not_answer_properly(answer) -> None:
    async with world() as it:
        raw = b"GET /raw?" + answer.replace(b" ", b"\\x20") + b" HTTP/1.1\r\nHost: x\r\n\r\n"
        assert (await it.raw(raw)).startswith(b"HTTP/1.1 502 Bad Gateway\r\n")
        assert len(it.said) == 2, it.said
        assert "a node failed: " in it.said[1]


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\\r\\nContent-Length: 9\\r\\n\\r\\nabc",
        b"HTTP/1.1 200 OK\\r\\nTransfer-Encoding: chunked\\r\\n\\r\\n5\\r\\nabc",
        b"HTTP/1.1 200 OK\\r\\nTransfer-Encoding: chunked\\r\\n\\r\\nhi\\r\\n",
    ],
)
async def test_a_response_that_is_cut_looks_cut(answer) -> None:
    async with world() as it:
        reader, writer = await it.open()
        writer.write(b"GET /raw?" + answer.replace(b" ", b"\\x20") + b" HTTP/1.1\r\nHost: x\r\n\r\n")
        with contextlib.suppress(ConnectionResetError):
            assert b"0\r\n\r\n" not in await asyncio.wait_for(reader.read(), 20)
            raise AssertionError("the end looks proper")
        writer.close()


async def test_a_node_that_resets_within_a_response_without_length() -> None:
    async with world() as it:
        reader, writer = await it.open()
        writer.write(b"GET /reset HTTP/1.1\r\nHost: x\r\n\r\n")
        with pytest.raises(ConnectionResetError):
            await asyncio.wait_for(reader.read(), 20)
        writer.close()


async def test_an_answer_before_the_body_was_read() -> None:
    async with world() as it:
        reader, writer = await it.open()
        writer.write(b"POST /early HTTP/1.1\r\nHost: x\r\nContent-Length: 50000000\r\n\r\n" + b"x" * 1000)
        head, body = await response(reader)
        assert head.startswith(b"HTTP/1.1 403 ")
        assert b"Connection: close" in head
        assert body == b"no"
        writer.close()


@pytest.mark.parametrize("body", [b"", b"x" * 20_000_000])
async def test_a_silent_node(body) -> None:
    async with world(timeout=0.5) as it:
        reader, writer = await it.open()
        writer.write(b"POST /deaf HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        head, _ = await response(reader)
        assert head.startswith(b"HTTP/1.1 504 ")
        writer.close()


async def test_back_pressure_and_the_end_of_a_client() -> None:
    async with world() as it:
        reader, writer = await it.open()
        writer.write(b"GET /endless HTTP/1.1\r\nHost: x\r\n\r\n")
        await reader.readuntil(b"\r\n\r\n")
        before = -1
        while before != it.node.sent:
            # Nobody reads: the node stops as soon as the buffers in between are full.
            before = it.node.sent
            await asyncio.sleep(0.3)
        assert it.node.sent < 50_000_000
        writer.close()
        await asyncio.wait_for(it.node.hung_up.wait(), 20)


async def test_a_client_that_leaves_within_its_body() -> None:
    async with world() as it:
        _, writer = await it.open()
        writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nhalf")
        await asyncio.wait_for(it.node.arrived.wait(), 20)
        writer.close()
        await asyncio.wait_for(it.node.hung_up.wait(), 20)


async def test_too_much_for_a_packet() -> None:
    async with world() as it:
        lines = [f"X-{number}: {'y' * 9000}" for number in range(8)]
        assert (await it.get("/", *lines)).startswith(b"HTTP/1.1 431 ")
        assert not it.node.requests


@pytest.mark.parametrize("upgrade", ["websocket", "WebSocket"])
async def test_websockets_are_refused(upgrade) -> None:
    async with world() as it:
        found = await it.raw(
            f"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: {upgrade}\r\n"
            "Sec-WebSocket-Key: x\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        assert found.startswith(b"HTTP/1.1 501 ")
        assert not it.node.requests


async def test_other_upgrades_are_ignored() -> None:
    async with world() as it:
        found = variables(await it.get("/", "Upgrade: h2c", "HTTP2-Settings: x"))
        assert "HTTP_UPGRADE" not in found


# Whatever a proxy in front of us may have understood, the node must never see a second request in these.
SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"
CORPUS = [
    b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n" + b"5\r\nhello\r\n0\r\n\r\n" + SMUGGLED,
    b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n" + SMUGGLED,
    b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nContent-Length: 40\r\n\r\n" + SMUGGLED,
    b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0, 40\r\n\r\n" + SMUGGLED,
    b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: +0\r\n\r\n" + SMUGGLED,
    b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0x0\r\n\r\n" + SMUGGLED,
    b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n" + SMUGGLED,
    b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length : 0\r\n\r\n" + SMUGGLED,
    b"POST / HTTP/1.1\r\nHost: x\r\nContent_Length: 0\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
    b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
    b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n" + SMUGGLED,
    b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
    b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n" + SMUGGLED,
    b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
    b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0x0\r\n\r\n" + SMUGGLED,
    b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n\r\n" + SMUGGLED,
    b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nabc\r\n0\r\n\r\n" + SMUGGLED,
    b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\nab\n0\n\n" + SMUGGLED,
    b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffff0\r\n\r\n" + SMUGGLED,
    b"GET / HTTP/1.1\r\nHost: x\r\nX: 1\rContent-Length: 5\r\n\r\n" + SMUGGLED,
    b"GET / HTTP/1.1\r\nHost: x\r\nX: a\0b\r\n\r\n" + SMUGGLED,
    b"GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n" + SMUGGLED,
    b"GET / HTTP/1.1\r\n\r\n" + SMUGGLED,
    b"GET / HTTP/1.1\r\nHost: x\r\n Content-Length: 9\r\n\r\n" + SMUGGLED,
    b"GET / HTTP/2.0\r\nHost: x\r\n\r\n" + SMUGGLED,
    b"GET / HTTP/1.1 x\r\nHost: x\r\n\r\n" + SMUGGLED,
    b"CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n" + SMUGGLED,
    b"GET http://a/ HTTP/1.1\r\nHost x\r\n\r\n" + SMUGGLED,
]  # fmt: skip


@pytest.mark.parametrize("raw", CORPUS, ids=range(len(CORPUS)))
async def test_request_smuggling(raw) -> None:
    async with world(timeout=2.0) as it:
        found = await it.raw(raw)
        assert found.startswith((b"HTTP/1.1 4", b"HTTP/1.0 4", b"HTTP/1.1 5")) or not found, found
        assert not any(variables["PATH_INFO"] == "/smuggled" for variables, _ in it.node.requests)
        assert found.count(b"HTTP/1.") <= 1


async def test_off_means_that_others_accept_and_open_connections_are_sent_there() -> None:
    async with world() as it:
        reader, writer = await it.open()
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"Connection: close" not in (await response(reader))[0]
        it.router.pause()
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"Connection: close" in (await response(reader))[0]
        # A new one waits in the backlog, where anybody who holds the socket may find it.
        second_reader, second = await it.open()
        second.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await asyncio.sleep(0.2)
        assert len(it.node.requests) == 2
        it.router.resume()
        await response(second_reader)
        writer.close()
        second.close()


async def test_stop_waits_for_the_open_request_and_closes_idle_connections() -> None:
    async with world() as it:
        idle, other = await it.open()
        other.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await response(idle)
        reader, writer = await it.open()
        writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\n")
        while it.router.status()["open"] != 1:
            await asyncio.sleep(0.01)
        stop = asyncio.create_task(it.router.stop(20))
        await asyncio.sleep(0.1)
        assert not stop.done()
        writer.write(b"abc")
        assert b"Connection: close" in (await response(reader))[0]
        assert await asyncio.wait_for(idle.read(), 20) == b""
        await asyncio.wait_for(stop, 20)
        for item in (writer, other):
            item.close()


async def test_nodes_take_turns_and_a_dead_one_is_left_out_for_a_while() -> None:
    nodes = [await Node().start() for _ in range(2)]
    with socket.socket() as dead:
        dead.bind(("127.0.0.1", 0))
        ports = [nodes[0].port, dead.getsockname()[1], nodes[1].port]
        now = 0.0
        ring = Nodes([parse_address(f"127.0.0.1:{port}") for port in ports], lambda: now)
        seen = []
        for _ in range(6):
            _, writer = await ring.connect()
            seen.append(writer.get_extra_info("peername")[1])
            writer.close()
        assert set(seen) == {nodes[0].port, nodes[1].port}
        assert [item["alive"] for item in ring.status()] == [True, False, True]
        now = 31.0
        assert all(item["alive"] for item in ring.status())
    for node in nodes:
        node.server.close()


async def test_no_node_at_all() -> None:
    async with world() as it:
        it.node.server.close()
        await it.node.server.wait_closed()
        assert (await it.get()).startswith(b"HTTP/1.1 502 ")
        # The only node is tried again at once, whatever it did before.
        it.router.aim(model.Router("", (f"127.0.0.1:{(await Node().start()).port}",)))
        assert (await it.get()).startswith(b"HTTP/1.1 200 ")


async def test_a_node_on_a_unix_socket_with_a_full_backlog(tmp_path) -> None:
    path = tmp_path / "node"
    with socket.socket(socket.AF_UNIX) as node:
        node.bind(str(path))
        node.listen(0)
        ring = Nodes([parse_address(f"unix:{path}")])
        first = await ring.connect()
        second = asyncio.create_task(ring.connect())
        await asyncio.sleep(0.1)
        assert not second.done()
        node.accept()[0].close()
        streams = await asyncio.wait_for(second, 20)
        for _, writer in (first, streams):
            writer.close()
