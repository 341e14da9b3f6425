"""What all client classes share: the world they live in, and how a request is entered in the ledger."""

from __future__ import annotations

import asyncio
import dataclasses
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

from load.http1 import Head, Response, read_response
from load.ledger import Ledger, Outcome, Record
from load.pipe import Broken, Pipe
from load.target import Target

#: Longest wait for a response, in seconds.
ANSWER_LIMIT = 40.0
#: A client backs off this long after a failure, so that one broken moment does not fill the report.
BACK_OFF = 0.05


@dataclasses.dataclass
class World:
    """One run."""

    target: Target
    ledger: Ledger
    stop: asyncio.Event
    #: Folder shared with the application: it holds a response back until the named file appears.
    gates: Path
    #: The server's keep-alive time in seconds.
    keep_alive: float = 30.0
    rng: random.Random = dataclasses.field(default_factory=random.Random)

    async def pause(self, seconds: float) -> None:
        """Sleep, but wake up at the end of the run."""
        try:
            await asyncio.wait_for(self.stop.wait(), seconds)
        except TimeoutError:
            return

    def token(self) -> str:
        """A name that no other request has."""
        return f"{self.rng.getrandbits(64):016x}"


@dataclasses.dataclass
class Sent:
    """A request on its way."""

    pipe: Pipe | None
    started: float
    #: Our end of a connection that is not a pipe.
    port: int = 0


Check = Callable[[Response], str]


class Client:
    """One simulated client: `run` repeats `step` until the run ends."""

    name: ClassVar[str] = ""

    # Options. Each class variable with a default is one.
    #: Seconds to wait between requests: a random part of it.
    pause: float = 0.0
    path: str = ""

    def __init__(self, world: World, name: str = "", **options: Any) -> None:
        self.world = world
        self.label = name or self.name
        for option, value in options.items():
            if not hasattr(type(self), option):
                raise TypeError(f"{self.name} clients have no option {option}")
            setattr(self, option, value)

    async def run(self) -> None:
        """Ask until told to stop. A request under way is finished, not cut."""
        await self.world.pause(self.world.rng.random() * 0.2)
        while not self.world.stop.is_set():
            started = time.monotonic()
            try:
                await self.step()
            except Broken as error:
                self.failed(Sent(None, started), str(error))
                await asyncio.sleep(BACK_OFF)
            if self.pause:
                await self.world.pause(self.world.rng.random() * self.pause)
        await self.finish()

    async def step(self) -> None:
        """One request, or one round of them."""
        raise NotImplementedError

    async def finish(self) -> None:
        """Close what is open."""

    # --- the ledger ---

    def enter(self, sent: Sent, outcome: Outcome, head: Head | None = None, detail: str = "") -> None:
        """Add a record."""
        pipe = sent.pipe
        self.world.ledger.add(
            Record(
                client=self.label,
                outcome=outcome,
                connection=pipe.id if pipe else 0,
                connect_started=pipe.connect_started if pipe else sent.started,
                started=sent.started,
                ended=time.monotonic(),
                generation=head.generation if head else 0,
                process=head.process if head else 0,
                detail=detail,
                port=pipe.port if pipe else sent.port,
            )
        )

    def failed(self, sent: Sent, detail: str, head: Head | None = None) -> None:
        """Enter a failed request."""
        self.enter(sent, Outcome.FAILED, head, detail)

    def note(self, text: str, count: int = 1) -> None:
        """Count something that is neither success nor failure."""
        self.world.ledger.notes[f"{self.label}: {text}"] += count

    # --- HTTP/1 ---

    async def connect(self, protocol: str = "http/1.1") -> Pipe:
        """A new connection."""
        return await Pipe.open(self.world.target, protocol)

    async def answer(self, sent: Sent, check: Check) -> Response | None:
        """Read the response to a request that was sent, judge it and enter it; None when it failed."""
        assert sent.pipe is not None
        try:
            response = await asyncio.wait_for(read_response(sent.pipe), ANSWER_LIMIT)
        except Broken as error:
            self.failed(sent, str(error))
            return None
        except TimeoutError:
            self.failed(sent, f"no response within {ANSWER_LIMIT} s")
            return None
        if problem := check(response):
            self.failed(sent, problem, response)
            return None
        self.enter(sent, Outcome.OK, response)
        sent.pipe.idle_since = time.monotonic()
        return response

    def question(self, size: int | None = None) -> tuple[bytes, Check]:
        """A GET whose answer must carry our token and have the size asked for."""
        token = self.world.token()
        size = size if size is not None else self.world.rng.choice((0, 0, 200, 5_000, 60_000))
        return self.get(f"{self.path or '/'}?n={token}&size={size}"), lambda response: judge(response, token, size)

    def get(self, path: str, *extra: str) -> bytes:
        """The bytes of a GET."""
        lines = [f"GET {path} HTTP/1.1", f"Host: {self.world.target.authority}", *extra, "", ""]
        return "\r\n".join(lines).encode()


def judge(response: Response, token: str, size: int = 0) -> str:
    """What is wrong with an answer; empty when it is right."""
    if response.status != 200:
        return f"status {response.status}: {response.body[:80]!r}"
    if not response.body.startswith(f"{token} {response.generation} ".encode()):
        return f"answer to another request: {response.body[:60]!r}, wanted {token}"
    if len(response.body) < size:
        return f"{len(response.body)} bytes instead of {size}"
    return ""


class KeepAliveClient(Client):
    """A client with one connection that it uses again and again."""

    pipe: Pipe | None = None

    async def connection(self) -> Pipe:
        """The open connection, or a new one. Looks first whether the server has closed it."""
        if self.pipe is not None and self.pipe.ended:
            self._found_closed(self.pipe)
            self.drop()
        if self.pipe is None:
            self.pipe = await self.connect()
        return self.pipe

    def _found_closed(self, pipe: Pipe) -> None:
        ended = pipe.ended_at or 0.0
        idle = ended - pipe.idle_since
        # Half a second: the server's clock for this connection started before ours.
        outcome = Outcome.EXPIRED if idle > self.world.keep_alive - 0.5 else Outcome.CLOSED_IDLE
        self.enter(Sent(pipe, ended), outcome, None, f"{pipe.how} after {idle:.2f} s idle")

    def drop(self) -> None:
        """Close the connection."""
        if self.pipe is not None:
            self.pipe.close()
        self.pipe = None

    async def settle(self, response: Response | None) -> None:
        """After an answer: give the connection up if it was the last one there, or failed."""
        if response is not None and not response.last:
            return
        if response is not None:
            self.note("told to close")
        self.drop()
        if response is None:
            await asyncio.sleep(BACK_OFF)

    async def finish(self) -> None:
        self.drop()
