"""Which socket does an index of a reuseport group lead to? Answered by the kernel, without touching a client.

The index is the order of listen() until a socket leaves the group: then the last one takes its place. So it has to be
looked up, also while workers accept on these sockets. For a moment one listening socket demands a time to live of 2
(IP_MINTTL in ip(7), IPV6_MINHOPCOUNT), and we connect with 1: too little for any client from outside, enough for
loopback. If the drop counter of that socket rises, then the program led to it. Nothing reaches a backlog, no accept()
can get in between, and it needs no privilege (a socket filter does, on new kernels).
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import struct
import time
from collections.abc import Callable, Sequence
from typing import Final

from instar.listeners.endpoint import Endpoint
from instar.listeners.steering import ProbeMatch

#: Seconds for a packet to pass the loopback interface on a busy machine.
_PATIENCE: Final = 1.0
_SO_MEMINFO: Final = 55
#: Level and option of the least time to live that a socket accepts, and of the one it sends with.
_LEAST: Final[dict[int, tuple[int, int]]] = {
    socket.AF_INET: (socket.IPPROTO_IP, 21),
    socket.AF_INET6: (socket.IPPROTO_IPV6, 73),
}
_SENT: Final[dict[int, tuple[int, int]]] = {
    socket.AF_INET: (socket.IPPROTO_IP, socket.IP_TTL),
    socket.AF_INET6: (socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS),
}
_DROPS: Final = 8  # SK_MEMINFO_DROPS (linux/sock_diag.h)

#: Attaches the steering program that sends this probe to this index, and everybody else where they belong.
Steer = Callable[[ProbeMatch, int], None]


def leads_to(index: int, expected: socket.socket, endpoint: Endpoint, steer: Steer) -> bool:
    """Whether `index` leads to the socket `expected`."""
    return _land(index, [expected], endpoint, steer) is not None


def find(index: int, sockets: Sequence[socket.socket], endpoint: Endpoint, steer: Steer) -> int | None:
    """The position in `sockets` of the one that `index` leads to; None: it is none of these."""
    return _land(index, sockets, endpoint, steer)


def available(sock: socket.socket) -> None:
    """Try on a socket that nobody uses what this module needs. Raises OSError."""
    _demand(sock, socket.AF_INET, 2)
    _drops(sock)


def _land(index: int, sockets: Sequence[socket.socket], endpoint: Endpoint, steer: Steer) -> int | None:
    client, target = endpoint.client_socket()
    with client, contextlib.ExitStack() as stack:
        source = client.getsockname()
        client.setsockopt(*_SENT[client.family], 1)
        for sock in sockets:
            stack.callback(_demand, sock, client.family, 0)
            _demand(sock, client.family, 2)
        steer(ProbeMatch(source[0], source[1]), index)
        before = [_drops(sock) for sock in sockets]
        code = client.connect_ex(target)
        if code not in (0, errno.EINPROGRESS):
            raise OSError(code, os.strerror(code))
        return _await_drop(client, sockets, before)


def _await_drop(client: socket.socket, sockets: Sequence[socket.socket], before: list[int]) -> int | None:
    poller = select.poll()
    poller.register(client, select.POLLOUT)
    deadline = time.monotonic() + _PATIENCE
    while True:
        risen = [position for position, sock in enumerate(sockets) if _drops(sock) != before[position]]
        # Connected or refused: the packet reached a socket that does not drop it, so one of the others.
        if poller.poll(0):
            return None
        if risen:
            return risen[0]
        if time.monotonic() > deadline:
            return None
        time.sleep(0.001)


def _demand(sock: socket.socket, family: int, time_to_live: int) -> None:
    # A connection made meanwhile inherits it, which only matters to a client 63 routers away.
    level, option = _LEAST[family]
    sock.setsockopt(level, option, time_to_live)


def _drops(sock: socket.socket) -> int:
    info = sock.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, 9 * 4)
    return int(struct.unpack("=9I", info)[_DROPS])
