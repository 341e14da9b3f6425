"""What the supervisor asks of a listener: two slots on one bind address, and a switch between them."""

from __future__ import annotations

import dataclasses
import enum
import ipaddress
import socket
from collections.abc import Mapping
from typing import Literal, Protocol

Slot = Literal["a", "b"]
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Mode(enum.StrEnum):
    """How a listener switches generations."""

    #: The kernel steers each new connection (SO_ATTACH_REUSEPORT_CBPF).
    STEERED = "steered"
    #: UNIX socket: a rename puts the generation's own socket at the public path.
    RENAMED = "renamed"
    #: Both generations accept from one socket.
    SHARED = "shared"


def other(slot: Slot) -> Slot:
    """The other slot."""
    return "b" if slot == "a" else "a"


@dataclasses.dataclass(frozen=True)
class Canary:
    """Which new connections go to the standby slot early: a share (0 < share < 1), or client networks."""

    share: float = 0.0
    networks: tuple[Network, ...] = ()


@dataclasses.dataclass(frozen=True)
class Probe:
    """Connections from exactly this source go to one row of a slot."""

    address: str
    port: int
    slot: Slot
    row: int = 0


@dataclasses.dataclass(frozen=True)
class Steering:
    """Where new connections go. `rows`: the rows of each slot that take clients."""

    live: Slot
    rows: Mapping[Slot, tuple[int, ...]]
    canary: Canary | None = None


class Listener(Protocol):
    """One bind address. Owns its sockets; only `close` closes them."""

    #: With the real port, where the configuration says 0.
    address: str
    #: What this way of switching can't promise, for `status`; empty: nothing is missing.
    limits: str

    @property
    def mode(self) -> Mode:
        """How it switches."""

    def sockets(self, slot: Slot) -> tuple[socket.socket, ...]:
        """The listening sockets of a slot, in row order (one for `RENAMED` and `SHARED`)."""

    def all_sockets(self) -> tuple[socket.socket, ...]:
        """Every socket in index order, for passing on."""

    def prepare(self, slot: Slot, generation: int) -> None:
        """Make the slot's sockets ready for a new generation, before it boots and again before the cut-over.

        UNIX: bind its permanent name. TCP: check that each row is where the program says. Raises InstarError.
        """

    def apply(self, steering: Steering) -> None:
        """Send new connections where `steering` says, atomically. Raises OSError, or ConfigError (canary)."""

    def connect_probe(self, slot: Slot, row: int, timeout: float) -> socket.socket:
        """A connection that reaches that row of that slot through the public address, before any client does.

        Raises OSError (TimeoutError included), ListenError where the mode has no such connection.
        """

    def release(self, slot: Slot) -> None:
        """The slot's generation is gone: give up what only it needed (UNIX: its permanent name)."""

    def close(self) -> None:
        """Close every socket (and remove the UNIX path)."""
