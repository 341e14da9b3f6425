"""Shared mode: both generations accept from one socket, as inherited from systemd or where steering is missing."""

from __future__ import annotations

import contextlib
import socket

from instar.errors import ConfigError
from instar.listeners.base import Mode, Slot, Steering
from instar.listeners.endpoint import Endpoint
from instar.listeners.errors import ListenError, listen_error


class SharedListener:
    """One socket for both slots. The workers decide who accepts: a new generation's wait for the cut-over."""

    mode = Mode.SHARED
    limits = (
        "no probe through the public address and no canary; while both generations live, either may accept a connection"
    )

    def __init__(self, address: str, sock: socket.socket) -> None:
        """Own a socket that listens already."""
        self.address = address
        self._socket = sock
        sock.setblocking(False)
        if sock.family in (socket.AF_INET, socket.AF_INET6):
            # Accepted sockets inherit it; not every server sets it on what it accepts.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    @classmethod
    def open(cls, address: str, *, backlog: int) -> SharedListener:
        """Bind and listen on a TCP address. Raises ConfigError, ListenError."""
        endpoint = Endpoint.resolve(address)
        sock = endpoint.bound_socket(reuse_port=False)
        try:
            sock.listen(backlog)
        except OSError as error:
            sock.close()
            raise listen_error(address, error) from error
        return cls(endpoint.with_port(sock.getsockname()[1]).address, sock)

    def sockets(self, slot: Slot) -> tuple[socket.socket, ...]:
        """The one socket, for either slot."""
        return (self._socket,)

    def all_sockets(self) -> tuple[socket.socket, ...]:
        """The one socket."""
        return (self._socket,)

    def prepare(self, slot: Slot, generation: int) -> None:
        """Nothing: the socket listens all the time."""

    def apply(self, steering: Steering) -> None:
        """Nothing: the workers switch. Raises ConfigError for a canary."""
        if steering.canary is not None and (steering.canary.share or steering.canary.networks):
            raise ConfigError(
                f"cannot run a canary on {self.address}: it is in shared mode ({self.limits}); drop the canary"
            )

    def connect_probe(self, slot: Slot, row: int, timeout: float) -> socket.socket:
        """Never: the live generation would accept it. Raises ListenError."""
        raise ListenError(f"cannot probe one generation through {self.address}: it is in shared mode")

    def release(self, slot: Slot) -> None:
        """Nothing: the socket stays."""

    def close(self) -> None:
        """Close our descriptor. An inherited UNIX path stays: it belongs to whoever created it."""
        with contextlib.suppress(OSError):
            self._socket.close()
