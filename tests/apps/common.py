"""What the ASGI and the WSGI application share."""

from __future__ import annotations

import hashlib
import os
import sys
import urllib.parse
from pathlib import Path

from apps.behaviour import Behaviour

#: Folder in which a request waits for a file with its token.
GATES = Path(os.environ.get("TEST_GATES", "/nonexistent"))
#: How often a gate is looked at, and the longest wait, in seconds.
GATE_INTERVAL = 0.02
GATE_LIMIT = 60.0
EVENT_INTERVAL = 0.1

BEHAVIOUR = Behaviour.read(Path("behaviour"))
BEHAVIOUR.at_import()


def _release() -> str:
    try:
        return Path("release").read_text().strip() or "none"
    except FileNotFoundError:
        return "none"


RELEASE = _release()


def generation() -> int:
    """The generation that runs this process; 0 under a server of another kind."""
    instar = sys.modules.get("instar")
    if instar is None or not hasattr(instar, "current_worker"):
        return int(os.environ.get("TEST_GENERATION", "0"))
    try:
        return int(instar.current_worker().generation)
    except Exception:
        return int(os.environ.get("TEST_GENERATION", "0"))


def worker_index() -> int:
    """The index of this worker in its generation, from 0."""
    import instar

    return int(instar.current_worker().index)


def headers(length: int | None = None, kind: str = "text/plain") -> list[tuple[str, str]]:
    """Headers of every answer."""
    found = [
        ("content-type", kind),
        ("x-generation", str(generation())),
        ("x-pid", str(os.getpid())),
        ("x-release", RELEASE),
    ]
    if length is not None:
        found.append(("content-length", str(length)))
    return found


def line(token: str, *more: str) -> str:
    """First line of every body: the request's token, then who answers."""
    return " ".join([token, str(generation()), str(os.getpid()), RELEASE, *more]) + "\n"


class Query:
    """The parameters of a request."""

    def __init__(self, query: str) -> None:
        self._fields = dict(urllib.parse.parse_qsl(query))

    def text(self, name: str, default: str = "") -> str:
        """A parameter."""
        return self._fields.get(name, default)

    def number(self, name: str, default: float) -> float:
        """A number."""
        return float(self._fields.get(name, default))

    @property
    def token(self) -> str:
        """The request's own name; refuses what is no file name."""
        token = self.text("n", "-")
        if not token.replace("-", "").isalnum() and token != "-":
            raise ValueError(f"not a token: {token!r}")
        return token


def page(query: Query) -> bytes:
    """The body of `/`: padded to the size asked for."""
    body = line(query.token).encode()
    return body.ljust(int(query.number("size", 0)), b".")


def chunks(query: Query) -> tuple[list[bytes], float]:
    """The parts of `/stream` and the pause between them."""
    count = int(query.number("chunks", 10))
    parts = [line(query.token).encode()] + [f"chunk {number}\n".encode().ljust(100, b".") for number in range(count)]
    return parts, query.number("seconds", 1.0) / max(count, 1)


def event(number: int) -> bytes:
    """One server-sent event."""
    return f"id: {number}\ndata: {line('tick').strip()}\n\n".encode()


class Digest:
    """The running SHA-256 of a request body."""

    def __init__(self) -> None:
        self._sum, self._size = hashlib.sha256(), 0

    def feed(self, data: bytes) -> None:
        """Another part."""
        self._sum.update(data)
        self._size += len(data)

    def answer(self, token: str) -> bytes:
        """The body of the answer."""
        return line(token, str(self._size), self._sum.hexdigest()).encode()
