"""A router in front of a node that says what it got, or misbehaves as the path says."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
from collections.abc import AsyncIterator

from instar.config.address import parse_address
from instar.uwsgi import model
from instar.uwsgi.router import Router


def parse_block(block: bytes) -> dict[str, str]:
    found, at = {}, 0
    items = []
    while at < len(block):
        (size,) = struct.unpack_from("<H", block, at)
        items.append(block[at + 2 : at + 2 + size])
        at += 2 + size
    assert at == len(block)
    assert len(items) % 2 == 0
    for name, value in zip(items[::2], items[1::2], strict=True):
        assert name.decode() not in found, f"{name!r} twice"
        found[name.decode()] = value.decode("latin-1")
    return found


class Node:
    """One uwsgi server. `requests`: variables and body of each request, in the order of their heads."""

    def __init__(self) -> None:
        self.requests: list[tuple[dict[str, str], bytearray]] = []
        self.release = asyncio.Event()
        self.arrived = asyncio.Event()
        self.hung_up = asyncio.Event()
        self.sent = 0
        self.server: asyncio.Server | None = None
        self.port = 0

    async def start(self) -> Node:
        self.server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self.server.sockets[0].getsockname()[1]
        return self

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            modifier, size, other = struct.unpack("<BHB", await reader.readexactly(4))
            assert (modifier, other) == (0, 0)
            variables = parse_block(await reader.readexactly(size))
            body = bytearray()
            self.requests.append((variables, body))
            self.arrived.set()
            await self._answer(variables, body, reader, writer)
        writer.close()

    async def _answer(self, variables, body, reader, writer) -> None:
        path, query = variables["PATH_INFO"], variables["QUERY_STRING"]
        if path == "/raw":
            writer.write(query.encode("latin-1").decode("unicode_escape").encode("latin-1"))
        elif path == "/early":
            writer.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno")
            await writer.drain()
            await self.release.wait()
        elif path == "/deaf":
            await self.release.wait()
        elif path == "/reset":
            writer.write(b"HTTP/1.1 200 OK\r\n\r\nhalf")
            await writer.drain()
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            if query != "whole":
                writer.transport.abort()
        elif path == "/endless":
            writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
            with contextlib.suppress(OSError):
                while True:
                    writer.write(b"x" * 10000)
                    await writer.drain()
                    self.sent += 10000
            self.hung_up.set()
        else:
            left = int(variables.get("CONTENT_LENGTH") or 0)
            while left:
                piece = await reader.read(left)
                if not piece:
                    self.hung_up.set()
                    return
                body += piece
                left -= len(piece)
            text = json.dumps({"vars": variables, "body": len(body)}).encode()
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n")
            writer.write(b"Content-Length: %d\r\n\r\n" % len(text) + text)
        await writer.drain()


class World:
    def __init__(self, router: Router, node: Node, said: list[str]) -> None:
        self.router, self.node, self.said = router, node, said
        self.port = router.listener.getsockname()[1]

    async def open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port)

    async def raw(self, data: bytes) -> bytes:
        """All that comes back until the router closes."""
        reader, writer = await self.open()
        writer.write(data)
        with contextlib.suppress(ConnectionResetError):
            found = await asyncio.wait_for(reader.read(), 20)
            writer.close()
            return found
        return b""

    async def get(self, path: str = "/", *lines: str, method: str = "GET", version: str = "1.1") -> bytes:
        extra = "".join(f"{line}\r\n" for line in lines)
        return await self.raw(f"{method} {path} HTTP/{version}\r\nHost: x\r\nConnection: close\r\n{extra}\r\n".encode())


@contextlib.asynccontextmanager
async def world(*, timeout: float = 20.0) -> AsyncIterator[World]:
    node = await Node().start()
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setblocking(False)
    said: list[str] = []
    plan = model.Router("127.0.0.1:0", (f"127.0.0.1:{node.port}",), timeout)
    router = Router(parse_address("127.0.0.1:0"), listener, plan, said.append)
    router.resume()
    try:
        yield World(router, node, said)
    finally:
        node.release.set()
        await router.stop(0)
        node.server.close()
        listener.close()


async def response(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    """Head and body of the next response, which has a length."""
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)
    length = next(int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:"))
    return head, await asyncio.wait_for(reader.readexactly(length), 20)
