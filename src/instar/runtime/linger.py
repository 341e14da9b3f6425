"""Lingering close, for servers that have none.

A server that closes a connection while bytes of its client are still on their way makes the kernel answer
with RST, and the client loses what it had not read yet (two HTTP/2 streams for each connection, measured).
So the worker holds a second descriptor of each connection while the server shuts down, and reads to the
client's end of file afterwards (RFC 9112 section 9.6 asks for the same).
"""

from __future__ import annotations

import _thread
import contextlib
import os
import select
import socket
import time
from collections.abc import Iterable

from instar.runtime.sockets import Listening, LocalAddresses, own_sockets

#: Seconds between two looks at which connections the server has closed.
_LOOK = 0.05


class Linger:
    """Holds the client connections of this process. `hold` may be called from a signal handler."""

    def __init__(self, sockets: Iterable[Listening]) -> None:
        self._addresses = LocalAddresses(sockets)
        #: By inode. We own these descriptors.
        self._held: dict[int, socket.socket] = {}
        self._ended: set[int] = set()
        self._watching = False
        self._released = False
        # Not reentrant by purpose: a second signal meanwhile has nothing to add.
        self._lock = _thread.allocate_lock()

    def hold(self) -> None:
        """Take a second descriptor of each open client connection."""
        if not self._lock.acquire(blocking=False):
            return
        try:
            for fd, inode in own_sockets():
                if inode not in self._held and self._addresses.established(fd):
                    with contextlib.suppress(OSError):
                        self._held[inode] = socket.socket(fileno=os.dup(fd))
        finally:
            self._lock.release()
        if self._held and not self._watching:
            self._watching = True
            # Not `threading`: a signal handler may have interrupted code that holds one of its locks.
            _thread.start_new_thread(self._watch, ())

    def _watch(self) -> None:
        """Pass the server's close on: while we hold a descriptor, the kernel would not send its FIN."""
        while not self._released:
            time.sleep(_LOOK)
            with self._lock:
                if not self._released:
                    self._pass_on()

    def _pass_on(self) -> None:
        holders: dict[int, int] = {}
        for _, inode in own_sockets():
            holders[inode] = holders.get(inode, 0) + 1
        for inode, sock in self._held.items():
            if inode not in self._ended and holders.get(inode, 0) < 2:
                self._ended.add(inode)
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_WR)

    def release(self, limit: float = 1.0) -> None:
        """After the server has returned: end each connection, read to its end of file, at most `limit` seconds."""
        self._released = True
        with self._lock:
            held, self._held = self._held, {}
        poll = select.poll()
        by_fd = {sock.fileno(): sock for sock in held.values()}
        for fd, sock in by_fd.items():
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_WR)
            poll.register(fd, select.POLLIN)
        end = time.monotonic() + limit
        while by_fd and (left := end - time.monotonic()) > 0:
            for fd, _ in poll.poll(left * 1000):
                if _at_end(by_fd[fd]):
                    poll.unregister(fd)
                    by_fd.pop(fd).close()
        for sock in by_fd.values():
            sock.close()


def _at_end(sock: socket.socket) -> bool:
    try:
        return not sock.recv(65536, socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False
    except OSError:
        return True
