"""HTTP/1.1 responses (RFC 9112), read strictly: whatever a careful client would not accept is an error."""

from __future__ import annotations

import dataclasses
import re

from load.pipe import Broken, Pipe

_STATUS = re.compile(rb"HTTP/1\.([01]) ([1-5][0-9]{2})(?: [\t\x20-\x7e\x80-\xff]*)?")
_FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([^\r\n\0]*?)[ \t]*")
_SIZE = re.compile(rb"([0-9A-Fa-f]{1,8})[ \t]*(?:;.*)?")
_DIGITS = re.compile(rb"[0-9]{1,12}")


@dataclasses.dataclass
class Head:
    """Status line and header section."""

    minor: int
    status: int
    headers: dict[str, str]

    @property
    def close(self) -> bool:
        """Whether the server announces that it closes the connection behind this response."""
        tokens = {token.strip().lower() for token in self.headers.get("connection", "").split(",")}
        return "close" in tokens or (self.minor == 0 and "keep-alive" not in tokens)

    @property
    def generation(self) -> int:
        """The generation that the application names; 0 when it names none."""
        return int(self.headers.get("x-generation", "0"))

    @property
    def process(self) -> int:
        """The process that answered; 0 when unknown."""
        return int(self.headers.get("x-pid", "0"))


@dataclasses.dataclass
class Response(Head):
    """A complete response. `close`: the connection can't be used again."""

    body: bytes = b""
    #: The body ends with the connection.
    until_close: bool = False

    @property
    def last(self) -> bool:
        """No further response comes on this connection."""
        return self.close or self.until_close


def request(method: str, path: str, host: str, headers: dict[str, str] | None = None, body: bytes = b"") -> bytes:
    """The bytes of a request; a body gets its Content-Length."""
    lines = [f"{method} {path} HTTP/1.1", f"Host: {host}"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode() + body


async def read_head(pipe: Pipe) -> Head:
    """The next head that is not an interim (1xx) one."""
    while True:
        block = await pipe.line(b"\r\n\r\n")
        first, *rest = block.split(b"\r\n")
        match = _STATUS.fullmatch(first)
        if match is None:
            raise Broken(f"malformed status line {first[:60]!r}")
        head = Head(int(match[1]), int(match[2]), _headers(rest))
        if head.status >= 200 or head.status == 101:
            return head


def _headers(lines: list[bytes]) -> dict[str, str]:
    found: dict[str, str] = {}
    for line in lines:
        match = _FIELD.fullmatch(line)
        if match is None:
            raise Broken(f"malformed header {line[:60]!r}")
        name, value = match[1].decode().lower(), match[2].decode("latin-1")
        if name in found and name in ("content-length", "transfer-encoding"):
            raise Broken(f"{name} twice")
        found[name] = f"{found[name]}, {value}" if name in found else value
    if "content-length" in found and "transfer-encoding" in found:
        raise Broken("Content-Length beside Transfer-Encoding")
    return found


async def read_chunk(pipe: Pipe) -> bytes:
    """One chunk; empty for the last one, whose trailer is read too."""
    line = await pipe.line()
    match = _SIZE.fullmatch(line)
    if match is None:
        raise Broken(f"malformed chunk size {line[:40]!r}")
    size = int(match[1], 16)
    if size == 0:
        while await pipe.line():
            pass
        return b""
    data = await pipe.exactly(size)
    if await pipe.exactly(2) != b"\r\n":
        raise Broken("chunk without its end")
    return data


async def read_body(pipe: Pipe, head: Head, method: str = "GET") -> tuple[bytes, bool]:
    """The body, and whether it ended with the connection."""
    if method == "HEAD" or head.status in (204, 304):
        return b"", False
    if head.headers.get("transfer-encoding", "").lower() == "chunked":
        parts = []
        while part := await read_chunk(pipe):
            parts.append(part)
        return b"".join(parts), False
    if (length := head.headers.get("content-length")) is not None:
        if not _DIGITS.fullmatch(length.encode()):
            raise Broken(f"malformed Content-Length {length!r}")
        return await pipe.exactly(int(length)), False
    # Without a length, a cut looks like the end; only an announced close makes it a complete response.
    if not head.close:
        raise Broken("neither a length nor an announced close")
    return await pipe.rest(), True


async def read_response(pipe: Pipe, method: str = "GET") -> Response:
    """A complete response. Raises `Broken`."""
    head = await read_head(pipe)
    body, until_close = await read_body(pipe, head, method)
    return Response(head.minor, head.status, head.headers, body, until_close)
