"""An HTTP/2 client (RFC 9113) on the frame level: prior knowledge on plain TCP, ALPN over TLS.

The frames come from hyperframe and hpack, the parts of h2. The `h2` connection itself refuses every frame
behind a first GOAWAY, so that it can't tell a graceful shutdown (GOAWAY with the highest id, then the real one)
from a lost stream.
"""

from __future__ import annotations

import asyncio
import dataclasses
import time

from hpack import Decoder, Encoder
from hyperframe.frame import (
    DataFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

from load.base import ANSWER_LIMIT, BACK_OFF, Client, Sent, World, judge
from load.http1 import Response
from load.ledger import Outcome
from load.pipe import Broken, Pipe

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_HIGHEST = 2**31 - 1


@dataclasses.dataclass
class Stream:
    """One request."""

    sent: Sent
    token: str
    size: int
    status: int = 0
    headers: dict[str, str] = dataclasses.field(default_factory=dict)
    body: bytearray = dataclasses.field(default_factory=bytearray)


class Session:
    """One connection: what is open on it and what the server has said of its end."""

    def __init__(self, pipe: Pipe, world: World) -> None:
        self.pipe, self.world = pipe, world
        self.streams: dict[int, Stream] = {}
        self.last_id: int | None = None
        self._next = 1
        self._encoder, self._decoder = Encoder(), Decoder()

    async def start(self, path: str, token: str, size: int) -> None:
        """Send a request."""
        target = self.world.target
        fields = [(":method", "GET"), (":scheme", target.scheme), (":authority", target.authority), (":path", path)]
        frame = HeadersFrame(self._next, self._encoder.encode(fields), flags=["END_HEADERS", "END_STREAM"])
        self.streams[self._next] = Stream(Sent(self.pipe, time.monotonic()), token, size)
        self._next += 2
        await self.pipe.write(frame.serialize())

    async def frame(self) -> Frame:
        """The next frame."""
        frame, length = Frame.parse_frame_header(memoryview(await self.pipe.exactly(9)))
        frame.parse_body(memoryview(await self.pipe.exactly(length)))
        return frame

    def headers(self, frame: HeadersFrame) -> None:
        """Take in a header block."""
        stream = self.streams.get(frame.stream_id)
        for name, value in self._decoder.decode(frame.data):
            if stream is not None and str(name) == ":status":
                stream.status = int(value)
            elif stream is not None:
                stream.headers[str(name)] = str(value)

    async def data(self, frame: DataFrame) -> None:
        """Take in a part of a body, and give the room back at once, as busy clients do."""
        if (stream := self.streams.get(frame.stream_id)) is not None:
            stream.body += frame.data
        if frame.flow_controlled_length:
            windows = [WindowUpdateFrame(0, window_increment=frame.flow_controlled_length)]
            if "END_STREAM" not in frame.flags:
                windows.append(WindowUpdateFrame(frame.stream_id, window_increment=frame.flow_controlled_length))
            await self.pipe.write(b"".join(window.serialize() for window in windows))


class Http2(Client):
    """Several streams at a time on one connection, until the server says GOAWAY."""

    name = "h2"

    pause: float = 0.02
    width: int = 3
    #: Ask for responses that are held back for at most `hold` seconds.
    gated: bool = False
    hold: float = 1.0

    async def step(self) -> None:
        pipe = await self.connect("h2")
        session = Session(pipe, self.world)
        await pipe.write(_PREFACE + SettingsFrame(0).serialize())
        try:
            await asyncio.gather(self._ask(session), self._listen(session))
        finally:
            pipe.close()

    async def _ask(self, session: Session) -> None:
        """Keep `width` streams open until the run or the connection ends."""
        while session.last_id is None and not self.world.stop.is_set() and not session.pipe.ended:
            if len(session.streams) < self.width:
                token = self.world.token()
                if self.gated:
                    await session.start(f"/gate?n={token}", token, 0)
                    asyncio.get_running_loop().call_later(self.world.rng.random() * self.hold, self._release, token)
                else:
                    size = self.world.rng.choice((0, 500, 40_000))
                    await session.start(f"/?n={token}&size={size}", token, size)
            await asyncio.sleep(self.world.rng.random() * self.pause)
        if not session.streams and not session.pipe.ended:
            # Nothing is open: wake the listener.
            session.pipe.abort()

    def _release(self, token: str) -> None:
        (self.world.gates / token).touch()

    async def _listen(self, session: Session) -> None:
        try:
            while not (self._done(session) and not session.streams):
                await self._take(session, await asyncio.wait_for(session.frame(), ANSWER_LIMIT))
        except (Broken, TimeoutError) as error:
            # Streams above the last id were never looked at; those below it are lost.
            for stream in session.streams.values():
                self.failed(stream.sent, f"{type(error).__name__} {error}, last id {session.last_id}")
            if session.streams:
                await asyncio.sleep(BACK_OFF)
            elif session.last_id is None and not self.world.stop.is_set():
                self.note("closed without GOAWAY")
            session.streams.clear()
            session.pipe.abort()

    def _done(self, session: Session) -> bool:
        return session.last_id is not None or self.world.stop.is_set()

    async def _take(self, session: Session, frame: Frame) -> None:
        if isinstance(frame, SettingsFrame) and "ACK" not in frame.flags:
            await session.pipe.write(SettingsFrame(0, flags=["ACK"]).serialize())
        elif isinstance(frame, PingFrame) and "ACK" not in frame.flags:
            await session.pipe.write(PingFrame(0, frame.opaque_data, flags=["ACK"]).serialize())
        elif isinstance(frame, GoAwayFrame):
            self._goaway(session, frame)
        elif isinstance(frame, RstStreamFrame):
            if (stream := session.streams.pop(frame.stream_id, None)) is not None:
                self.failed(stream.sent, f"RST_STREAM {frame.error_code}")
        elif isinstance(frame, HeadersFrame):
            session.headers(frame)
        elif isinstance(frame, DataFrame):
            await session.data(frame)
        if isinstance(frame, (HeadersFrame, DataFrame)) and "END_STREAM" in frame.flags:
            self._finished(session, frame.stream_id)

    def _goaway(self, session: Session, frame: GoAwayFrame) -> None:
        session.last_id = frame.last_stream_id
        which = "first" if frame.last_stream_id == _HIGHEST else "real"
        self.note(f"GOAWAY {which}" + (f" error {frame.error_code}" if frame.error_code else ""))
        for number in [number for number in session.streams if number > frame.last_stream_id]:
            self.enter(session.streams.pop(number).sent, Outcome.RESENT, None, "above the last id of GOAWAY")

    def _finished(self, session: Session, number: int) -> None:
        stream = session.streams.pop(number, None)
        if stream is None:
            return
        response = Response(1, stream.status, stream.headers, bytes(stream.body))
        if problem := judge(response, stream.token, stream.size):
            self.failed(stream.sent, problem, response)
        else:
            self.enter(stream.sent, Outcome.OK, response)
