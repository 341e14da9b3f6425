"""An HTTP request as the uwsgi protocol has it: the variables that uWSGI's own HTTP router sends."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable
from typing import Final
from urllib.parse import unquote_to_bytes

#: The block's length is a 16 bit number.
MAX_BLOCK: Final = 0xFFFF
_HEADER: Final = struct.Struct("<BHB")
_LENGTH: Final = struct.Struct("<H")
#: Not passed on: it is the connection's, or (Proxy) would become $HTTP_PROXY for CGI-like programs.
_DROPPED: Final = frozenset({b"TRANSFER-ENCODING", b"PROXY", b"EXPECT", b"CONTENT-LENGTH", b"KEEP-ALIVE", b"UPGRADE"})
_BARE: Final = frozenset({b"CONTENT_TYPE"})

Variables = list[tuple[bytes, bytes]]


class TooLongError(ValueError):
    """The variables don't fit into a packet."""


def request_variables(
    method: str,
    target: str,
    version: tuple[int, int],
    headers: Iterable[tuple[bytes, bytes]],
    *,
    client: tuple[str, int],
    port: int,
    length: int | None,
) -> Variables:
    """What the application's environ will be. `length`: bytes of the body, None if there is none."""
    raw = target.encode("utf-8", "surrogateescape")
    path, _, query = raw.partition(b"?")
    found = [
        (b"REQUEST_METHOD", method.encode()),
        (b"REQUEST_URI", raw),
        (b"PATH_INFO", _decoded(_without_host(path))),
        (b"QUERY_STRING", query),
        (b"SERVER_PROTOCOL", b"HTTP/%d.%d" % version),
        (b"SCRIPT_NAME", b""),
        (b"SERVER_NAME", socket.gethostname().encode()),
        (b"SERVER_PORT", b"%d" % port),
        (b"UWSGI_ROUTER", b"http"),
        (b"REMOTE_ADDR", client[0].encode()),
        (b"REMOTE_PORT", b"%d" % client[1]),
    ]
    if length is not None:
        found.append((b"CONTENT_LENGTH", b"%d" % length))
    return found + _header_variables(headers)


def encode(variables: Variables) -> bytes:
    """The packet: modifiers 0 and 0, a request for a WSGI application. Raises TooLongError."""
    parts: list[bytes] = []
    for name, value in variables:
        parts += (_length(name), name, _length(value), value)
    block = b"".join(parts)
    if len(block) > MAX_BLOCK:
        raise TooLongError(f"{len(block)} bytes of variables")
    return _HEADER.pack(0, len(block), 0) + block


def _header_variables(headers: Iterable[tuple[bytes, bytes]]) -> Variables:
    merged: dict[bytes, bytes] = {}
    for name, value in headers:
        upper = name.upper()
        # X_Forwarded_For would be indistinguishable from X-Forwarded-For, which the client may not be allowed to say.
        if upper in _DROPPED or b"_" in upper:
            continue
        key = upper.replace(b"-", b"_")
        key = key if key in _BARE else b"HTTP_" + key
        separator = b"; " if key == b"HTTP_COOKIE" else b", "
        merged[key] = merged[key] + separator + value if key in merged else value
    return list(merged.items())


def _length(item: bytes) -> bytes:
    if len(item) > MAX_BLOCK:
        raise TooLongError(f"{len(item)} bytes in one variable")
    return _LENGTH.pack(len(item))


def _without_host(path: bytes) -> bytes:
    """The path of `http://host/path`, which a client may send (RFC 9112, 3.2.2)."""
    for scheme in (b"http://", b"https://"):
        if path.lower().startswith(scheme):
            return b"/" + path[len(scheme) :].partition(b"/")[2]
    return path


def _decoded(path: bytes) -> bytes:
    """The path decoded, and without `.` and `..`, as uWSGI's router gives it (core/utils.c, http_url_decode).

    What is encoded is no dot segment, but a slash that was encoded ends the segment that `..` takes away.
    """
    if b"/." not in path:
        return unquote_to_bytes(path)
    first, *segments = path.split(b"/")
    found = bytearray(unquote_to_bytes(first))
    for number, segment in enumerate(segments):
        if segment == b"..":
            del found[max(0, found.rfind(b"/")) :]
        if segment not in (b".", b".."):
            found += b"/" + unquote_to_bytes(segment)
        elif number == len(segments) - 1:
            found += b"/"
    return bytes(found)
