"""One request through the router: HTTP on one side, the uwsgi protocol on the other, streaming in both directions."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import tempfile
from collections.abc import AsyncIterator, Callable
from http import HTTPStatus
from typing import IO, Final

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter

from instar.uwsgi.answer import BadAnswerError, Head, read_body, read_head
from instar.uwsgi.nodes import Nodes
from instar.uwsgi.packet import TooLongError, encode, request_variables
from instar.uwsgi.silence import Silence

#: A body without a length is written to a file first, since the uwsgi protocol wants to know it; at most so much.
MAX_SPOOL: Final = 1 << 30
_IN_MEMORY: Final = 256 * 1024
_PIECE: Final = 64 * 1024


class Sent(web.StreamResponse):
    """Tells aiohttp that the response has been written, byte by byte as the node gave it."""

    def __init__(self, keep_alive: bool) -> None:
        super().__init__()
        self._stays = keep_alive

    @property
    def keep_alive(self) -> bool:
        """Whether the client may send another request."""
        return self._stays

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Nothing is left to do."""
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        """Nothing is left to do."""


class Exchange:
    """One request. `run` answers it, whatever happens."""

    def __init__(
        self,
        request: web.BaseRequest,
        nodes: Nodes,
        timeout: float,
        closing: Callable[[], bool],
        log: Callable[[str], object],
    ) -> None:
        """`timeout`: seconds of silence of either side. `closing`: whether the connection shall end after it."""
        self._request = request
        self._nodes = nodes
        self._timeout = timeout
        self._silence = Silence(timeout)
        self._closing = closing
        self._log = log
        self._begun = False

    async def run(self) -> Sent:
        """Answer the request."""
        if (refused := _refusal(self._request)) is not None:
            return await self._say(refused)
        try:
            async with self._silence, self._body() as (body, length):
                return await self._relay(self._packet(length), body)
        except TooLongError:
            return await self._say(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
        except _SpoolFull:
            return await self._say(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
        except web.RequestPayloadError:
            return await self._say(HTTPStatus.BAD_REQUEST)
        except BadAnswerError as error:
            return await self._fail(HTTPStatus.BAD_GATEWAY, f"a node failed: {error}")
        except TimeoutError:
            return await self._fail(HTTPStatus.GATEWAY_TIMEOUT, f"no answer within {self._timeout:g} s")
        except OSError as error:
            return await self._fail(HTTPStatus.BAD_GATEWAY, f"a node failed: {error}")

    def _packet(self, length: int | None) -> bytes:
        request = self._request
        transport = request.transport
        peer = transport.get_extra_info("peername") if transport else None
        name = transport.get_extra_info("sockname") if transport else None
        return encode(
            request_variables(
                request.method,
                request.raw_path,
                (request.version.major, request.version.minor),
                request.raw_headers,
                client=peer[:2] if isinstance(peer, tuple) else ("", 0),
                port=name[1] if isinstance(name, tuple) else 0,
                length=length,
            )
        )

    # --- the request's body -------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def _body(self) -> AsyncIterator[tuple[Callable[[], AsyncIterator[bytes]], int | None]]:
        """How to read the body, and its length. One without a length is read to its end first."""
        said = self._request.headers.get("Content-Length")
        if "Transfer-Encoding" not in self._request.headers:
            yield self._pieces, int(said) if said is not None else None
            return
        with tempfile.SpooledTemporaryFile(_IN_MEMORY) as file:
            length = 0
            async for piece in self._pieces():
                length += len(piece)
                if length > MAX_SPOOL:
                    raise _SpoolFull
                await asyncio.to_thread(file.write, piece)
            await asyncio.to_thread(file.seek, 0)
            yield lambda: _read_file(file), length

    async def _pieces(self) -> AsyncIterator[bytes]:
        """The body as it comes; a client that waits for it is told to go on."""
        request = self._request
        if request.headers.get("Expect", "").lower() == "100-continue" and request.version.minor >= 1:
            await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        while piece := await request.content.readany():
            self._silence.heard()
            yield piece

    async def _upload(self, writer: asyncio.StreamWriter, body: Callable[[], AsyncIterator[bytes]]) -> None:
        async for piece in body():
            writer.write(piece)
            await writer.drain()
            self._silence.heard()

    # --- the response -------------------------------------------------------------------------------

    async def _relay(self, packet: bytes, body: Callable[[], AsyncIterator[bytes]]) -> Sent:
        reader, writer = await self._nodes.connect()
        upload = None
        try:
            writer.write(packet)
            if self._request.body_exists:
                # An application may answer before it has read everything.
                upload = asyncio.create_task(self._upload(writer, body), name="upload")
            head = await read_head(reader)
            self._silence.heard()
            return await self._answer(reader, head)
        finally:
            if upload is not None:
                upload.cancel()
                await asyncio.gather(upload, return_exceptions=True)
            # What the node still sends is of no interest.
            writer.transport.abort()

    async def _answer(self, reader: asyncio.StreamReader, head: Head) -> Sent:
        request = self._request
        has_body = head.has_body(request.method)
        plain = head.length is not None and not head.chunked
        framed = has_body and not plain and request.version >= (1, 1)
        keep = bool(request.keep_alive) and not head.close and not self._closing()
        # The rest of a body that nobody wants would have to be read first.
        keep = keep and (plain or framed or not has_body) and request.content.is_eof()
        self._begun = True
        await self._send(_head_bytes(head, request, framed=framed, keep=keep, has_body=has_body))
        if has_body:
            async for piece in read_body(reader, head):
                await self._send(b"%x\r\n%b\r\n" % (len(piece), piece) if framed else piece)
            if framed:
                await self._send(b"0\r\n\r\n")
        return Sent(keep)

    async def _send(self, data: bytes) -> None:
        await self._request.writer.write(data)
        self._silence.heard()

    # --- when it goes wrong -------------------------------------------------------------------------

    async def _fail(self, status: HTTPStatus, why: str) -> Sent:
        transport = self._request.transport
        if transport is None or transport.is_closing():
            return Sent(False)
        self._log(f"{self._request.method} {self._request.raw_path[:100]!r}: {why}")
        if self._begun:
            _reset(transport)
            return Sent(False)
        return await self._say(status)

    async def _say(self, status: HTTPStatus) -> Sent:
        return await say(self._request, status)


async def say(request: web.BaseRequest, status: HTTPStatus) -> Sent:
    """Answer with a status of our own, and close."""
    text = f"{status.value} {status.phrase}\n".encode()
    head = (
        f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Type: text/plain\r\n"
        f"Content-Length: {len(text)}\r\nConnection: close\r\n\r\n"
    )
    with contextlib.suppress(OSError):
        await request.writer.write(head.encode() + (b"" if request.method == "HEAD" else text))
    return Sent(False)


def _reset(transport: asyncio.Transport) -> None:
    """The client must see a cut, not an end, which for some responses are told apart by nothing else."""
    sock = transport.get_extra_info("socket")
    if sock is not None and sock.family != socket.AF_UNIX:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


class _SpoolFull(Exception):
    """A body without a length is too long."""


def _refusal(request: web.BaseRequest) -> HTTPStatus | None:
    """Why a request is not passed on."""
    if request.version.major != 1:
        return HTTPStatus.HTTP_VERSION_NOT_SUPPORTED
    hosts = sum(name.lower() == b"host" for name, _ in request.raw_headers)
    if hosts > 1 or (not hosts and request.version.minor):
        return HTTPStatus.BAD_REQUEST
    if request.method == "CONNECT" or "websocket" in request.headers.get("Upgrade", "").lower():
        return HTTPStatus.NOT_IMPLEMENTED
    if request.headers.get("Expect", "100-continue").lower() != "100-continue":
        return HTTPStatus.EXPECTATION_FAILED
    if request.headers.get("Transfer-Encoding", "chunked").strip().lower() != "chunked":
        return HTTPStatus.NOT_IMPLEMENTED
    return None


def _head_bytes(head: Head, request: web.BaseRequest, *, framed: bool, keep: bool, has_body: bool) -> bytes:
    lines = [b"HTTP/1.1 %d %b" % (head.status, head.reason)]
    drop_length = head.status == HTTPStatus.NO_CONTENT
    lines += [
        b"%b: %b" % field for field in head.headers if not (drop_length and field[0].lower() == b"content-length")
    ]
    if framed:
        lines.append(b"Transfer-Encoding: chunked")
    if not keep:
        lines.append(b"Connection: close")
    elif request.version < (1, 1):
        lines.append(b"Connection: keep-alive")
    return b"\r\n".join(lines) + b"\r\n\r\n"


async def _read_file(file: IO[bytes]) -> AsyncIterator[bytes]:
    while piece := await asyncio.to_thread(file.read, _PIECE):
        yield piece
