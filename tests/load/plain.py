"""HTTP/1 client classes, by the way they use their connection."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Sequence

from load.base import BACK_OFF, Client, KeepAliveClient, Sent, judge
from load.http1 import Response
from load.ledger import Outcome
from load.pipe import Pipe


class New(Client):
    """A new connection for each request."""

    name = "new"

    async def step(self) -> None:
        pipe = await self.connect()
        data, check = self.question()
        sent = Sent(pipe, time.monotonic())
        await pipe.write(data.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        if await self.answer(sent, check) is None:
            await asyncio.sleep(BACK_OFF)
        pipe.close()


class Preconnect(Client):
    """Connects, and sends its first request some time later, as browsers do."""

    name = "preconnect"

    #: Longest wait before the first request, in seconds.
    wait: float = 2.0

    async def step(self) -> None:
        pipe = await self.connect()
        await self.world.pause(self.world.rng.random() * self.wait)
        sent = Sent(pipe, time.monotonic())
        if pipe.ended:
            idle = sent.started - pipe.connected_at
            self.enter(sent, Outcome.CLOSED_IDLE, None, f"{pipe.how}, never used, {idle:.2f} s old")
        else:
            data, check = self.question()
            await pipe.write(data)
            if await self.answer(sent, check) is None:
                await asyncio.sleep(BACK_OFF)
        pipe.close()


class Busy(KeepAliveClient):
    """Keep-alive, the next request follows at once (or after `pause`)."""

    name = "busy"

    async def step(self) -> None:
        pipe = await self.connection()
        data, check = self.question()
        sent = Sent(pipe, time.monotonic())
        await pipe.write(data)
        await self.settle(await self.answer(sent, check))


class Idle(Busy):
    """Keep-alive, idle for a random part of `pause` between requests."""

    name = "idle"

    pause: float = 2.0


class Page(KeepAliveClient):
    """Keep-alive GETs of one page of any application; the body must contain `expect`."""

    name = "page"

    path: str = "/"
    expect: str = ""
    #: Further header lines.
    headers: Sequence[str] = ()
    status: int = 200

    async def step(self) -> None:
        pipe = await self.connection()
        sent = Sent(pipe, time.monotonic())
        await pipe.write(self.get(self.path, *self.headers))
        await self.settle(await self.answer(sent, self._judge))

    def _judge(self, response: Response) -> str:
        if response.status != self.status:
            return f"status {response.status}: {response.body[:80]!r}"
        return "" if self.expect.encode() in response.body else f"without {self.expect!r}: {response.body[:200]!r}"


class NewPage(Page):
    """`Page` with a new connection for each request."""

    name = "newpage"

    async def settle(self, response: Response | None) -> None:
        await super().settle(response)
        self.drop()


class Static(KeepAliveClient):
    """Keep-alive GETs of a static file, compared byte by byte (by its SHA-256)."""

    name = "static"

    path: str = "/static/file.bin"
    sha256: str = ""

    async def step(self) -> None:
        pipe = await self.connection()
        sent = Sent(pipe, time.monotonic())
        await pipe.write(self.get(self.path))
        await self.settle(await self.answer(sent, self._judge))

    def _judge(self, response: Response) -> str:
        if response.status != 200:
            return f"status {response.status}: {response.body[:80]!r}"
        return "" if hashlib.sha256(response.body).hexdigest() == self.sha256 else "another content"


class Pipelined(KeepAliveClient):
    """Several requests in one write; those behind `Connection: close` have to be sent again."""

    name = "pipelined"

    batch: int = 6

    async def step(self) -> None:
        pipe = await self.connection()
        questions = [self.question(size=300) for _ in range(self.batch)]
        sent = Sent(pipe, time.monotonic())
        await pipe.write(b"".join(data for data, _ in questions))
        for number, (_, check) in enumerate(questions):
            response = await self.answer(sent, check)
            if response is None or response.last:
                for _ in range(self.batch - number - 1):
                    self.enter(sent, Outcome.RESENT, None, "pipelined behind the last response")
                await self.settle(response)
                return


class SlowHead(KeepAliveClient):
    """The head of the request trickles in on a kept-alive connection."""

    name = "slowhead"

    #: Longest pause between two parts of the head, in seconds.
    trickle: float = 0.4

    async def step(self) -> None:
        pipe = await self.connection()
        data, check = self.question()
        sent = Sent(pipe, time.monotonic())
        third = len(data) // 3
        for part in (data[:third], data[third : 2 * third], data[2 * third :]):
            await pipe.write(part)
            await asyncio.sleep(self.world.rng.random() * self.trickle)
        await self.settle(await self.answer(sent, check))


class SlowUpload(KeepAliveClient):
    """A request body that takes its time; the answer carries the body's SHA-256."""

    name = "upload"

    size: int = 200_000
    parts: int = 20
    #: Time for the whole body, on average.
    seconds: float = 2.0

    async def step(self) -> None:
        pipe = await self.connection()
        token, body = self.world.token(), self.world.rng.randbytes(self.size)
        sent = Sent(pipe, time.monotonic())
        await pipe.write(self.get(f"/upload?n={token}", f"Content-Length: {self.size}").replace(b"GET", b"POST", 1))
        await self._trickle(pipe, body)
        digest = hashlib.sha256(body).hexdigest()

        def check(response: Response) -> str:
            return judge(response, token) or ("" if digest.encode() in response.body else "another body arrived")

        await self.settle(await self.answer(sent, check))

    async def _trickle(self, pipe: Pipe, body: bytes) -> None:
        step = -(-len(body) // self.parts)
        for place in range(0, len(body), step):
            await pipe.write(body[place : place + step])
            await asyncio.sleep(self.world.rng.random() * 2 * self.seconds / self.parts)


class Gated(KeepAliveClient):
    """The application holds the response back until we let it go: long requests without guessing at times."""

    name = "gated"

    #: Longest time that the response is held back, in seconds.
    hold: float = 2.0

    async def step(self) -> None:
        pipe = await self.connection()
        token = self.world.token()
        sent = Sent(pipe, time.monotonic())
        await pipe.write(self.get(f"/gate?n={token}"))
        await self.world.pause(self.world.rng.random() * self.hold)
        (self.world.gates / token).touch()
        await self.settle(await self.answer(sent, lambda response: judge(response, token)))
        (self.world.gates / token).unlink()


class Streamed(KeepAliveClient):
    """A chunked response that takes its time."""

    name = "stream"

    chunks: int = 10
    seconds: float = 1.0

    async def step(self) -> None:
        pipe = await self.connection()
        token = self.world.token()
        sent = Sent(pipe, time.monotonic())
        await pipe.write(self.get(f"/stream?n={token}&chunks={self.chunks}&seconds={self.seconds}"))

        def check(response: Response) -> str:
            found = response.body.count(b"chunk ")
            return judge(response, token) or ("" if found == self.chunks else f"{found} of {self.chunks} chunks")

        await self.settle(await self.answer(sent, check))
