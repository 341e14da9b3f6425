"""Looks at the sockets of this very process, without disturbing the server that owns them."""

from __future__ import annotations

import _socket
import contextlib
import os
import socket
import stat
from collections.abc import Iterable, Iterator
from typing import Any, Protocol

#: State in the first byte of TCP_INFO (tcp(7), include/net/tcp_states.h).
_TCP_ESTABLISHED = 1
_UNIX, _INTERNET = int(socket.AF_UNIX), (int(socket.AF_INET), int(socket.AF_INET6))
_ANY = ("0.0.0.0", "::")  # noqa: S104  # compared, not bound


#: Inodes of the private sockets that `quiesce` put in place of listening sockets, …
private_inodes: set[int] = set()
#: … and by descriptor the address of what was there before.
original_names: dict[int, tuple[int, Any]] = {}


class HasDescriptor(Protocol):
    """For example `instar.engines.base.ListenSocket`."""

    @property
    def fd(self) -> int:
        """The descriptor."""


Listening = socket.socket | HasDescriptor | int


def descriptor(item: Listening) -> int:
    """The descriptor of a listening socket, however it is given."""
    if isinstance(item, int):
        return item
    return item.fileno() if isinstance(item, socket.socket) else item.fd


def own_sockets() -> Iterator[tuple[int, int]]:
    """(descriptor, inode) of each socket of this process; the inode tells which descriptors share one."""
    for name in os.listdir("/proc/self/fd"):
        fd = int(name)
        # It may be closed meanwhile: the server does not wait for us.
        with contextlib.suppress(OSError):
            status = os.fstat(fd)
            if stat.S_ISSOCK(status.st_mode):
                yield fd, status.st_ino


@contextlib.contextmanager
def borrowed(fd: int) -> Iterator[socket.socket]:
    """A socket object on somebody else's descriptor, which it never closes. Raises OSError if it is none."""
    sock = socket.socket(fileno=fd)
    try:
        yield sock
    finally:
        sock.detach()


def local_name(fd: int) -> tuple[int, Any]:
    """Family and local address of a listening socket; those of the original, if `quiesce` replaced it."""
    if fd in original_names and os.fstat(fd).st_ino in private_inodes:
        return original_names[fd]
    with borrowed(fd) as sock:
        return sock.family, sock.getsockname()


class LocalAddresses:
    """The addresses of some listening sockets, as they are or were before `quiesce`."""

    def __init__(self, sockets: Iterable[Listening]) -> None:
        self._tcp: set[tuple[str, int]] = set()
        self._wildcards: set[int] = set()
        self._unix: set[str | bytes] = set()
        for item in sockets:
            family, name = local_name(descriptor(item))
            if family == socket.AF_UNIX:
                self._unix.add(name)
            elif name[0] in _ANY:
                self._wildcards.add(name[1])
            else:
                self._tcp.add((name[0], name[1]))

    def established(self, fd: int) -> bool:
        """Whether a descriptor is a client connection to one of the addresses that is still open on both sides."""
        try:
            # The class below `socket.socket`, told what it would ask the kernel for: a third of the time.
            sock = _socket.socket(-1, socket.SOCK_STREAM, 0, fd)
        except OSError:
            return False
        try:
            return self._is_ours(sock)
        except OSError:
            return False
        finally:
            sock.detach()

    def _is_ours(self, sock: _socket.socket) -> bool:
        family = sock.family
        if family == _UNIX:
            return bool(self._unix) and sock.getsockname() in self._unix and not _listens(sock)
        if family not in _INTERNET:
            return False
        name = sock.getsockname()
        if name[1] not in self._wildcards and (name[0], name[1]) not in self._tcp:
            return False
        # A datagram socket has no TCP_INFO: OSError.
        return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == _TCP_ESTABLISHED


def _listens(sock: _socket.socket) -> bool:
    return bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
