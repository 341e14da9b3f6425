"""A minimal HTTP/1.1 client that tells precisely how a request failed."""

from __future__ import annotations

import asyncio
import dataclasses
import socket

HOST = "127.0.0.1"


def request_bytes(path: str = "/", *, close: bool = False) -> bytes:
    """A GET request."""
    connection = "Connection: close\r\n" if close else ""
    return f"GET {path} HTTP/1.1\r\nHost: {HOST}\r\n{connection}\r\n".encode()


class RequestError(Exception):
    """A request failed; `kind` says how.

    refused, connect (no connection), reset, closed (no byte of an answer), cut (part of one), timeout, status N,
    invalid.
    """

    def __init__(self, kind: str) -> None:
        super().__init__(kind)
        self.kind = kind


@dataclasses.dataclass(frozen=True)
class Answer:
    """One complete, valid response of the benchmark application."""

    boot: int
    pid: int
    #: The server announced that it closes the connection.
    close: bool


def parse(data: bytes) -> Answer | None:
    """The answer once it is complete, None before that. Raises RequestError for anything but a valid one."""
    head, blank, body = data.partition(b"\r\n\r\n")
    if not blank:
        return None
    status_line, *lines = head.lower().split(b"\r\n")
    version, status = status_line.split(b" ")[:2]
    if status != b"200":
        raise RequestError(f"status {status.decode(errors='replace')}")
    headers = dict(line.replace(b": ", b":").split(b":", 1) for line in lines)
    if len(body) < int(headers.get(b"content-length", -1)):
        return None
    words = body.split()
    if len(words) != 3 or words[0] != b"ok" or b"content-length" not in headers:
        raise RequestError("invalid")
    return Answer(int(words[1]), int(words[2]), version == b"http/1.0" or headers.get(b"connection") == b"close")


def probe(port: int, path: str = "/", timeout: float = 5.0) -> Answer:
    """One request on a new connection, blocking. Raises OSError or RequestError."""
    with socket.create_connection((HOST, port), timeout) as connection:
        connection.settimeout(timeout)
        connection.sendall(request_bytes(path, close=True))
        data = b""
        while (answer := parse(data)) is None:
            piece = connection.recv(65536)
            if not piece:
                raise RequestError("cut" if data else "closed")
            data += piece
        return answer


class Connection(asyncio.Protocol):
    """One client connection, at most one request at a time."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._data = b""
        self._waiter: asyncio.Future[Answer] | None = None
        self._transport: asyncio.Transport | None = None
        self._closed = False

    @classmethod
    async def open(cls, port: int, timeout: float = 15.0) -> Connection:
        """Connect. Raises RequestError."""
        sock = socket.socket()
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        loop = asyncio.get_running_loop()
        try:
            await asyncio.wait_for(loop.sock_connect(sock, (HOST, port)), timeout)
            _, connection = await loop.create_connection(lambda: cls(sock), sock=sock)
        except ConnectionRefusedError:
            sock.close()
            raise RequestError("refused") from None
        except (OSError, TimeoutError):
            sock.close()
            raise RequestError("connect") from None
        return connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._data += data
        try:
            answer = parse(self._data)
        except (RequestError, ValueError) as error:
            self._fail(error.kind if isinstance(error, RequestError) else "invalid")
        else:
            if answer and self._waiter and not self._waiter.done():
                self._data = b""
                self._waiter.set_result(answer)

    def eof_received(self) -> None:
        self._fail("cut" if self._data else "closed")

    def connection_lost(self, error: Exception | None) -> None:
        self._fail("reset" if error else "cut" if self._data else "closed")

    def _fail(self, kind: str) -> None:
        self._closed = True
        if self._waiter and not self._waiter.done():
            self._waiter.set_exception(RequestError(kind))

    def usable(self) -> bool:
        """Look just before sending, as a careful client does: False when the server has closed the idle connection."""
        if self._closed:
            return False
        try:
            self._socket.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False  # end of file, or bytes that nobody asked for

    async def exchange(self, request: bytes, timeout: float = 15.0) -> Answer:
        """Send a request and wait for its answer. Raises RequestError."""
        assert self._transport
        self._waiter = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        try:
            return await asyncio.wait_for(self._waiter, timeout)
        except TimeoutError:
            raise RequestError("timeout") from None
        finally:
            self._waiter = None

    def close(self) -> None:
        """Close it."""
        self._closed = True
        if self._transport:
            self._transport.abort()
