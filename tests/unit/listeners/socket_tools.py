"""Clients and backlogs for the listener tests."""

from __future__ import annotations

import contextlib
import ipaddress
import math
import socket
import struct
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from instar.listeners import SteeredListener
from instar.listeners.bpf import Program, attach

RESET = struct.pack("ii", 1, 0)


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6 loopback")
#: Bind address, and the address a client uses.
ADDRESSES = [
    pytest.param("127.0.0.1:0", "127.0.0.1", id="v4"),
    pytest.param("0.0.0.0:0", "127.0.0.1", id="v4-any"),
    pytest.param("[::1]:0", "::1", id="v6", marks=needs_ipv6),
    pytest.param("[::]:0", "::1", id="dual-v6", marks=needs_ipv6),
    pytest.param("[::]:0", "127.0.0.1", id="dual-v4", marks=needs_ipv6),
]


@contextlib.contextmanager
def listening(address: str = "127.0.0.1:0", *, rows: int = 2, backlog: int = 1024) -> Iterator[SteeredListener]:
    listener = SteeredListener.open(address, rows=rows, backlog=backlog)
    try:
        yield listener
    finally:
        listener.close()


def port_of(listener: SteeredListener) -> int:
    return int(listener.all_sockets()[0].getsockname()[1])


def use(listener: SteeredListener, program: Program) -> None:
    attach(listener.all_sockets()[0], program)


class Clients:
    """Open connections; leaving the block resets them."""

    def __init__(self) -> None:
        self.sockets: list[socket.socket] = []

    def __enter__(self) -> Clients:
        return self

    def __exit__(self, *_: object) -> None:
        for sock in self.sockets:
            sock.close()

    def reserve(self, host: str, *, source_port: int = 0, options: bytes = b"") -> socket.socket:
        """A socket bound to a source address and port, which nobody else on this machine can take meanwhile."""
        sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
        self.sockets.append(sock)
        sock.settimeout(10)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        if options:
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_OPTIONS, options)
        sock.bind((host, source_port))
        return sock

    def connect(self, host: str, port: int, **source: Any) -> tuple[str, int]:
        """Connect from `reserve(source or host)`; returns the source address and port."""
        sock = self.reserve(source.pop("source", None) or host, **source)
        sock.connect((host, port))
        return sock.getsockname()[:2]


def arrivals(sockets: Sequence[socket.socket], clients: Sequence[tuple[str, int]]) -> dict[tuple[str, int], int]:
    """Accept until each client is found; returns the position of the socket each one reached."""
    found: dict[tuple[str, int], int] = {}
    deadline = time.monotonic() + 10
    while not set(clients) <= set(found):
        assert time.monotonic() < deadline, f"{len(set(clients) - set(found))} connections did not arrive"
        for position, sock in enumerate(sockets):
            with contextlib.suppress(BlockingIOError):
                while True:
                    accepted, peer = sock.accept()
                    accepted.close()
                    found[_plain(peer)] = position
    return found


def count_arrivals(
    listener: SteeredListener,
    host: str,
    count: int,
    *,
    source: str | None = None,
    sockets: Sequence[socket.socket] = (),
) -> Counter[int]:
    """How many of `count` new connections reach each socket."""
    with Clients() as clients:
        peers = [clients.connect(host, port_of(listener), source=source) for _ in range(count)]
        return Counter(arrivals(sockets or listener.all_sockets(), peers).values())


def _plain(peer: tuple[str, int]) -> tuple[str, int]:
    address = ipaddress.ip_address(peer[0])
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address), peer[1]


def bounds(trials: int, probability: float, alarm: float = 1e-10) -> tuple[int, int]:
    """Counts outside of [low, high] have a probability below `alarm` on each side."""
    weights = [
        math.exp(
            math.lgamma(trials + 1)
            - math.lgamma(k + 1)
            - math.lgamma(trials - k + 1)
            + k * math.log(probability)
            + (trials - k) * math.log1p(-probability)
        )
        for k in range(trials + 1)
    ]
    low, tail = 0, weights[0]
    while tail < alarm:
        low += 1
        tail += weights[low]
    high, tail = trials, weights[trials]
    while tail < alarm:
        high -= 1
        tail += weights[high]
    return low, high


def backlog_length(sock: socket.socket) -> int:
    """Connections that wait for accept(): tcpi_unacked of a listening socket."""
    return int(struct.unpack("=8B24I", sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104))[8 + 4])
