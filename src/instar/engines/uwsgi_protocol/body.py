"""The body of a request, which follows the head without any framing: CONTENT_LENGTH bytes."""

from __future__ import annotations

import contextlib
import io
import socket
import time
from typing import TYPE_CHECKING

from instar.engines.uwsgi_protocol.packet import Head, PeerLostError, RefusedError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

_BUFFER = 64 * 1024
#: Longest time, in seconds, that the rest of a body is read for after the answer.
_DRAIN_LIMIT = 30.0
#: Enough for 2**63; Python refuses to read numbers of thousands of digits, and with an exception.
_MOST_DIGITS = 19


class Body(io.RawIOBase):
    """Reads exactly the body; the peer's end of file before that is an error, not the end of the body."""

    def __init__(self, sock: socket.socket, head: Head, timeout: float) -> None:
        """Raises RefusedError for a length that is no number."""
        super().__init__()
        self._sock = sock
        self._timeout = timeout
        self.left = content_length(head.variables)
        self._rest = memoryview(head.rest)[: self.left]
        #: uWSGI's own router passes chunks on as they are, and says no length. To the application that is no body.
        self._endless = "HTTP_TRANSFER_ENCODING" in head.variables and not head.variables.get("CONTENT_LENGTH")

    def readable(self) -> bool:
        """Yes."""
        return True

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        """Raises PeerLostError when the peer goes away, or sends nothing for `timeout` seconds."""
        target = memoryview(buffer).cast("B")
        if not self.left or not len(target):
            return 0
        if self._rest:
            count = min(len(target), len(self._rest))
            target[:count], self._rest = self._rest[:count], self._rest[count:]
        else:
            count = self._receive(target[: self.left])
        self.left -= count
        return count

    def _receive(self, target: memoryview) -> int:
        try:
            self._sock.settimeout(self._timeout)
            count = self._sock.recv_into(target)
        except OSError as error:
            raise PeerLostError(f"cannot read the request's body: {error}") from error
        if not count:
            raise PeerLostError("cannot read the request's body: the peer closed the connection in the middle of it")
        return count

    def drain(self) -> None:
        """Read what the application left.

        Bytes that nobody reads make the kernel answer with RST when the socket is closed, and the peer then loses
        what it has not read of the response (nginx: 502).
        """
        self.left -= len(self._rest)
        self._rest = self._rest[:0]
        if self.left <= 0 and not self._endless:
            return
        discard(self._sock, None if self._endless else self.left, self._timeout)


def discard(sock: socket.socket, count: int | None, timeout: float) -> None:
    """End our side, and read what the peer still sends: `count` bytes, or (None) until it closes."""
    end = time.monotonic() + _DRAIN_LIMIT
    scratch = bytearray(_BUFFER)
    with contextlib.suppress(OSError):
        # The peer may already have all that it wants, and close instead of sending the rest.
        sock.shutdown(socket.SHUT_WR)
        while (count is None or count > 0) and (patience := end - time.monotonic()) > 0:
            sock.settimeout(min(timeout, patience))
            received = sock.recv_into(scratch, _BUFFER if count is None else min(_BUFFER, count))
            if not received:
                return
            if count is not None:
                count -= received


def content_length(variables: dict[str, str]) -> int:
    """Bytes of the body. Raises RefusedError for something that is no number."""
    text = variables.get("CONTENT_LENGTH", "")
    if not text:
        return 0
    if not text.isascii() or not text.isdigit() or len(text) > _MOST_DIGITS:
        raise RefusedError("400 Bad Request", f"its CONTENT_LENGTH is {text[:40]!r}")
    return int(text)


def as_input(body: Body) -> io.BufferedIOBase:
    """`wsgi.input` (PEP 3333)."""
    return io.BufferedReader(body, _BUFFER) if body.left else io.BytesIO()
