"""Which socket does an index of a reuseport group lead to? Answered by the kernel, without touching a client.

The index is the order of listen() until a socket leaves the group: then the last one takes its place. So it has to be
looked up, also while workers accept on these sockets. A socket filter makes one listening socket drop the packets of
one source address and port, which we hold. If a connection from there raises the drop counter of that socket, then
the program led to it. Nothing reaches a backlog, and no accept() can get in between.
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

from instar.listeners.bpf import attach_filter, detach_filter
from instar.listeners.endpoint import Endpoint
from instar.listeners.steering import ProbeMatch, drop

#: Seconds for a packet to pass the loopback interface on a busy machine.
_PATIENCE: Final = 1.0
_SO_MEMINFO: Final = 55
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
    attach_filter(sock, drop(ProbeMatch("127.0.0.1", 1)))
    _drops(sock)


def _land(index: int, sockets: Sequence[socket.socket], endpoint: Endpoint, steer: Steer) -> int | None:
    client, target = endpoint.client_socket()
    with client, contextlib.ExitStack() as stack:
        source = client.getsockname()
        match = ProbeMatch(source[0], source[1])
        for sock in sockets:
            attach_filter(sock, drop(match))
            stack.callback(detach_filter, sock)
        steer(match, index)
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


def _drops(sock: socket.socket) -> int:
    info = sock.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, 9 * 4)
    return int(struct.unpack("=9I", info)[_DROPS])
