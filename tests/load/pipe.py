"""A byte stream that remembers when it ended: what asyncio's streams do not tell."""

from __future__ import annotations

import asyncio
import itertools
import ssl
import time

from load.target import Target

_ids = itertools.count(1)
CONNECT_LIMIT = 20.0


class Broken(Exception):
    """The connection or what came over it is not what it should be."""


class Pipe(asyncio.Protocol):
    """One connection. `ended_at` is set the moment the loop learns of EOF or of a reset."""

    def __init__(self) -> None:
        self.id = next(_ids)
        self.connect_started = 0.0
        self.connected_at = 0.0
        self.port = 0
        #: When the last complete response ended (or the connection was made): idle since then.
        self.idle_since = 0.0
        self.ended_at: float | None = None
        self.how = ""
        self.buffer = bytearray()
        self.received = 0
        self._transport: asyncio.Transport | None = None
        self._news = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()

    @classmethod
    async def open(cls, target: Target, protocol: str = "http/1.1") -> Pipe:
        """Connect. Raises `Broken` when that fails."""
        pipe, started = cls(), time.monotonic()
        try:
            await asyncio.wait_for(_connect(pipe, target, target.tls(protocol)), CONNECT_LIMIT)
        except (OSError, ssl.SSLError, TimeoutError) as error:
            raise Broken(f"connect: {type(error).__name__} {error}") from error
        pipe.connect_started = started
        pipe.connected_at = pipe.idle_since = time.monotonic()
        return pipe

    # --- what asyncio calls ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        name = transport.get_extra_info("sockname")
        self.port = name[1] if isinstance(name, tuple) else 0

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        self.received += len(data)
        self._news.set()

    def eof_received(self) -> bool:
        self._end("eof")
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._end("eof" if exc is None else f"{type(exc).__name__}")
        self._writable.set()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def _end(self, how: str) -> None:
        if self.ended_at is None:
            self.ended_at, self.how = time.monotonic(), how
        self._news.set()

    # --- what clients call ---

    @property
    def ended(self) -> bool:
        """Whether the server has closed or reset the connection, as far as this process knows."""
        return self.ended_at is not None

    async def write(self, data: bytes) -> None:
        """Send, and wait while the buffers are full. A dead connection shows at the next read."""
        assert self._transport is not None
        if not self._transport.is_closing():
            self._transport.write(data)
        await self._writable.wait()

    async def more(self) -> bool:
        """Wait for more bytes in `buffer`; False at the end of the stream."""
        before = self.received
        while self.received == before:
            if self.ended:
                return False
            self._news.clear()
            await self._news.wait()
        return True

    async def line(self, end: bytes = b"\r\n", limit: int = 65536) -> bytes:
        """Bytes up to and without `end`."""
        while (place := self.buffer.find(end)) < 0:
            if len(self.buffer) > limit:
                raise Broken("no end of line in sight")
            await self._need()
        found = bytes(self.buffer[:place])
        del self.buffer[: place + len(end)]
        return found

    async def exactly(self, count: int) -> bytes:
        """That many bytes."""
        while len(self.buffer) < count:
            await self._need()
        found = bytes(self.buffer[:count])
        del self.buffer[:count]
        return found

    async def rest(self) -> bytes:
        """Everything up to a clean end of the stream."""
        while await self.more():
            pass
        if self.how != "eof":
            raise Broken(self.how)
        found = bytes(self.buffer)
        self.buffer.clear()
        return found

    async def _need(self) -> None:
        if not await self.more():
            raise Broken(f"{self.how} after {self.received} bytes ({len(self.buffer)} unread)")

    def close(self) -> None:
        """Close our side."""
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Drop the connection without waiting for what is unsent."""
        if self._transport is not None:
            self._transport.abort()


async def _connect(pipe: Pipe, target: Target, context: ssl.SSLContext | None) -> None:
    loop = asyncio.get_running_loop()
    name = target.host if context else None
    if target.unix:
        await loop.create_unix_connection(lambda: pipe, target.unix, ssl=context, server_hostname=name)
    else:
        await loop.create_connection(lambda: pipe, target.host, target.port, ssl=context, server_hostname=name)
