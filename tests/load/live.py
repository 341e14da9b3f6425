"""Clients of streams without an end: server-sent events and WebSockets."""

from __future__ import annotations

import asyncio
import socket
import time
from typing import Any

import websockets
from websockets.asyncio.client import ClientConnection, connect, unix_connect
from websockets.exceptions import ConnectionClosed, WebSocketException

from load.base import BACK_OFF, Client, Sent
from load.http1 import Head, read_chunk, read_head
from load.ledger import Outcome
from load.pipe import Broken, Pipe

#: Longest silence of a stream whose server sends something every 0.1 s.
SILENCE_LIMIT = 20.0


class Events(Client):
    """Server-sent events. The server may end the stream properly (last chunk), but not cut it."""

    name = "sse"

    async def step(self) -> None:
        pipe = await self.connect()
        sent = Sent(pipe, time.monotonic())
        await pipe.write(self.get(self.path or "/events"))
        head: Head | None = None
        try:
            head = await asyncio.wait_for(read_head(pipe), SILENCE_LIMIT)
            await self._follow(pipe, sent, head)
        except (Broken, TimeoutError) as error:
            self.failed(sent, f"stream cut: {type(error).__name__} {error}", head)
            await asyncio.sleep(BACK_OFF)
        pipe.close()

    async def _follow(self, pipe: Pipe, sent: Sent, head: Head) -> None:
        if head.status != 200 or not head.headers.get("content-type", "").startswith("text/event-stream"):
            raise Broken(f"status {head.status}, {head.headers}")
        events = 0
        while not self.world.stop.is_set():
            data = await asyncio.wait_for(read_chunk(pipe), SILENCE_LIMIT)
            if not data:
                self.note("ended by the server")
                break
            if events == 0:
                self.enter(sent, Outcome.OK, head)
            events += data.count(b"\n\n")
        self.note("events", events)
        if events == 0 and not self.world.stop.is_set():
            self.enter(sent, Outcome.OK, head, "ended before the first event")


class WebSocket(Client):
    """An echo over a WebSocket. The server may close with 1012 (RFC 6455 section 7.4, IANA: service restart)."""

    name = "websocket"

    path: str = "/ws"
    #: Seconds between two messages, on average.
    gap: float = 0.05

    async def _dial(self, sent: Sent) -> Any:
        target = self.world.target
        url = f"{'wss' if target.ca else 'ws'}://{target.authority}{self.path}"
        if target.unix:
            return unix_connect(target.unix, url, open_timeout=20, compression=None)
        # Its port has to be known even if the handshake fails.
        sock = socket.socket()
        sock.setblocking(False)
        try:
            await asyncio.wait_for(asyncio.get_running_loop().sock_connect(sock, (target.host, target.port)), 20)
        except BaseException:
            sock.close()
            raise
        sent.port = sock.getsockname()[1]
        return connect(url, sock=sock, ssl=target.tls(), open_timeout=20, compression=None, proxy=None)

    async def step(self) -> None:
        sent = Sent(None, time.monotonic())
        try:
            async with await self._dial(sent) as connection:
                await self._talk(sent, connection)
        except ConnectionClosed as error:
            code = error.rcvd.code if error.rcvd else None
            self.note(f"closed {code or 'abnormally'}")
            if code != websockets.CloseCode.SERVICE_RESTART:
                self.failed(sent, f"closed with {code}: {error}")
        except (OSError, TimeoutError, WebSocketException) as error:
            self.failed(sent, f"{type(error).__name__} {error}")
            await asyncio.sleep(BACK_OFF)

    async def _talk(self, sent: Sent, connection: ClientConnection) -> None:
        first = True
        while not self.world.stop.is_set():
            token = self.world.token()
            await connection.send(token)
            answer = str(await asyncio.wait_for(connection.recv(), SILENCE_LIMIT))
            if not answer.startswith(f"{token} "):
                self.failed(sent, f"answer to another message: {answer[:60]!r}")
                return
            if first:
                _, generation, process, *_ = answer.split(" ")
                self.enter(sent, Outcome.OK, Head(1, 101, {"x-generation": generation, "x-pid": process}))
                first = False
            self.note("echoes")
            await self.world.pause(self.world.rng.random() * 2 * self.gap)
