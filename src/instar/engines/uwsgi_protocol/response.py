"""Sends a response as PEP 3333 wants it. It goes out as HTTP/1.1, and its end is the end of the connection."""

from __future__ import annotations

import os
import re
import socket
import stat
from collections.abc import Callable, Iterable
from typing import Any

from instar.engines.uwsgi_protocol.environ import FileWrapper
from instar.engines.uwsgi_protocol.packet import PeerLostError

Headers = list[tuple[str, str]]

_STATUS = re.compile(r"[1-9]\d\d(?: [^\r\n\0]*)?")
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
#: What would let an application's header value begin another header.
_BREAKS = re.compile(r"[\r\n\0]")
#: Statuses whose responses have no body (RFC 9110 section 6.4.1).
_BODILESS = ("204", "304")


class Response:
    """One response on one connection. `timeout`: seconds that the peer may read nothing for."""

    def __init__(self, sock: socket.socket, method: str, timeout: float) -> None:
        self._sock = sock
        self._timeout = timeout
        self._head_only = method == "HEAD"
        self._status = ""
        self._headers: Headers = []
        #: Whether the head is out, so that nothing can be taken back.
        self.begun = False

    def start(self, status: str, headers: Headers, exc_info: Any = None) -> Callable[[bytes], None]:
        """`start_response`. Raises ValueError, TypeError for what can't be sent; the application has to see that."""
        if exc_info and exc_info[1] is not None and self.begun:
            raise exc_info[1].with_traceback(exc_info[2])
        if self._status and not exc_info:
            raise AssertionError("start_response was called twice without exc_info")
        if not _STATUS.fullmatch(status):
            raise ValueError(f"start_response got the status {status!r}")
        for name, value in headers:
            if not _NAME.fullmatch(name):
                raise ValueError(f"start_response got the header name {name!r}")
            if _BREAKS.search(value):
                raise ValueError(f"start_response got a line break in the header {name}")
        self._status, self._headers = status, list(headers)
        return self.write

    def write(self, data: bytes) -> None:
        """Send a piece of the body, the head before the first. Raises PeerLostError."""
        if not self.begun:
            data = self._head() + (b"" if self._silent else data)
            self.begun = True
        elif self._silent:
            return
        self._send(data)

    def send(self, result: Iterable[bytes]) -> None:
        """Send all that the application returned."""
        if isinstance(result, FileWrapper):
            self._send_file(result)
            return
        if type(result) is list and len(result) == 1:
            self._add_length(len(result[0]))
        for piece in result:
            if piece:
                self.write(piece)
        self.finish()

    def finish(self) -> None:
        """The head, if no byte of a body came."""
        if not self.begun:
            self.write(b"")

    def fail(self, status: str) -> None:
        """A short answer of our own, in place of one that has not begun."""
        if self.begun:
            return
        text = f"{status}\n".encode()
        self._status = status
        self._headers = [("Content-Type", "text/plain"), ("Content-Length", str(len(text)))]
        self.write(text)

    @property
    def _silent(self) -> bool:
        return self._head_only or self._status.startswith(_BODILESS)

    def _add_length(self, length: int) -> None:
        # Lets the proxy notice when the rest of a response is lost.
        if self._status and not self._silent and self._declared() is None:
            self._headers.append(("Content-Length", str(length)))

    def _declared(self) -> int | None:
        for name, value in self._headers:
            if name.lower() == "content-length" and value.isascii() and value.isdigit():
                return int(value)
        return None

    def _head(self) -> bytes:
        if not self._status:
            raise AssertionError("the application did not call start_response")
        lines = [f"HTTP/1.1 {self._status}", *(f"{name}: {value}" for name, value in self._headers), "", ""]
        return "\r\n".join(lines).encode("latin-1")

    def _send(self, data: bytes) -> None:
        try:
            # Most responses fit into the socket's buffer: no need to make it one with a time limit.
            sent = self._sock.send(data, socket.MSG_DONTWAIT)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            raise PeerLostError(f"cannot send the response: {error}") from error
        if sent < len(data):
            self._send_rest(data, sent)

    def _send_rest(self, data: bytes, sent: int) -> None:
        # Not `sendall`, which has one time limit for all: each step that the peer makes starts it anew.
        try:
            self._sock.settimeout(self._timeout)
            with memoryview(data) as view:
                while sent < len(data):
                    sent += self._sock.send(view[sent:])
        except OSError as error:
            raise PeerLostError(f"cannot send the response: {error}") from error

    def _send_file(self, wrapper: FileWrapper) -> None:
        descriptor = _regular_file(wrapper.file)
        if descriptor is None or self._silent:
            for piece in wrapper:
                self.write(piece)
            self.finish()
            return
        offset = wrapper.file.tell()
        declared = self._declared()
        self.finish()
        try:
            self._sock.settimeout(self._timeout)
            with open(descriptor, "rb", buffering=0, closefd=False) as file:
                self._sock.sendfile(file, offset, declared)
        except OSError as error:
            raise PeerLostError(f"cannot send the file: {error}") from error


def _regular_file(file: Any) -> int | None:
    """Descriptor of something that sendfile(2) takes; None for what only has `read`."""
    try:
        descriptor = int(file.fileno())
        return descriptor if stat.S_ISREG(os.fstat(descriptor).st_mode) and file.tell() >= 0 else None
    except (AttributeError, OSError, TypeError, ValueError):
        return None
