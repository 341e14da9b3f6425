"""Make a server stop accepting, without its help and without losing a connection.

Every descriptor of this process that refers to a listening socket is replaced (dup2 is atomic) by a private
listening socket that nobody can connect to. The server goes on accepting from an empty queue; the real queue
is served by the other processes that hold the socket.

One thing needs care: an epoll set remembers the old socket, not the descriptor's number, as long as another
process keeps that socket open. The server would be woken for each connection it can no longer accept. So each
registration is moved to the private socket, with the events and the data that the server had given
(proc_pid_fdinfo(5)).
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import os
import re
import socket
import stat
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from instar.runtime.sockets import (
    Listening,
    descriptor,
    local_name,
    original_names,
    own_sockets,
    private_inodes,
)

_EPOLL_CTL_ADD = 1
_EPOLL_CTL_DEL = 2
_TARGET = re.compile(rb"^tfd:\s*(\d+)\s+events:\s*([0-9a-f]+)\s+data:\s*([0-9a-f]+)", re.MULTILINE)


class _EpollEvent(ctypes.Structure):
    """struct epoll_event (epoll_event(3type)); packed on x86-64 only."""

    _fields_ = [("events", ctypes.c_uint32), ("data", ctypes.c_uint64)]
    if os.uname().machine == "x86_64":
        _pack_ = 1
        _layout_ = "ms"


_libc = ctypes.CDLL(None, use_errno=True)


@dataclasses.dataclass(frozen=True)
class _Registration:
    epoll: int
    fd: int
    events: int
    data: int


def quiesce(sockets: Iterable[Listening]) -> int:
    """Stop accepting on these listening sockets in this process; the number of descriptors replaced.

    Other holders of the sockets are not affected. Calling it again does nothing. The caller's own objects
    refer to the private socket afterwards.
    """
    inodes = set()
    for sock in sockets:
        status = os.fstat(descriptor(sock))
        if stat.S_ISSOCK(status.st_mode):
            inodes.add(status.st_ino)
    targets = {fd for fd, inode in own_sockets() if inode in inodes - private_inodes}
    if not targets:
        return 0
    registrations = [item for item in _registrations() if item.fd in targets]
    with _private_listener() as private:
        for item in registrations:
            _epoll_ctl(_EPOLL_CTL_DEL, item)
        for fd in targets:
            original_names[fd] = local_name(fd)
            os.dup2(private.fileno(), fd, inheritable=os.get_inheritable(fd))
        for item in registrations:
            _epoll_ctl(_EPOLL_CTL_ADD, item)
    return len(targets)


@contextlib.contextmanager
def _private_listener() -> Iterator[socket.socket]:
    """A listening socket without a name: its path is gone before anybody could connect."""
    with tempfile.TemporaryDirectory(prefix="instar-") as folder, socket.socket(socket.AF_UNIX) as sock:
        sock.setblocking(False)
        sock.bind(f"{folder}/none")
        Path(folder, "none").unlink()
        sock.listen(1)
        private_inodes.add(os.fstat(sock.fileno()).st_ino)
        yield sock


def _registrations() -> Iterator[_Registration]:
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            if str(Path("/proc/self/fd", name).readlink()) != "anon_inode:[eventpoll]":
                continue
            with open(f"/proc/self/fdinfo/{name}", "rb") as info:
                for fd, events, data in _TARGET.findall(info.read()):
                    yield _Registration(int(name), int(fd), int(events, 16), int(data, 16))


def _epoll_ctl(operation: int, item: _Registration) -> None:
    # Failing is harmless: the server removed it meanwhile, or another descriptor of the same set did.
    event = _EpollEvent(item.events, item.data)
    _libc.epoll_ctl(item.epoll, operation, item.fd, ctypes.byref(event))
