"""The side socket of a zerg pool: what the zerg protocol can't say, between a pool and zerglings that are both ours.

It stands beside the zerg socket (`pool.sock.instar`) and speaks packets of JSON. A zergling says hello; the answer
carries the sockets that speak HTTP, which foreign zerglings must never get. Then the connection stays: it tells that
the zergling lives, and the zergling tells whether it serves, and which sockets (by inode). Fields are only ever added;
unknown ones are ignored.

A zergling whose pool was restarted greets it with the sockets that it got from its predecessor, in case that the new
one could not have them back from its supervisor.
"""

from __future__ import annotations

import array
import contextlib
import json
import os
import socket
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Literal

from instar.system.notify import MAX_FDS, close_all

#: What a zergling does with new connections. The pool's router is off while one serves its socket.
State = Literal["starting", "serving", "leaving"]
#: What is spoken on a socket.
Protocol = Literal["uwsgi", "http"]

MAX_MESSAGE: Final = 64 * 1024
_CREDENTIALS: Final = struct.Struct("iII")


def side_path(pool: Path) -> Path:
    """Where a pool's side socket is."""
    return pool.with_name(f"{pool.name}.instar")


def send(sock: socket.socket, message: dict[str, Any], sockets: Sequence[socket.socket] = ()) -> None:
    """Send a packet. Raises OSError."""
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [item.fileno() for item in sockets]))]
    sock.sendmsg([json.dumps(message).encode()], rights if sockets else [], socket.MSG_NOSIGNAL)


def receive(sock: socket.socket) -> tuple[dict[str, Any], list[socket.socket]] | None:
    """The next packet, with sockets that the caller owns; None at the end of the connection, or of its sense.

    Raises BlockingIOError.
    """
    try:
        data, ancillary, flags, _ = sock.recvmsg(MAX_MESSAGE, socket.CMSG_SPACE(MAX_FDS * 4), socket.MSG_CMSG_CLOEXEC)
    except BlockingIOError:
        raise
    except OSError:
        return None
    fds = array.array("i")
    for level, kind, payload in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds.frombytes(payload[: len(payload) - len(payload) % fds.itemsize])
    message = _parse(data)
    if message is None or flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
        close_all(fds)
        return None
    return message, _sockets(fds.tolist())


def identity(sock: socket.socket) -> int:
    """Inode of a socket: the same for every process that holds it."""
    return os.fstat(sock.fileno()).st_ino


def peer(sock: socket.socket) -> tuple[int, int]:
    """Pid and uid of the process that connected."""
    pid, uid, _ = _CREDENTIALS.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    return pid, uid


def _parse(data: bytes) -> dict[str, Any] | None:
    with contextlib.suppress(ValueError):
        message = json.loads(data)
        if isinstance(message, dict):
            return message
    return None


def _sockets(fds: Sequence[int]) -> list[socket.socket]:
    """What came, as sockets; what is none is closed."""
    sockets = []
    for fd in fds:
        try:
            sockets.append(socket.socket(fileno=fd))
        except OSError:
            close_all([fd])
    return sockets
