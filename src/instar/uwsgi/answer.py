"""What a node answers: the head of an HTTP/1 response as uWSGI writes it, and its body.

A body has a length, or is in chunks that the application made itself, or ends with the connection.
"""

from __future__ import annotations

import asyncio
import dataclasses
import re
from collections.abc import AsyncIterator
from typing import Final

#: Of the connection to the node, not of the response (RFC 9110, 7.6.1). The router says its own.
_HOP: Final = frozenset({b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade"})
_STATUS: Final = re.compile(rb"HTTP/1\.[01] ([1-9][0-9]{2})(?: ([^\x00-\x08\x0a-\x1f\x7f]*))?")
_FIELD: Final = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([^\x00\r\n]*)")
_SIZE: Final = re.compile(rb"([0-9A-Fa-f]{1,12})[ \t]*(?:;[^\r\n]*)?\r\n")
_PIECE: Final = 64 * 1024


class BadAnswerError(Exception):
    """The node did not answer with a response that can be passed on."""


@dataclasses.dataclass(frozen=True)
class Head:
    """Status line and headers, without those of the connection."""

    status: int
    reason: bytes
    headers: list[tuple[bytes, bytes]]
    #: Bytes of the body; None: not said.
    length: int | None
    chunked: bool
    #: The application wants the client's connection closed.
    close: bool

    def has_body(self, method: str) -> bool:
        """Whether a body follows, in answer to this method (RFC 9112, 6.3)."""
        return method != "HEAD" and self.status not in (204, 304)


async def read_head(reader: asyncio.StreamReader) -> Head:
    """The head of the final response; interim ones are skipped. Raises BadAnswerError, OSError."""
    while True:
        try:
            raw = await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError as error:
            raise BadAnswerError("it closed the connection before it answered") from error
        except asyncio.LimitOverrunError as error:
            raise BadAnswerError("the head of its response is too long") from error
        head = parse_head(raw[:-4])
        if head.status >= 200:
            return head


def parse_head(raw: bytes) -> Head:
    """Raises BadAnswerError."""
    first, *lines = raw.split(b"\r\n")
    status = _STATUS.fullmatch(first)
    if status is None:
        raise BadAnswerError(f"it answered {first[:60]!r}")
    fields = [_field(line) for line in lines]
    lengths = {value for name, value in fields if name.lower() == b"content-length"}
    codings = [value.strip().lower() for name, value in fields if name.lower() == b"transfer-encoding"]
    if len(lengths) > 1 or (lengths and codings) or codings not in ([], [b"chunked"]):
        raise BadAnswerError("it says two different things about the length of its response")
    return Head(
        status=int(status[1]),
        reason=status[2] or b"",
        headers=[(name, value) for name, value in fields if name.lower() not in _HOP],
        length=_length(lengths.pop()) if lengths else None,
        chunked=bool(codings),
        close=any(name.lower() == b"connection" and b"close" in value.lower() for name, value in fields),
    )


async def read_body(reader: asyncio.StreamReader, head: Head) -> AsyncIterator[bytes]:
    """The body in pieces. Raises BadAnswerError when it ends early, OSError."""
    if head.chunked:
        async for piece in _chunks(reader):
            yield piece
    elif head.length is None:
        while piece := await reader.read(_PIECE):
            yield piece
    else:
        async for piece in _exactly(reader, head.length):
            yield piece


async def _exactly(reader: asyncio.StreamReader, left: int) -> AsyncIterator[bytes]:
    while left:
        piece = await reader.read(min(left, _PIECE))
        if not piece:
            raise BadAnswerError(f"its response ended {left} bytes early")
        left -= len(piece)
        yield piece


async def _chunks(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    try:
        while size := _chunk_size(await reader.readuntil(b"\n")):
            async for piece in _exactly(reader, size):
                yield piece
            if await reader.readexactly(2) != b"\r\n":
                raise BadAnswerError("a chunk of its response is longer than it says")
        while await reader.readuntil(b"\n") != b"\r\n":
            pass  # Trailers are optional to pass on (RFC 9110, 6.5.1).
    except (asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
        raise BadAnswerError("its response ended within a chunk") from error


def _chunk_size(line: bytes) -> int:
    found = _SIZE.fullmatch(line)
    if found is None:
        raise BadAnswerError(f"a chunk of its response begins with {line[:40]!r}")
    return int(found[1], 16)


def _field(line: bytes) -> tuple[bytes, bytes]:
    found = _FIELD.fullmatch(line)
    if found is None:
        raise BadAnswerError(f"its response has the header {line[:60]!r}")
    return found[1], found[2].rstrip(b" \t")


def _length(value: bytes) -> int:
    if not value.isdigit() or len(value) > 18:
        raise BadAnswerError(f"its response has {value[:40]!r} bytes")
    return int(value)
