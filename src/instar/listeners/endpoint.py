"""TCP sockets for one bind address: how they are bound, and how the supervisor reaches them itself."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import select
import socket
import struct
from typing import Any

from instar.config.address import parse_address
from instar.listeners.errors import ListenError, listen_error

_LOOPBACK = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


@dataclasses.dataclass(frozen=True)
class Endpoint:
    """A resolved TCP bind address."""

    #: As in the configuration, with the real port.
    address: str
    family: socket.AddressFamily
    sockaddr: tuple[Any, ...]

    @classmethod
    def resolve(cls, address: str) -> Endpoint:
        """Look the host up. Raises ConfigError for a malformed address, ListenError for an unknown host."""
        parsed = parse_address(address)
        try:
            found = socket.getaddrinfo(
                parsed.host, parsed.port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP, flags=socket.AI_PASSIVE
            )
        except socket.gaierror as error:
            raise ListenError(f"cannot listen on {address}: {error.strerror}; use an IP address") from error
        family, _, _, _, sockaddr = found[0]
        return cls(str(parsed), family, tuple(sockaddr))

    def with_port(self, port: int) -> Endpoint:
        """The same host with another port."""
        parsed = dataclasses.replace(parse_address(self.address), port=port)
        return Endpoint(str(parsed), self.family, (self.sockaddr[0], port, *self.sockaddr[2:]))

    def bound_socket(self, *, reuse_port: bool) -> socket.socket:
        """A bound, non-blocking socket that does not listen yet. Raises ListenError."""
        try:
            sock = socket.socket(self.family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK, socket.IPPROTO_TCP)
        except OSError as error:
            raise listen_error(self.address, error) from error
        try:
            self._configure(sock, reuse_port=reuse_port)
            sock.bind(self.sockaddr)
        except OSError as error:
            sock.close()
            raise listen_error(self.address, error) from error
        return sock

    def _configure(self, sock: socket.socket, *, reuse_port: bool) -> None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, int(reuse_port))
        # Accepted sockets inherit it; not every server sets it on what it accepts.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(self.sockaddr[0] != "::"))

    def matches(self, sock: socket.socket) -> bool:
        """Whether `sock` is a TCP socket bound to this address."""
        if sock.family != self.family or sock.type != socket.SOCK_STREAM:
            return False
        name = sock.getsockname()
        return bool(name[0] == self.sockaddr[0] and self.sockaddr[1] in (0, name[1]))

    def client_socket(self) -> tuple[socket.socket, tuple[Any, ...]]:
        """A non-blocking socket bound to a source port, and the address to connect it to. Raises OSError.

        It connects from the listener's own address, through loopback if that is a wildcard. Closing it resets the
        connection, so that its port is free at once.
        """
        if self.sockaddr[0] not in _LOOPBACK:
            return _client(self.family, self.sockaddr)
        target = (_LOOPBACK[self.sockaddr[0]], self.sockaddr[1])
        if self.family == socket.AF_INET6:
            with contextlib.suppress(OSError):  # dual stack without a configured ::1
                return _client(self.family, target)
            return _client(socket.AF_INET, ("127.0.0.1", self.sockaddr[1]))
        return _client(self.family, target)


def _client(family: int, target: tuple[Any, ...]) -> tuple[socket.socket, tuple[Any, ...]]:
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        sock.bind((target[0], 0, *target[2:]))
    except OSError:
        sock.close()
        raise
    return sock, target


def wait_connected(sock: socket.socket, timeout: float) -> None:
    """Wait for a non-blocking connect. Raises TimeoutError, or the OSError of the connection."""
    poller = select.poll()
    poller.register(sock, select.POLLOUT)
    if not poller.poll(timeout * 1000):
        raise TimeoutError("the connection was not accepted into the backlog in time")
    code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if code:
        raise OSError(code, os.strerror(code))
