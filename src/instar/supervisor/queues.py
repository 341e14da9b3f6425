"""The message queues of the handlers: one for each pool and one for each name."""

from __future__ import annotations

import contextlib
import dataclasses
import socket
import struct
from collections.abc import Iterable

from instar.errors import InstarError
from instar.handlers.messages import QueueSpec

#: Bytes of kernel memory that a queue may take; the kernel doubles the figure (socket(7), SO_SNDBUF). A message of a
#: few bytes takes 768, so this is room for some 2700 of them.
DEFAULT_SIZE = 1 << 20

#: include/uapi/asm-generic/socket.h, linux/sock_diag.h: nine 32-bit figures, of which these two are of use.
_SO_MEMINFO = 55
_MEMINFO = struct.Struct("=9I")
_WRITE_USED, _WRITE_LIMIT = 2, 3
_SO_SNDBUFFORCE = 32


@dataclasses.dataclass(frozen=True)
class QueueDepth:
    """How full a queue is: kernel memory in bytes. A message is refused while `bytes >= limit`."""

    name: str
    bytes: int
    limit: int


class Queues:
    """Owner of the socket pairs; every zygote gets both ends of each, so what is queued outlives the supervisor."""

    def __init__(self, size: int = DEFAULT_SIZE) -> None:
        self._size = size
        self._pairs: dict[str, tuple[socket.socket, socket.socket]] = {}

    def ensure(self, names: Iterable[str]) -> None:
        """Create the queues that are missing. All others stay, with what is in them. Raises InstarError."""
        for name in names:
            if name not in self._pairs:
                self._pairs[name] = self._create(name)

    def _create(self, name: str) -> tuple[socket.socket, socket.socket]:
        try:
            send, receive = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        except OSError as error:
            raise InstarError(f"cannot create the message queue of {name}: {error.strerror}") from error
        # Without the privilege the kernel caps the size at net.core.wmem_max.
        try:
            send.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, self._size)
        except OSError:
            send.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, self._size)
        return send, receive

    def adopt(self, specs: Iterable[QueueSpec]) -> None:
        """Become the owner of descriptors that a zygote kept over a supervisor's death. Those known already close."""
        for spec in specs:
            pair = (socket.socket(fileno=spec.send_fd), socket.socket(fileno=spec.receive_fd))
            if spec.name in self._pairs:
                _close(pair)
            else:
                self._pairs[spec.name] = pair

    def drop(self, names: Iterable[str]) -> list[str]:
        """Close queues that no configuration names any more; returns those that still had messages."""
        full = [depth.name for depth in self.depths() if depth.bytes]
        dropped = [name for name in names if name in self._pairs]
        for name in dropped:
            _close(self._pairs.pop(name))
        return [name for name in dropped if name in full]

    def specs(self) -> tuple[QueueSpec, ...]:
        """What a zygote is told."""
        return tuple(QueueSpec(name, send.fileno(), receive.fileno()) for name, (send, receive) in self._pairs.items())

    def fds(self) -> list[int]:
        """Every descriptor, to be passed to a zygote."""
        return [fd for spec in self.specs() for fd in (spec.send_fd, spec.receive_fd)]

    def depths(self) -> list[QueueDepth]:
        """How full each queue is, in the order of creation."""
        return [_depth(name, send) for name, (send, _) in self._pairs.items()]

    def close(self) -> None:
        """Close all. What is queued stays as long as a zygote holds the ends."""
        for pair in self._pairs.values():
            _close(pair)
        self._pairs.clear()


def _depth(name: str, send: socket.socket) -> QueueDepth:
    # Not SIOCINQ, which tells of a datagram socket's first message only. What waits is charged to the sending end.
    with contextlib.suppress(OSError):
        figures = _MEMINFO.unpack(send.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, _MEMINFO.size))
        return QueueDepth(name, figures[_WRITE_USED], figures[_WRITE_LIMIT])
    return QueueDepth(name, 0, send.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF))


def _close(pair: tuple[socket.socket, socket.socket]) -> None:
    for sock in pair:
        sock.close()
