"""What a proxy sends, and what it gets back."""

from __future__ import annotations

import contextlib
import dataclasses
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from typing import Any

from instar.engines.uwsgi_protocol.connection import Limits, Requests

VARIABLES = {
    "QUERY_STRING": "a=1",
    "REQUEST_METHOD": "GET",
    "CONTENT_TYPE": "",
    "CONTENT_LENGTH": "",
    "REQUEST_URI": "/p%20q?a=1",
    "PATH_INFO": "/p q",
    "SERVER_PROTOCOL": "HTTP/1.1",
    "REMOTE_ADDR": "192.0.2.7",
    "REMOTE_PORT": "4711",
    "SERVER_NAME": "example.org",
    "SERVER_PORT": "80",
    "HTTP_HOST": "example.org",
}


def sized(data: bytes) -> bytes:
    return struct.pack("<H", len(data)) + data


def packet(variables: dict[str, str], modifier1: int = 0, modifier2: int = 0) -> bytes:
    block = b"".join(sized(text.encode("latin-1")) for item in variables.items() for text in item)
    return struct.pack("<BHB", modifier1, len(block), modifier2) + block


def request(body: bytes = b"", **variables: str) -> bytes:
    """A packet like nginx's, with its body."""
    length = {"REQUEST_METHOD": "POST", "CONTENT_LENGTH": str(len(body))} if body else {}
    return packet({**VARIABLES, **length, **variables}) + body


@dataclasses.dataclass(frozen=True)
class Answer:
    status: str
    headers: list[tuple[str, str]]
    body: bytes

    @classmethod
    def parse(cls, data: bytes) -> Answer:
        head, separator, body = data.partition(b"\r\n\r\n")
        assert separator, data
        first, *lines = head.decode("latin-1").split("\r\n")
        version, status = first.split(" ", 1)
        assert version == "HTTP/1.1"
        return cls(status, [(name, value) for name, value in (line.split(": ", 1) for line in lines)], body)


def read_all(sock: socket.socket) -> bytes:
    data = b""
    while piece := sock.recv(65536):
        data += piece
    return data


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    """(ours, the server's): resets exist only on TCP."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        return client, listener.accept()[0]


@contextlib.contextmanager
def serving(app: Callable[..., Any], *, buffer_size: int = 65535, timeout: float = 4.0) -> Iterator[socket.socket]:
    """Our end of a connection that is being served; the server closes the other end when it is done."""
    client, server = tcp_pair()
    requests = Requests(app, Limits(buffer_size, timeout), multithread=True, multiprocess=False)

    def work() -> None:
        with server:
            requests.serve(server)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        with client:
            client.settimeout(20)
            yield client
    finally:
        thread.join(20)
    assert not thread.is_alive()


def exchange(app: Callable[..., Any], data: bytes, **options: Any) -> Answer:
    """Send one request, get the whole answer."""
    with serving(app, **options) as sock:
        sock.sendall(data)
        return Answer.parse(read_all(sock))
