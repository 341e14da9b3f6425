"""The zerg protocol of uWSGI: whoever connects to the pool's socket gets its listening sockets, and is hung up on.

The pool answers each connection with one message, `uwsgi-zerg` and the number of descriptors as a native int, which
ride along (SCM_RIGHTS); nothing is ever asked, and the pool does not learn who attached (uWSGI core/socket.c, io.c).
"""

from __future__ import annotations

import array
import errno
import os
import socket
import struct
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from instar.errors import InstarError
from instar.system import unix_address
from instar.system.notify import MAX_FDS, close_all

_MAGIC: Final = b"uwsgi-zerg"
_COUNT: Final = struct.Struct("=i")
_LENGTH: Final = len(_MAGIC) + _COUNT.size
#: What the real client has room for at first; both ask again with more.
_FIRST_ROOM: Final = 8
#: Seconds between two tries to reach a pool that is still starting.
_PAUSE: Final = 0.1


class ZergError(InstarError):
    """A pool can't be attached to."""


def hand_out(connection: socket.socket, sockets: Sequence[socket.socket]) -> None:
    """Answer a zergling. Raises OSError when it has gone."""
    fds = array.array("i", [sock.fileno() for sock in sockets])
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)] if fds else []
    connection.sendmsg([_MAGIC + _COUNT.pack(len(fds))], rights, socket.MSG_NOSIGNAL)


def attach(path: Path, *, timeout: float = 30.0, wait: float = 0.0) -> list[socket.socket]:
    """The listening sockets of the pool at `path`, which the caller owns. Blocks.

    A pool that does not exist yet or any more is waited for, `wait` seconds; it may take `timeout` seconds to answer.
    Nobody may set the sockets to blocking: O_NONBLOCK belongs to all holders. Raises ZergError.
    """
    end, room = time.monotonic() + wait, _FIRST_ROOM
    while True:
        try:
            count, fds = _ask(path, room, timeout)
        except OSError as error:
            absent = error.errno in (errno.ENOENT, errno.ECONNREFUSED)
            if absent and time.monotonic() < end:
                time.sleep(_PAUSE)
                continue
            raise _error(path, error) from error
        if count == len(fds):
            return _sockets(path, fds)
        close_all(fds)
        if room >= count:
            raise ZergError(f"cannot attach to the zerg pool {path}: it sent {len(fds)} of {count} sockets")
        room = count


def _ask(path: Path, room: int, timeout: float) -> tuple[int, list[int]]:
    """The number of sockets that the pool has, and those that came: with too little room there are fewer."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(timeout)
        with unix_address(path) as address:
            client.connect(address)
        # The flags of recvmsg() must ask for it: Python doesn't set close-on-exec on what comes this way.
        data, ancillary, _, _ = client.recvmsg(_LENGTH, socket.CMSG_SPACE(room * 4), socket.MSG_CMSG_CLOEXEC)
    fds = array.array("i")
    for level, kind, payload in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds.frombytes(payload[: len(payload) - len(payload) % fds.itemsize])
    if len(data) != _LENGTH or not data.startswith(_MAGIC):
        close_all(fds)
        raise ZergError(f"cannot attach to the zerg pool {path}: it is none; it answered {data[:16]!r}")
    (count,) = _COUNT.unpack(data[len(_MAGIC) :])
    if not 0 < count <= MAX_FDS:
        close_all(fds)
        raise ZergError(f"cannot attach to the zerg pool {path}: it has {count} sockets")
    return count, fds.tolist()


def _sockets(path: Path, fds: Sequence[int]) -> list[socket.socket]:
    sockets: list[socket.socket] = []
    try:
        for fd in fds:
            sockets.append(socket.socket(fileno=fd))
            if not sockets[-1].getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                raise ZergError(f"cannot attach to the zerg pool {path}: one of its sockets does not listen")
    except BaseException as error:
        for sock in sockets:
            sock.close()
        close_all(fds[len(sockets) :])
        if isinstance(error, OSError):
            raise _error(path, error) from error
        raise
    return sockets


def _error(path: Path, error: OSError) -> ZergError:
    if isinstance(error, TimeoutError):
        why = "it does not answer"
    elif error.errno == errno.ENOENT:
        why = "no such socket; start the pool first"
    elif error.errno == errno.ECONNREFUSED:
        why = "its pool has ended; start it again"
    elif error.errno == errno.EPROTOTYPE:
        why = "the socket is of another kind"
    else:
        why = error.strerror or os.strerror(error.errno or 0)
    return ZergError(f"cannot attach to the zerg pool {path}: {why}")
