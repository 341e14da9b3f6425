"""The head of a request: four bytes and a block of variables.

`modifier1` (1 byte), size of the block (2 bytes, little endian), `modifier2` (1 byte); then name and value after each
other, each behind its size in 2 bytes (https://uwsgi-docs.readthedocs.io/en/latest/Protocol.html).
"""

from __future__ import annotations

import dataclasses
import socket
import time

PREFIX = 4
#: What a request to a WSGI application has as `modifier1`, …
WSGI = 0
#: … or, from proxies that leave SCRIPT_NAME at the beginning of PATH_INFO, and it stays there: under Python 3 the real
#: uWSGI does not take it off either (it looks for byte strings), …
MANAGE_PATH_INFO = 30
#: … and a check whether anybody answers.
PING = 100
#: The same packet back, `modifier2` set.
PONG = bytes((PING, 0, 0, 1))

#: The status for a peer that takes too long.
LATE = "408 Request Timeout"

#: An ordinary head and a small body arrive in one piece.
_FIRST_READ = 16 * 1024
_HTTP = (b"GET ", b"HEAD", b"POST", b"PUT ", b"DELE", b"OPTI", b"PATC", b"TRAC", b"CONN", b"PRI ")


class RefusedError(Exception):
    """The request can't be served; it is answered with `status`, and `reason` goes to the log."""

    def __init__(self, status: str, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class GoneError(Exception):
    """The peer closed the connection before a request was complete: nobody is there to answer."""


class PeerLostError(ConnectionError):
    """The peer went away, or did nothing for too long, in the middle of a request or a response."""


@dataclasses.dataclass(frozen=True)
class Head:
    """One request's variables, and the bytes of its body that came along."""

    modifier1: int
    variables: dict[str, str]
    rest: bytes


def read_head(sock: socket.socket, *, limit: int, timeout: float) -> Head:
    """Read a head of at most `limit` bytes within `timeout` seconds.

    Raises GoneError, RefusedError, OSError.
    """
    end = time.monotonic() + timeout
    data = _receive(sock, b"", PREFIX, end)
    if data.startswith(_HTTP):
        raise RefusedError("400 Bad Request", "it is HTTP, and this socket speaks the uwsgi protocol")
    size = data[1] | data[2] << 8
    if size > limit:
        _skip(sock, PREFIX + size - len(data), end)
        raise RefusedError(
            "431 Request Header Fields Too Large",
            f"its head has {size} bytes, and [web.uwsgi] buffer_size (buffer-size in uWSGI) allows {limit}",
        )
    data = _receive(sock, data, PREFIX + size, end)
    return Head(data[0], parse(data[PREFIX : PREFIX + size]), data[PREFIX + size :])


def parse(block: bytes) -> dict[str, str]:
    """The variables of a block; of equal names the last one counts. Raises RefusedError when it is malformed."""
    text = block.decode("latin-1")
    found: dict[str, str] = {}
    at, end = 0, len(block)
    try:
        while at < end:
            name_at = at + 2
            value_size_at = name_at + (block[at] | block[at + 1] << 8)
            value_at = value_size_at + 2
            at = value_at + (block[value_size_at] | block[value_size_at + 1] << 8)
            if value_size_at == name_at:
                raise RefusedError("400 Bad Request", "a variable in its head has no name")
            found[text[name_at:value_size_at]] = text[value_at:at]
    except IndexError:
        at = -1
    if at != end:
        raise RefusedError("400 Bad Request", "its head is malformed: a variable reaches beyond the end")
    return found


def _receive(sock: socket.socket, data: bytes, wanted: int, end: float) -> bytes:
    if not data:
        # Most heads have arrived whole by now: one system call instead of the four that a time limit takes.
        try:
            data = sock.recv(_FIRST_READ, socket.MSG_DONTWAIT)
        except BlockingIOError:
            pass
        else:
            if not data:
                raise GoneError
    while len(data) < wanted:
        left = end - time.monotonic()
        if left <= 0:
            raise _late()
        sock.settimeout(left)
        try:
            piece = sock.recv(max(_FIRST_READ, wanted - len(data)))
        except TimeoutError:
            raise _late() from None
        if not piece:
            raise GoneError
        data = data + piece if data else piece
    return data


def _skip(sock: socket.socket, count: int, end: float) -> None:
    """Read the rest of a head that is too large: closing before would reset the connection, and lose the answer."""
    while count > 0 and (left := end - time.monotonic()) > 0:
        sock.settimeout(left)
        try:
            piece = sock.recv(min(count, 65536))
        except TimeoutError:
            return
        if not piece:
            return
        count -= len(piece)


def _late() -> RefusedError:
    return RefusedError(LATE, "its head did not arrive within [web.uwsgi] socket_timeout")
